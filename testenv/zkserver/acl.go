package zkserver

import (
	"crypto/sha1"
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// allowed reports whether one of the identities has one of the permissions. An
// empty list allows everything.
func allowed(acl []jute.ACL, perms int32, who []jute.ID) bool {
	if len(acl) == 0 {
		return true
	}
	for _, a := range acl {
		if a.Perms&perms == 0 {
			continue
		}
		if a.ID == openACL[0].ID {
			return true
		}
		for _, id := range who {
			if id == a.ID || id.Scheme == "ip" && a.ID.Scheme == "ip" && inNetwork(id.ID, a.ID.ID) {
				return true
			}
		}
	}
	return false
}

// inNetwork reports whether an address is in a network written ADDRESS/BITS.
func inNetwork(addr, network string) bool {
	a, err := netip.ParseAddr(addr)
	p, perr := parseNetwork(network)
	return err == nil && perr == nil && p.Contains(a)
}

func parseNetwork(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}

// resolveACL checks the list that a client wants for a node and puts the
// client's identities in the place of "auth" entries.
func resolveACL(acl []jute.ACL, who []jute.ID) ([]jute.ACL, jute.Code) {
	var out []jute.ACL
	for _, a := range acl {
		switch {
		case a.ID == openACL[0].ID:
			out = append(out, a)
		case a.ID.Scheme == "auth":
			known := false
			for _, id := range who {
				if id.Scheme == "digest" {
					known = true
					out = append(out, jute.ACL{Perms: a.Perms, ID: id})
				}
			}
			if !known {
				return nil, jute.InvalidACL
			}
		case a.ID.Scheme == "digest" && strings.Count(a.ID.ID, ":") == 1 && !strings.HasSuffix(a.ID.ID, ":"):
			out = append(out, a)
		case a.ID.Scheme == "ip":
			if _, err := parseNetwork(a.ID.ID); err != nil {
				return nil, jute.InvalidACL
			}
			out = append(out, a)
		default:
			return nil, jute.InvalidACL
		}
	}
	if len(out) == 0 {
		return nil, jute.InvalidACL
	}
	var unique []jute.ACL
	for _, a := range out {
		if !slices.Contains(unique, a) {
			unique = append(unique, a)
		}
	}
	return unique, jute.OK
}

// authenticate returns the identity that a client proves with an auth request.
func authenticate(scheme string, proof []byte) (jute.ID, jute.Code) {
	if scheme != "digest" {
		return jute.ID{}, jute.AuthFailed
	}
	user, _, _ := strings.Cut(string(proof), ":")
	sum := sha1.Sum(proof)
	return jute.ID{Scheme: scheme, ID: user + ":" + base64.StdEncoding.EncodeToString(sum[:])}, jute.OK
}

// masked returns the list with the digests hidden, for those who may read the
// node but not administer it.
func masked(acl []jute.ACL) []jute.ACL {
	out := slices.Clone(acl)
	for i, a := range out {
		if user, _, ok := strings.Cut(a.ID.ID, ":"); ok && a.ID.Scheme == "digest" {
			out[i].ID.ID = user + ":x"
		}
	}
	return out
}
