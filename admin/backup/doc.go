// Package backup keeps the metadata of a root in one file, and makes it anew in an empty ZooKeeper. It needs ZooKeeper only.
//
// # What is in it
//
// Every persistent node below the root and the shadow root, but for what is made anew by whoever runs: instances, participants,
// locks, queues, servers, and of the jobs all but their config. Ephemeral nodes are never in it. The SQL store of the platform is
// not in it either: that has backups of its own.
//
// A topic is read as a whole: its route belongs to its wish. The numbers by which a route names the wish that it answers are those of
// one ZooKeeper; the file says instead whether the wish is answered, and else that it is one ahead, or more.
//
// # What a restore does
//
// It only creates. A root that has any other topic, group, cluster or setting than the file is refused: a route of the past
// written over the present one would forget where messages may be unread. What is there and the same is left, so a restore that was
// interrupted is done again.
//
// The node that says which ZooKeeper this is (protocol R1) comes last, in one step: it names the one in the file as its predecessor.
// Applications that run keep what they know until then and take everything from here from then on, whatever the numbers of
// the changes are. They look after Config.Recheck (60 s) at the latest.
package backup
