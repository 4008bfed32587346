// Package people knows who may do what on the platform: users with roles, API tokens, sessions, owners of applications. It
// has no HTTP calls; the middleware that recognizes who asks is [Web].
//
// # Users
//
// A user has one [Role], and a password once there is one: whoever is invited sets it with a one-time token, which an
// administrator hands over. The first start makes such a token for the first administrator ([Service.Bootstrap]); there is no
// default password. Users are disabled and never deleted, because the audit names them. The last administrator who can log
// in can not be disabled or demoted.
//
// Passwords are stored as argon2id with their parameters, so that these can be raised: whoever logs in then gets the new
// ones. A password has at least 12 characters without the name in it. The secrets of tokens and sessions are random (more
// than 220 bits), so of these a SHA-256 is stored. No error, log line or audit holds a secret or a hash.
//
// # Principals
//
// A request is made by a [Principal], recognized by a session or by a token. All methods of [Service] that act for somebody
// take it and check it, and write it into the audit as the actor. A token may do what its scopes and the role of its owner
// both allow, at the moment of the request. A session is needed to make tokens and to change the password: who has
// got hold of a token can not make it last.
//
// # Limits
//
// Attempts to log in are counted per address (IPv6: per /64) and per name, in the store, for all servers together; one that
// succeeds is not counted. What is refused because of it is not compared with any password. One address alone can not
// use up what a name has, so it can not lock anybody out; many addresses together can, for as long as they try. Failed
// attempts are logged and not audited: the audit is never cleaned, and anybody can make attempts.
//
// Sessions end when they were not used for a while, and at the latest after their full time; a login ends the session that
// it came with, a change of the password ends all of the user, and so does disabling, which revokes the tokens too.
//
// # Errors
//
// [ErrUnauthenticated] (HTTP 401) and [LimitError] (429), both of them ErrNotAllowed too; ErrNotAllowed (403), ErrInvalid
// (an argument, named in the text), ErrNotFound, ErrConflict (of package internal/errs) and those of admin/store. All methods
// may be called concurrently and end with ctx.
package people
