// Package coord is how the servers of the platform share work over ZooKeeper: a leader per job, who takes part in it, fair
// locks, queues, and work that is divided into shards. The tree follows ElasticJob's; n is the id of a protected node and its number.
//
//	{Root}/jobs/{job}/leader/election/latch/n_…       ephemeral   who leads (the first) and who waits
//	{Root}/jobs/{job}/leader/election/instance        ephemeral   id of the instance that leads, for people and tools
//	{Root}/jobs/{job}/instances/{ip@-@pid@-@n}        ephemeral   who takes part
//	{Root}/jobs/{job}/servers/{ip}                    persistent  the machines that ever did
//	{Root}/jobs/{job}/config                          {"v":1,"shards":16}
//	{Root}/jobs/{job}/leader/sharding/necessary       persistent  the shards are being divided anew: no round begins
//	{Root}/jobs/{job}/sharding                        persistent  written whenever instances have to look at what is below
//	{Root}/jobs/{job}/sharding/{i}                    {"instance":"…","of":16}   who has the shard; empty: there are fewer
//	{Root}/jobs/{job}/sharding/{i}/latch/n_…          ephemeral   who works on it (the first) and who waits
//	{Root}/jobs/{job}/sharding/{i}/running            ephemeral   id of the instance that works on it, for people and tools
//	{Root}/jobs/{job}/sharding/{i}/failover           persistent  id of the instance that does the work of one that is gone
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
//
// # Shards
//
// The leader of a Sharded job gives each shard to an instance, and an instance works on its shards round by round, each time
// as the holder of the shard's latch. When an instance comes or goes, or the count changes, the leader first says that resharding
// is necessary; then no round begins. The shards of instances that are gone are given to others at once, which do one round of each
// (failover). When that is done and every round that was under way has ended, the leader divides all shards and work goes on. A
// leader that dies in the middle leaves all of this in the tree, and the next one goes on from there.
package coord
