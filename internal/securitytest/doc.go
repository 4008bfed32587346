// Package securitytest holds the tests of everything secured at once: TLS, logins, permissions and the ACLs of nodes, through
// the SDK and the controller, on servers that refuse strangers. docs/security.md says what it proves.
package securitytest
