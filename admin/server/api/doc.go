// Package api is what a server of the platform and its clients have in common: the documents and errors of the HTTP API, how
// servers are found in ZooKeeper, and a client. Everything is JSON.
//
//	GET  /api/v1/migrations?topic=T&open=true&limit=N   []store.Migration, the newest first
//	POST /api/v1/migrations/plan                        Request → migrate.Plan with what the preflight found; changes nothing
//	POST /api/v1/migrations                             Request → store.Migration, 201
//	GET  /api/v1/migrations/{id}                        store.Migration
//	GET  /api/v1/migrations/{id}/events?after=N&wait=10s  Events: those after number N; with wait, as soon as there is one
//	GET  /api/v1/migrations/{id}/live                   migrate.Live: what it looks like now
//	GET  /api/v1/migrations/{id}/receipt                migrate.Receipt, 404 before it has ended
//	POST /api/v1/migrations/{id}/rollback               Ask → store.Migration
//	POST /api/v1/migrations/{id}/abort                  Ask → store.Migration
//	POST /api/v1/migrations/{id}/pause                  Ask → store.Migration
//	POST /api/v1/migrations/{id}/resume                 Ask → store.Migration
//	GET  /healthz                                       200 while the process serves
//	GET  /readyz                                        200 when store and ZooKeeper answer, else 503
//
// A request that fails is answered with a status of 400 or more and {"error":{"code","message","findings"}} ([Error]). A
// server with a token wants "Authorization: Bearer TOKEN" for everything below /api/.
package api
