// Package migrate moves topics between clusters and proves it.
//
// A migration is a row in the store (package store), and a Controller takes it from state to state. The applications know
// nothing of that: they converge to the newest route and say in their participant node which one they have applied. The
// rules are those of the protocol (R1 … R33 in docs/protocol.md); each step names the ones that it carries out.
//
//	unordered   planned → preparing → switching → sealing → draining → closing → done
//	ordered     planned → preparing → holding → fencing → switching → draining → closing → done
//	way back    preparing, holding, fencing → reverting → done
//	            unordered, later: preparing again with the clusters exchanged
//	            ordered, later: the drain is finished, then preparing again with the clusters exchanged
//
// Every step may be repeated: it looks at the world, does what is missing, and stores the next state only when all of it
// was seen. So a controller that takes over goes on from the stored state, and one that was deposed in the middle of a
// step does no harm: its writes to the store and to ZooKeeper carry the version that it has read (R2), and what it does
// late to a broker is put right by whoever leads, because the wanted fence of every cluster is stored and asserted again and
// again (R8).
package migrate
