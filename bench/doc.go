// Package bench measures what Turnout costs against the bare client libraries, as ratios. Both sides run in one process
// against one broker, in short slices that alternate, and the figure is the median over pairs of neighbouring slices: on
// a shared machine an absolute number says little, and two numbers from different minutes say nothing together.
//
//	make bench PKG=./bench                        everything on the embedded servers
//	TURNOUT_TEST=servers make bench PKG=./bench   on the real servers
//	TURNOUT_TEST=all make bench PKG=./bench       on both, and one beside the other
//
// docs/benchmarks.md holds results with their commands.
package bench
