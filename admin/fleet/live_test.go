package fleet_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// Who follows sees everything once, then what changes and what goes.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	w.cluster("a")
	w.topic("orders", "a")
	w.group("billing", "orders")
	w.fake("a").set(func(f *fake) { f.positions["billing orders"] = broker.Offsets{"0": 10, "1": 4} })
	const id = "10.0.0.1@-@1@-@0"
	w.create(w.meta.InstancePath("order_app", id), metadata.Instance{V: 1, Host: "machine", PID: 7, SDK: "0.1.0"})
	s := w.server()
	var look int64
	unread, groupGone, host, instanceGone := int64(-1), false, "", false
	follow := func() {
		changes, now, err := s.Changes(w.ctx(), look)
		require.NoError(t, err)
		require.GreaterOrEqual(t, now, look)
		look = now
		for _, c := range changes {
			if c.Group != nil {
				require.Equal(t, "billing", c.Group.Group)
				unread, groupGone = c.Group.Unread, c.Group.Gone
			} else {
				require.Equal(t, id, c.Instance.ID)
				host, instanceGone = c.Instance.Host, c.Instance.Gone
			}
		}
	}
	w.eventually(func() bool { follow(); return unread == 6 && host == "machine" }, "what is there")
	w.fake("a").set(func(f *fake) { f.positions["billing orders"] = broker.Offsets{"0": 10, "1": 9} })
	w.eventually(func() bool { follow(); return unread == 1 }, "what has changed")
	require.NoError(t, w.meta.Delete(w.ctx(), w.meta.InstancePath("order_app", id), metadata.AnyVersion))
	w.eventually(func() bool { follow(); return instanceGone }, "an instance that is gone")
	require.NoError(t, w.meta.Delete(w.ctx(), w.meta.GroupPath("billing"), metadata.AnyVersion))
	w.eventually(func() bool { follow(); return groupGone }, "a group that is gone")

	// Who comes now sees nothing of these, until they come again.
	changes, now, err := s.Changes(w.ctx(), 0)
	require.NoError(t, err)
	require.Empty(t, changes)
	look = now
	w.create(w.meta.InstancePath("order_app", id), metadata.Instance{V: 1, Host: "machine", PID: 8, SDK: "0.1.0"})
	w.eventually(func() bool { follow(); return !instanceGone }, "an instance that is back")
}
