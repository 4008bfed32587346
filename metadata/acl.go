package metadata

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-zookeeper/zk"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
)

const digest = "digest"

// identity is who we are to ZooKeeper, and so whom the nodes that we create belong to.
type identity struct {
	known []login                  // those that the library has; it repeats them at each connection. Of the session loop
	list  atomic.Pointer[[]zk.ACL] // of new nodes
	mine  bool                     // with a login
}

func (i *identity) init(who []login) {
	i.mine = len(who) > 0
	i.set(who)
}

func (i *identity) set(who []login) {
	list := zk.WorldACL(zk.PermAll)
	if len(who) > 0 {
		list = nil
	}
	for _, l := range who {
		list = append(list, zk.DigestACL(zk.PermAll, l.user, l.password)...)
	}
	i.list.Store(&list)
}

// acl is the ACL of nodes that we create.
func (i *identity) acl() []zk.ACL { return *i.list.Load() }

func (i *identity) remedy() string {
	if !i.mine {
		return "the node belongs to somebody: log in (AuthScheme and AuthSecret)"
	}
	return "the node belongs to somebody else, or the password is wrong: check AuthSecret"
}

// authenticate reads the secret and adds the identities that are new in it. The library repeats them at the following
// connections, before any request. False: the connection is lost.
func (s *Store) authenticate() bool {
	if !s.who.mine {
		return true
	}
	who, err := logins(s.cfg.AuthSecret, s.cfg.Secrets)
	if err != nil {
		s.log.Error("the secret for ZooKeeper can not be read, going on with the identity that it had", zap.Error(err))
		return true
	}
	for _, l := range who {
		if slices.Contains(s.who.known, l) {
			continue
		}
		err := s.conn.AddAuth(digest, []byte(l.user+":"+l.password))
		switch {
		case err == nil:
			s.who.known = append(s.who.known, l)
		case isLost(err):
			return false
		default:
			s.log.Error("ZooKeeper refuses our identity; check AuthSecret", zap.String("user", l.user), zap.Error(err))
		}
	}
	s.who.set(who)
	return true
}

// Unprotected are the nodes at and below Root and ShadowRoot whose ACL is another than the one that this Store gives to
// new nodes, sorted. ErrInvalid: the Store has no AuthScheme. ErrNotAllowed: a node can not be looked at.
func (s *Store) Unprotected(ctx context.Context) ([]string, error) {
	if !s.who.mine {
		return nil, fmt.Errorf("%w: AuthScheme %q: without an identity there is nothing to protect nodes with; set AuthScheme and AuthSecret",
			errs.ErrInvalid, s.cfg.AuthScheme)
	}
	want := s.who.acl()
	var mu sync.Mutex
	var found []string
	level := []string{s.Root}
	if s.ShadowRoot != s.Root {
		level = append(level, s.ShadowRoot)
	}
	for len(level) > 0 {
		var next []string
		err := parallel(ctx, level, func(ctx context.Context, path string) error {
			children, err := s.Children(ctx, path)
			if errors.Is(err, errs.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			acl, err := read(ctx, s, "read the ACL of", path, func() ([]zk.ACL, error) {
				acl, _, err := s.conn.GetACL(s.chroot + path)
				return acl, err
			})
			if errors.Is(err, errs.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if !sameACL(acl, want) {
				found = append(found, path)
			}
			for _, name := range children {
				next = append(next, path+"/"+name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		level = next
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// Protect gives every node that is Unprotected to the identities of this Store, and returns how many there were. It is for a
// tree that was made without authentication, and for the replacement of an identity. It may be repeated. ErrNotAllowed: a
// node belongs to somebody else.
func (s *Store) Protect(ctx context.Context) (int, error) {
	paths, err := s.Unprotected(ctx)
	if err != nil {
		return 0, err
	}
	err = parallel(ctx, paths, func(ctx context.Context, path string) error {
		_, err := read(ctx, s, "protect", path, func() (struct{}, error) {
			_, err := s.conn.SetACL(s.chroot+path, s.who.acl(), AnyVersion)
			return struct{}{}, err
		})
		if errors.Is(err, errs.ErrNotFound) {
			return nil
		}
		return err
	})
	return len(paths), err
}

// parallel calls f for all of paths, some at the same time, and returns the first error.
func parallel(ctx context.Context, paths []string, f func(context.Context, string) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, path := range paths {
		g.Go(func() error { return f(ctx, path) })
	}
	return g.Wait()
}

// sameACL: as sets.
func sameACL(a, b []zk.ACL) bool {
	if len(a) != len(b) {
		return false
	}
	for _, entry := range a {
		if !slices.Contains(b, entry) {
			return false
		}
	}
	return true
}
