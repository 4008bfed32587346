package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Finding is what the monitor has seen of something when it last looked at a topic. It is no record: the next look replaces it.
type Finding struct {
	Kind    string          // of what: "topic", "group", "instance"
	Name    string          // its name
	Topic   string          // the topic that was looked at
	Cluster string          // "": of no cluster in particular
	At      time.Time       // when; zero: when it is stored
	Weight  int64           // what FindingFilter.Heaviest goes by
	Doc     json.RawMessage // what was seen
}

// FindingFilter says which findings are asked for. What is empty matches all.
type FindingFilter struct {
	Kind, Topic string
	Names       []string // any of them
	MinWeight   int64    // at least so heavy; 0: any
	Heaviest    bool     // the heaviest first; else by kind, name, topic and cluster
	Limit       int      // at most so many; 0: no limit
}

// atOnce bounds the parameters of a statement.
const atOnce = 500

// PutFindings replaces all findings of the topics by these, in one transaction. Each must be of one of the topics (ErrInvalid).
func (s *Store) PutFindings(ctx context.Context, topics []string, findings []Finding) error {
	var c check
	looked := make(map[string]bool, len(topics))
	for _, topic := range topics {
		c.name("topic", topic)
		looked[topic] = true
	}
	for _, f := range findings {
		c.name("Kind", f.Kind)
		c.name("Name", f.Name)
		c.text("Cluster", f.Cluster)
		c.document("Doc", f.Doc)
		if len(f.Doc) == 0 {
			c = append(c, "Doc is empty")
		}
		if !looked[f.Topic] {
			c = append(c, fmt.Sprintf("Topic is %q, which is none of those that are replaced", f.Topic))
		}
	}
	if err := c.err("findings"); err != nil {
		return err
	}
	return s.write(ctx, "put findings", func(q query) error {
		for len(topics) > 0 {
			some := topics[:min(len(topics), atOnce)]
			topics = topics[len(some):]
			if _, err := q.exec("DELETE FROM findings WHERE topic IN ("+parameters(1, len(some))+")", anys(some)...); err != nil {
				return err
			}
		}
		const columns = 7
		for len(findings) > 0 {
			some := findings[:min(len(findings), atOnce)]
			findings = findings[len(some):]
			values, args := make([]string, len(some)), make([]any, 0, columns*len(some))
			for i, f := range some {
				values[i] = "(" + parameters(1+columns*i, columns) + ")"
				args = append(args, f.Kind, f.Name, f.Topic, f.Cluster, moment(stored(f.At)), f.Weight, document(f.Doc))
			}
			if _, err := q.exec("INSERT INTO findings (kind, name, topic, cluster, at, weight, doc) VALUES "+strings.Join(values, ", "), args...); err != nil {
				if q.db.taken(err) {
					return fmt.Errorf("a finding is given twice, or somebody else looks at these topics: %w", errs.ErrConflict)
				}
				return err
			}
		}
		return nil
	})
}

// parameters are "$first, …", n of them.
func parameters(first, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("$%d", first+i)
	}
	return strings.Join(list, ", ")
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// Findings returns those that fit.
func (s *Store) Findings(ctx context.Context, f FindingFilter) ([]Finding, error) {
	statement, args := "SELECT kind, name, topic, cluster, at, weight, doc FROM findings WHERE 1 = 1", []any(nil)
	add := func(condition string, value any) {
		args = append(args, value)
		statement += fmt.Sprintf(" AND "+condition, len(args))
	}
	if f.Kind != "" {
		add("kind = $%d", f.Kind)
	}
	if f.Topic != "" {
		add("topic = $%d", f.Topic)
	}
	if f.MinWeight != 0 {
		add("weight >= $%d", f.MinWeight)
	}
	if len(f.Names) > 0 {
		statement += " AND name IN (" + parameters(len(args)+1, len(f.Names)) + ")"
		args = append(args, anys(f.Names)...)
	}
	order := " ORDER BY kind, name, topic, cluster"
	if f.Heaviest {
		order = " ORDER BY weight DESC, kind, name, topic, cluster"
	}
	var list []Finding
	err := s.read(ctx, "findings", func(q query) (err error) {
		list, err = rows(q, func(row scanner) (f Finding, err error) {
			var at moment
			var doc document
			err = row.Scan(&f.Kind, &f.Name, &f.Topic, &f.Cluster, &at, &f.Weight, &doc)
			f.At, f.Doc = time.Time(at), json.RawMessage(doc)
			return f, err
		}, statement+order+limit(f.Limit), args...)
		return err
	})
	return list, err
}

// DropFindings removes those that are older: of topics that nobody looks at any more.
func (s *Store) DropFindings(ctx context.Context, before time.Time) (dropped int64, err error) {
	err = s.write(ctx, "drop findings", func(q query) (err error) {
		dropped, err = q.exec("DELETE FROM findings WHERE at < $1", moment(before))
		return err
	})
	return dropped, err
}
