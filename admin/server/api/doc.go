// Package api is what a server of the platform and its clients have in common: the documents and errors of the HTTP API, how
// servers are found in ZooKeeper, and a client. All calls are in docs/openapi.yaml, which is made of the server's code.
//
// A request that fails is answered with a status of 400 or more and a problem document ([Error]). Beside /api/v1/ a server answers
// GET /healthz (200 while the process serves) and GET /readyz (200 when store and ZooKeeper answer, else 503).
//
// The client sends an [KeyHeader] with what changes something, so that it may ask another server when one does not answer: whatever
// has become of the first try, it happens once.
package api
