package store_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestFindings(t *testing.T) {
	finding := func(kind, name, topic, cluster string, weight int64) store.Finding {
		return store.Finding{Kind: kind, Name: name, Topic: topic, Cluster: cluster, Weight: weight, At: time.Now().UTC().Truncate(time.Microsecond), Doc: json.RawMessage(`{"n":1}`)}
	}
	each(t, map[string]func(*testing.T, *store.Store, string){
		"a look replaces what was seen of its topics": func(t *testing.T, s *store.Store, _ string) {
			orders, billing := finding("topic", "orders", "orders", "", 0), finding("group", "billing", "orders", "kafka-a", 7)
			mail := finding("group", "mail", "letters", "kafka-a", 9)
			require.NoError(t, s.PutFindings(t.Context(), []string{"orders", "letters"}, []store.Finding{orders, billing, mail}))
			for name, c := range map[string]struct {
				f    store.FindingFilter
				want []store.Finding
			}{
				"all":      {store.FindingFilter{}, []store.Finding{billing, mail, orders}},
				"kind":     {store.FindingFilter{Kind: "topic"}, []store.Finding{orders}},
				"topic":    {store.FindingFilter{Topic: "orders"}, []store.Finding{billing, orders}},
				"names":    {store.FindingFilter{Kind: "group", Names: []string{"mail", "nobody"}}, []store.Finding{mail}},
				"heaviest": {store.FindingFilter{Kind: "group", Heaviest: true}, []store.Finding{mail, billing}},
				"limit":    {store.FindingFilter{Heaviest: true, Limit: 1}, []store.Finding{mail}},
				"weight":   {store.FindingFilter{MinWeight: 8}, []store.Finding{mail}},
				"none":     {store.FindingFilter{Topic: "x"}, nil},
			} {
				got, err := s.Findings(t.Context(), c.f)
				require.NoError(t, err)
				require.Equal(t, c.want, got, name)
			}
			billing.Cluster, billing.Weight = "kafka-b", 1
			require.NoError(t, s.PutFindings(t.Context(), []string{"orders"}, []store.Finding{billing}))
			got, err := s.Findings(t.Context(), store.FindingFilter{})
			require.NoError(t, err)
			require.Equal(t, []store.Finding{billing, mail}, got)
			require.NoError(t, s.PutFindings(t.Context(), []string{"orders"}, nil))
			n, err := s.DropFindings(t.Context(), mail.At)
			require.NoError(t, err)
			require.Zero(t, n)
			n, err = s.DropFindings(t.Context(), mail.At.Add(time.Second))
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
		},
		"many at once": func(t *testing.T, s *store.Store, _ string) {
			var topics []string
			var findings []store.Finding
			for i := range 1200 {
				topics = append(topics, fmt.Sprintf("topic-%04d", i))
				findings = append(findings, finding("topic", topics[i], topics[i], "", int64(i)), finding("group", "g", topics[i], "c", 0))
			}
			for range 2 {
				require.NoError(t, s.PutFindings(t.Context(), topics, findings))
				got, err := s.Findings(t.Context(), store.FindingFilter{})
				require.NoError(t, err)
				require.Len(t, got, len(findings))
			}
		},
		"what is refused": func(t *testing.T, s *store.Store, _ string) {
			good := finding("topic", "orders", "orders", "", 0)
			for field, change := range map[string]func(*store.Finding){
				"Kind":  func(f *store.Finding) { f.Kind = "" },
				"Name":  func(f *store.Finding) { f.Name = "\x00" },
				"Topic": func(f *store.Finding) { f.Topic = "letters" },
				"Doc":   func(f *store.Finding) { f.Doc = nil },
			} {
				bad := good
				change(&bad)
				err := s.PutFindings(t.Context(), []string{"orders"}, []store.Finding{good, bad})
				require.ErrorIs(t, err, errs.ErrInvalid)
				require.ErrorContains(t, err, field)
			}
			require.ErrorIs(t, s.PutFindings(t.Context(), []string{"orders"}, []store.Finding{good, good}), errs.ErrConflict)
			got, err := s.Findings(t.Context(), store.FindingFilter{})
			require.NoError(t, err)
			require.Empty(t, got, "all or nothing")
		},
	})
}
