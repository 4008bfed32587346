// Package scene is the applications of the demo and of the fault tests: a sender and a receiver that use the SDK as any
// program would, and a controller of migrations, each in a process of its own, so that it can be stopped, killed and
// paused.
//
// Start executes the running program anew with a Spec in the environment; that program's main, or a test's TestMain,
// calls Run first:
//
//	func main() {
//		scene.Run()
//		...
//
// Both record in Dir/history what they send and handle (package history). The sender gives every message its id, so that
// also a message without an answer is known by name.
//
//	Dir/history/{Name}-*.jsonl    what it sent, handled or did
//	Dir/log/{Name}.log            what the SDK logs, in JSON, and whatever else it writes to its standard error
//	Dir/snapshot/                 the SDK's snapshots
//
// The controller records the routes of the topics that it moves, the states, fences and seals. It can be told to wait before
// a state (Spec.HoldAt), so that a fault meets that state for certain.
//
// A process tells what it uses when it is asked (Process.Status).
//
// A process ends by SIGTERM in good order, and at once when its standard input ends: that happens when the process that
// started it dies, however it dies. The package needs a Unix system.
package scene
