package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// fragment is a part of a JSON document.
type fragment = map[string]any

// documented is the API as its server describes it.
type documented struct {
	doc      fragment
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

const documentURL = "https://turnout.test/openapi.json"

func describedBy(t *testing.T, server string) *documented {
	t.Helper()
	_, _, answer := (&person{T: t, url: server}).call("GET", "/openapi.json", nil)
	parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(answer))
	require.NoError(t, err)
	d := &documented{doc: parsed.(fragment), compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	d.compiler.DefaultDraft(jsonschema.Draft2020) // that of OpenAPI 3.1
	d.compiler.AssertFormat()
	require.NoError(t, d.compiler.AddResource(documentURL, parsed))
	return d
}

// at is a part of the document, and at its end where a reference leads.
func (d *documented) at(from any, path ...string) fragment {
	for _, p := range path {
		in, _ := from.(fragment)
		from = in[p]
	}
	f, _ := from.(fragment)
	if ref, is := f["$ref"].(string); is {
		return d.at(d.doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return f
}

// fits says why an answer is not what the document says that the operation answers.
func (d *documented) fits(path, method string, status int, contentType string, body io.Reader) error {
	code := strconv.Itoa(status)
	responses := d.at(d.doc, "paths", path, method, "responses")
	response, is := responses[code].(fragment)
	if !is {
		return fmt.Errorf("status %s is not in the document", code)
	}
	content, _ := response["content"].(fragment)
	if status == http.StatusNoContent || content == nil {
		all, err := io.ReadAll(body)
		if len(all) > 0 {
			err = fmt.Errorf("an answer of %d bytes where the document has none", len(all))
		}
		return err
	}
	if content[contentType] == nil {
		return fmt.Errorf("content type %q of status %s is not in the document", contentType, code)
	}
	if !strings.HasSuffix(contentType, "json") {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(body)
	if err != nil {
		return err
	}
	pointer := documentURL + "#"
	for _, part := range []string{"paths", path, method, "responses", code, "content", contentType, "schema"} {
		pointer += "/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(part))
	}
	if d.schemas[pointer] == nil {
		if d.schemas[pointer], err = d.compiler.Compile(pointer); err != nil {
			return err
		}
	}
	return d.schemas[pointer].Validate(value)
}

// maker makes values that fit schemas, and others that do not.
type maker struct {
	*rand.Rand
	*documented
}

func pick[T any](m *maker, from ...T) T { return from[m.IntN(len(from))] }

// names are of what is there, or may be, or of nothing.
var names = []string{
	"order_topic", "second_topic", "order_group", "kafka-a", "kafka-b", "order_service", "billing", "alice", "carol", "topic", "group", "cluster", "claim", "deletion", "first", "x",
}

// likely are texts for fields of some names, which are of what is there.
var likely = map[string][]string{
	"topic": {"order_topic", "second_topic", "new_topic"}, "topics": {"order_topic"}, "group": {"order_group"}, "groups": {"order_group"}, "app": {"order_service"},
	"to": {"kafka-a", "kafka-b"}, "cluster": {"kafka-a", "kafka-b"}, "clusters": {"kafka-a"}, "accept": {"all"},
}

// ids are the letters of ids, by the first part of the path.
var ids = map[string]string{"requests": "r", "migrations": "m", "drift": "d", "tokens": "t", "stress": "s"}

// oddities are texts that have been trouble elsewhere.
var oddities = []string{
	"", " ", "\x00", "a\x00b", "\xff\xfe", "%", "_", "'", `"`, "' OR '1'='1", "../../etc/passwd", "..", "/", "//", "\r\nSet-Cookie: x=y", "\x1b[2J", "\u202e", "\ufeff", "\U0001F600", "ﬁ", "İ",
	"null", "NaN", "Infinity", "-1", "0x10", "1e999", "9223372036854775808", "{}", "[]", "${jndi:ldap://x}", "{{7*7}}", "<script>", "%s%n", strings.Repeat("x", 300), strings.Repeat("ä", 3000),
}

// value fits the schema; name is that of the field.
func (m *maker) value(name string, schema fragment, depth int) any {
	schema = m.at(schema)
	if list, is := schema["enum"].([]any); is {
		return pick(m, list...)
	}
	kind, _ := schema["type"].(string)
	if kinds, is := schema["type"].([]any); is {
		kind, _ = kinds[0].(string) // the others: null
	}
	switch kind {
	case "string":
		return m.text(name, schema)
	case "integer", "number":
		least, most := m.bound(schema, "minimum", -100), m.bound(schema, "maximum", 1e6)
		n := pick(m, least, least, least+1, most, math.Floor(least+(most-least)*m.Float64()))
		if kind == "integer" {
			return int64(n)
		}
		return n
	case "boolean":
		return m.IntN(2) == 0
	case "array":
		list := []any{}
		least, most := int(m.bound(schema, "minItems", 0)), int(m.bound(schema, "maxItems", 3))
		for range least + m.IntN(min(most, least+3)-least+1) {
			list = append(list, m.value(name, m.at(schema, "items"), depth+1))
		}
		return list
	case "object":
		return m.object(name, schema, depth)
	default: // anything
		return pick[any](m, nil, "x", 1.5, fragment{"a": []any{1, "b", nil}})
	}
}

func (m *maker) bound(schema fragment, which string, otherwise float64) float64 {
	if n, is := schema[which].(json.Number); is {
		f, _ := n.Float64()
		return f
	}
	return otherwise
}

func (m *maker) object(name string, schema fragment, depth int) any {
	out := fragment{}
	required, _ := schema["required"].([]any)
	properties := m.at(schema, "properties")
	// A document that has one of several things, such as a request, mostly has one.
	only := ""
	if len(required) == 0 && len(properties) > 4 {
		only = pick(m, slices.DeleteFunc(slices.Sorted(maps.Keys(properties)), func(p string) bool { return p == "reason" || p == "batch" })...)
	}
	for _, p := range slices.Sorted(maps.Keys(properties)) {
		some := m.IntN(3) == 0 && depth < 4
		if only != "" {
			some = p == only || p == "reason" || m.IntN(40) == 0
		}
		if slices.Contains(required, any(p)) || some {
			out[p] = m.value(p, m.at(properties, p), depth+1)
		}
	}
	if more := m.at(schema, "additionalProperties"); more != nil {
		for range m.IntN(3) {
			out[pick(m, "a", "retention.ms", "0", "1")] = m.value(name, more, depth+1)
		}
	}
	return out
}

func (m *maker) text(name string, schema fragment) string {
	format, _ := schema["format"].(string)
	if format == "date-time" {
		return pick(m, "2026-11-22T12:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-11-22T12:00:00.123456789+14:00", time.Now().UTC().AddDate(0, 0, 3).Format(time.RFC3339))
	}
	choices := names
	switch {
	case strings.HasPrefix(name, "addresses"):
		choices = []string{"127.0.0.1:1", "localhost:65535", "[::1]:9092", "host"}
	case strings.Contains(strings.ToLower(name), "password"):
		choices = []string{password, "another horse battery", "short"}
	case name == "secret":
		choices = []string{"env:TURNOUT_TEST_NOTHING", "file:/nonexistent", "user:password"}
	case name == "Idempotency-Key":
		choices = []string{"a-key-of-some-call", fmt.Sprintf("key-%x", m.Uint64()), fmt.Sprintf("key-%x", m.Uint64()), "short"}
	case likely[name] != nil && m.IntN(3) > 0:
		choices = likely[name]
	case name == "id": // of what is asked about, see attempt
		choices = []string{"1", "2", "3", "4", "5", "6", "7", "8", "99"}
	case name == "wait":
		choices = []string{"0s", "1ms", "-1s", "1"}
	case name == "If-Match":
		choices = []string{`"1"`, `"2"`, `"2"`, `"3"`, `"4"`, "*", `W/"1"`}
	}
	pattern, _ := schema["pattern"].(string)
	fits := regexp.MustCompile(pattern)
	for range 1000 {
		text := pick(m, choices...)
		if m.IntN(4) == 0 {
			text = fmt.Sprintf("%c%x", 'a'+m.IntN(26), m.IntN(1<<20))
		}
		if example, is := schema["example"].(string); is && m.IntN(3) == 0 {
			text = example
		}
		if least := int(m.bound(schema, "minLength", 0)); len(text) >= least && fits.MatchString(text) {
			return text[:min(len(text), int(m.bound(schema, "maxLength", 1000)))]
		}
	}
	panic("a text of " + name + " that fits " + pattern + ": teach the test how it looks")
}

// spoilt is v with something that may not fit.
func (m *maker) spoilt(v any) any {
	switch v := v.(type) {
	case fragment:
		if len(v) == 0 || m.IntN(4) == 0 {
			v[pick(m, "extra", "id", "Name", "__proto__", "$schema", "\x00")] = pick[any](m, oddities[m.IntN(len(oddities))], nil, 1)
			return v
		}
		key := pick(m, slices.Sorted(maps.Keys(v))...)
		if m.IntN(4) == 0 {
			delete(v, key)
			return v
		}
		v[key] = m.spoilt(v[key])
		return v
	case []any:
		if len(v) > 0 && m.IntN(2) == 0 {
			i := m.IntN(len(v))
			v[i] = m.spoilt(v[i])
			return v
		}
		return pick[any](m, nil, "x", slices.Repeat([]any{"x"}, 2000), append(v, nil), append(v, v...))
	}
	return pick[any](m, nil, true, -1, 0, 1.5, 1e300, math.MinInt64, uint64(math.MaxUint64), []any{}, []any{[]any{}}, fragment{}, pick(m, oddities...), pick(m, oddities...), pick(m, oddities...))
}

// attempt is one request.
type attempt struct {
	method, target, body string
	headers              http.Header
}

func (a attempt) String() string {
	return fmt.Sprintf("%s %s %v %.2000q", a.method, a.target, a.headers, a.body)
}

// attempt makes a request of an operation, that fits or not.
func (m *maker) attempt(path, method string) attempt {
	op := m.at(m.doc, "paths", path, method)
	a := attempt{method: strings.ToUpper(method), target: path, headers: http.Header{}}
	query := url.Values{}
	parameters, _ := op["parameters"].([]any)
	for _, p := range parameters {
		name, _ := m.at(p)["name"].(string)
		value := m.value(name, m.at(p, "schema"), 0)
		if list, is := value.([]any); is {
			texts := make([]string, len(list))
			for i := range list {
				texts[i] = fmt.Sprint(list[i])
			}
			value = strings.Join(texts, ",")
		}
		text := fmt.Sprint(value)
		if m.IntN(8) == 0 {
			text = pick(m, oddities...)
		}
		switch m.at(p)["in"] {
		case "path":
			letter := ids[strings.Split(path, "/")[3]]
			switch {
			case name == "id" && letter == "t":
				text = pick(m, "t-4", "t-5", "t-99", "t-x") // not what the test itself asks with
			case name == "id" && m.IntN(10) > 0:
				text = letter + "-" + text
			}
			a.target = strings.ReplaceAll(a.target, "{"+name+"}", url.PathEscape(text))
		case "query":
			if m.IntN(3) == 0 {
				query.Add(name, text)
			}
			if m.IntN(50) == 0 {
				query.Add(name, text)
			}
		case "header":
			if m.IntN(5) > map[string]int{"Idempotency-Key": 3}[name] && !strings.ContainsAny(text, "\x00\r\n\x1b") { // which no client sends
				a.headers.Set(name, text)
			}
		}
	}
	if m.IntN(50) == 0 {
		query.Set(pick(m, "unknown", "Limit", "limit[]", "\x00"), pick(m, oddities...))
	}
	if len(query) > 0 {
		a.target += "?" + query.Encode()
	}
	if schema := m.at(op, "requestBody", "content", "application/json", "schema"); schema != nil {
		a.headers.Set("Content-Type", "application/json")
		a.body = m.document(schema)
		if m.IntN(50) == 0 {
			a.headers.Set("Content-Type", pick(m, "text/plain", "application/xml", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/problem+json", "x", ";"))
		}
	}
	if m.IntN(50) == 0 {
		a.headers.Set("Accept", pick(m, "text/html", "application/xml", "*/*", "application/json;q=0", ",;,", "x"))
	}
	return a
}

func (m *maker) document(schema fragment) string {
	if m.IntN(15) == 0 {
		return pick(m, "", "{", "}", "null", "[]", "0", `"x"`, "{}{}", "{\"a\":1,\"a\":2}", "\xff", "\x00", strings.Repeat("[", 5000), `{"a":`+strings.Repeat("9", 5000)+"}", strings.Repeat("x", 1<<20+1))
	}
	value := m.value("", schema, 0)
	for range pick(m, 0, 0, 0, 1, 1, 3) {
		value = m.spoilt(value)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	if m.IntN(30) == 0 { // texts that a library would not write
		data = bytes.Replace(data, []byte(`":"`), []byte(pick(m, `":"\ud800`, "\":\"\xc3", `":"\u0000`, "\":\"\n")), 1)
	}
	return string(data)
}

// Requests that are made of the description of the API, most of them with something wrong, find no fault of the server, and
// every answer is one that the description has. TURNOUT_SEED makes other ones, TURNOUT_ATTEMPTS more of them.
func TestAnswersAreThoseOfTheDescription(t *testing.T) {
	some := 3000
	if testing.Short() {
		some = 1000
	}
	seed, attempts := number(t, "TURNOUT_SEED", 1), number(t, "TURNOUT_ATTEMPTS", some)
	s, admin, bob := populated(t)
	var tokens []string
	for _, who := range []*person{admin, admin, bob} {
		scopes := who.does("GET", "/session", nil)["permissions"]
		tokens = append(tokens, who.does("POST", "/tokens", map[string]any{"name": "x", "scopes": scopes})["secret"].(string))
	}
	d := describedBy(t, s.URL)
	m := &maker{rand.New(rand.NewPCG(uint64(seed), 0)), d}
	var calls [][2]string
	for path, methods := range d.at(d.doc, "paths") {
		for method := range methods.(fragment) {
			calls = append(calls, [2]string{path, method})
		}
	}
	slices.SortFunc(calls, func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) })
	often := [][2]string{{"/api/v1/requests", "post"}, {"/api/v1/requests", "post"}, {"/api/v1/requests/{id}/approve", "post"}, {"/api/v1/requests/{id}/submit", "post"}, {"/api/v1/requests/{id}", "put"}}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	seen := map[int]int{}
	for i := range attempts {
		c := calls[i%len(calls)]
		if i%4 == 0 { // of which there must be some for the others to be about
			c = pick(m, often...)
		}
		a := m.attempt(c[0], c[1])
		if m.IntN(30) > 0 {
			a.headers.Set("Authorization", "Bearer "+pick(m, tokens...))
		}
		req, err := http.NewRequestWithContext(t.Context(), a.method, s.URL+a.target, strings.NewReader(a.body))
		require.NoError(t, err, a)
		shown := a.headers.Clone()
		shown.Del("Authorization")
		req.Header, a.headers = a.headers, shown
		resp, err := client.Do(req)
		require.NoError(t, err, "%d of TURNOUT_SEED=%d: %s", i, seed, a)
		var answer bytes.Buffer
		contentType := resp.Header.Get("Content-Type")
		if contentType != "text/event-stream" { // which may go on for long
			_, err = io.Copy(&answer, resp.Body)
			require.NoError(t, err, "%d of TURNOUT_SEED=%d: %s", i, seed, a)
		}
		_ = resp.Body.Close()
		seen[resp.StatusCode]++
		require.Less(t, resp.StatusCode, 500, "%d of TURNOUT_SEED=%d: %s: %.2000s", i, seed, a, answer.String())
		if resp.StatusCode == http.StatusMovedPermanently || resp.StatusCode == http.StatusTemporaryRedirect || resp.StatusCode == http.StatusMethodNotAllowed {
			continue // a parameter has made it the path of something else
		}
		err = d.fits(c[0], c[1], resp.StatusCode, contentType, bytes.NewReader(answer.Bytes()))
		require.NoError(t, err, "%d of TURNOUT_SEED=%d: %s: %d %.2000s", i, seed, a, resp.StatusCode, answer.String())
	}
	t.Logf("answers by status: %v", seen)
	require.Greater(t, seen[200]+seen[201]+seen[204], attempts/10, "too few do anything: %v", seen)
	status, answer := ask(t, "GET", s.URL+"/readyz", "")
	require.Equal(t, 200, status, answer)
	admin.does("GET", "/session", nil)
}

// populated is a platform with clusters, a topic, a group, a migration that has ended, and a difference.
func populated(t *testing.T) (s *running, admin, bob *person) {
	t.Helper()
	e, err := testenv.Start(t.Context(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	meta := openMeta(t, e.ZooKeeper())
	s, admin, bob, _ = withPeople(t, e.ZooKeeper())
	done := func(doc, approval fragment) {
		t.Helper()
		id := bob.does("POST", "/requests", doc)["id"].(string)
		admin.does("POST", "/requests/"+id+"/approve", approval, "If-Match", `"2"`)
		require.Eventually(t, func() bool { return bob.does("GET", "/requests/"+id, nil)["state"] == "done" }, patience, tick)
	}
	for _, name := range []string{"kafka-a", "kafka-b"} {
		done(fragment{"cluster": fragment{"name": name, "kind": "kafka", "addresses": e.Addresses(name)}}, fragment{})
	}
	done(fragment{"topic": fragment{"name": "order_topic", "app": "order_service", "partitions": 2}}, fragment{"cluster": "kafka-a"})
	done(fragment{"group": fragment{"name": "order_group", "app": "order_service", "topics": []string{"order_topic"}}}, fragment{})
	done(fragment{"migration": fragment{"topic": "order_topic", "to": "kafka-b", "create": true, "accept": []string{"all"}}}, fragment{})
	_, err = meta.PutTopic(t.Context(), "second_topic", metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(admin.does("GET", "/drift", nil)["items"].([]any)) > 0 }, patience, tick)
	return s, admin, bob
}

// number is what an environment variable says, or otherwise.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}
