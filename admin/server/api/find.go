package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Server is how a server announces itself. Node: {root}/admin/servers/{id}, ephemeral.
type Server struct {
	V      int    `json:"v"`
	URL    string `json:"url"`
	Leader bool   `json:"leader"` // it runs the migrations
	Load   int64  `json:"load"`   // requests that were under way a moment ago
	// NoLogin: everybody who reaches it may do everything.
	NoLogin bool `json:"noLogin,omitempty"`
}

// Platform says that a platform manages a root. Node: {root}/admin/platform, persistent.
type Platform struct {
	V int `json:"v"`
	// ID is in the platform's store too.
	ID string `json:"id"`
}

// Version is the version of the documents in ZooKeeper.
const Version = 1

// ServersPath is the parent of all servers.
func ServersPath(l metadata.Layout) string { return l.Root + "/admin/servers" }

// PlatformPath is the node that says that a platform manages this root.
func PlatformPath(l metadata.Layout) string { return l.Root + "/admin/platform" }

// Managed says whether a platform manages the root.
func Managed(ctx context.Context, s *metadata.Store) (bool, error) {
	n, err := s.Read(ctx, PlatformPath(s.Layout))
	return n.Exists, err
}

// Find returns the URLs of the servers that are registered, those that have little to do in front, else in any order, so that they
// take turns. ErrNotFound: there is none.
func Find(ctx context.Context, s *metadata.Store) ([]string, error) {
	servers, err := Servers(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("%w: no server of the platform is registered under %s: start one with turnout serve, or name one with --server", errs.ErrNotFound, ServersPath(s.Layout))
	}
	urls := make([]string, len(servers))
	for i, s := range servers {
		urls[i] = s.URL
	}
	return urls, nil
}

// Servers returns those that are registered, in the order of Find.
func Servers(ctx context.Context, s *metadata.Store) ([]Server, error) {
	dir := ServersPath(s.Layout)
	ids, err := s.Children(ctx, dir)
	if err != nil && !errors.Is(err, errs.ErrNotFound) {
		return nil, err
	}
	var servers []Server
	for _, id := range ids {
		n, err := s.Read(ctx, dir+"/"+id)
		if err != nil {
			return nil, err
		}
		var doc Server
		if !n.Exists || json.Unmarshal(n.Data, &doc) != nil || doc.V != Version || CheckURL(doc.URL) != nil {
			continue
		}
		servers = append(servers, doc)
	}
	rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	slices.SortStableFunc(servers, func(a, b Server) int { return cmp.Compare(a.Load, b.Load) })
	return servers, nil
}

// CheckURL is ErrInvalid when text is no URL of a server.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%w: URL of a server: must be like http://10.0.0.7:7070 or https://turnout.example.com, without user and password", errs.ErrInvalid)
	}
	return nil
}

// CheckToken is ErrInvalid when token can not be sent in a header. It does not name it.
func CheckToken(token string) error {
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%w: token (not shown): must be one word of printable ASCII characters", errs.ErrInvalid)
	}
	return nil
}
