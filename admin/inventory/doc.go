// Package inventory tells what topics, groups and clusters there are: what ZooKeeper has of them and, where there is a
// platform, what its catalog has. The command line and the HTTP API show the same types.
//
// Reads are of ZooKeeper as it is; call metadata.Store.Sync before, where what was written elsewhere must be seen. Errors are
// those of the metadata and of the store; documents that nobody can read are no error but say so themselves. Everything may be
// called concurrently, and ends with ctx.
package inventory
