// Package manifest is the document of turnout apply: the clusters, topics and groups that somebody wants the platform to have, in
// YAML. It reads it, writes it, and compares it with what the platform has. It files nothing itself: what has to be done comes out as
// requests, one for each thing.
//
// # Why the client does it
//
// A document is compared, filed and approved by the command, thing by thing, with the calls that everybody uses. So every
// request is checked, decided and audited by the same rules as one that was filed by hand; an approval names the version that was
// shown; ten thousand of them are no call that lasts minutes and can not be interrupted; and whoever interrupts it says the command
// again, because a request that waits for the same thing is recognized. What the server adds is the name of the batch, by which the requests
// of a document are found together.
//
// # What is compared
//
// Fields that the document gives, and no others: what it leaves out stays as it is, and has its default in what is created. Nothing is
// deleted unless that is asked for ([Document.Compare]), and then only things of applications that the document names.
package manifest
