// Package requests is how people change what the platform manages: they apply, somebody else approves, the platform allots a cluster
// and does it. It holds the workflow, the policies, the allotment and the execution; HTTP is not its affair.
//
// # Workflow
//
//	draft ── submit ──> submitted ── approve ──> approved ──> executing ──> done
//	                        │                        │            │
//	                        ├── decline, expire      └ withdraw   └> failed ── retry ──> executing
//	                        └── withdraw
//
// Nobody approves the own request, whatever role. A policy says for each kind whether somebody has to approve at all and when a
// request expires that nobody decides. Only who has filed a request edits it, until it is decided; every change names the
// version that it was made of, so an approver approves what was read and nothing else.
//
// # Execution
//
// Every server runs [Service.Run]. An approved request goes into the queue of its subject in ZooKeeper (coord.Queue), whose items are
// taken one by one, in order, by one server at a time. First the broker is told: what is missing is created, what exists is compared
// and never changed. Then the catalog and a row of the outbox are written in one transaction. Then ZooKeeper is written by
// compare-and-set: what is found must be what is wanted or what was there before, else the request fails and shows the
// difference. Last the request is done. Each step may be repeated; a server that dies leaves the request to the next one in the line.
// A deletion goes the other way: nobody uses it, then ZooKeeper, then the broker.
//
// What can not be repeated with success (an argument that is refused, something else that exists) makes the request fail at once.
// Anything else is tried again with growing pauses, and fails after [Config.Attempts]; [Service.Retry] begins anew.
package requests
