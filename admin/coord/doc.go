// Package coord is how the servers of the platform share work over ZooKeeper: a leader per job, who takes part in it, fair
// locks, and queues. The tree follows ElasticJob's; n is the id of a protected node and its number.
//
//	{Root}/jobs/{job}/leader/election/latch/n_…       ephemeral   who leads (the first) and who waits
//	{Root}/jobs/{job}/leader/election/instance        ephemeral   id of the instance that leads, for people and tools
//	{Root}/jobs/{job}/instances/{ip@-@pid@-@n}        ephemeral   who takes part
//	{Root}/jobs/{job}/servers/{ip}                    persistent  the machines that ever did
//	{Root}/locks/{name}/n_…                           ephemeral   who holds (the first) and who waits
//	{Root}/queue/{topic}                              {"done":["…"]}   ids of the last items that were handled
//	{Root}/queue/{topic}/item-…                       persistent  the items
//	{Root}/queue/{topic}/consumer/n_…                 ephemeral   who handles them (the first) and who waits
//
// # Holding
//
// A lock, the lead and the right to handle a queue are one thing, Held: the first of a line of ephemeral nodes, all in
// the session of the one Store that also does the holder's reads and writes. Who waits watches the node before its own and
// nothing else, so the end of one wakes one. Who loses its session while it waits goes to the end of the line.
//
// No lock over a network excludes for certain: a process can be stopped between asking and acting. Held's ctx ends early
// (half the session timeout after the last answer, while the servers wait for all of it), and what must not be done by two
// is guarded where it is done: write with the node's version, or give Held.Guard to Store.Multi, which then refuses the write of
// whoever holds no longer, even if the version would do. Held.Token grows from holder to holder.
package coord
