package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// What huma itself finds wrong with a request becomes the same document as all other errors. The library has one such
// function for a process.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return found(status, message, errs)
	}
	huma.ValidateStrictCasing = true // else a field in other letters would be taken without being looked at
}

// secrets are the fields whose values are never answered.
var secrets = []string{"password", "secret", "token"}

// found is the error of a request that does not fit the schema.
func found(status int, message string, errs []error) *api.Error {
	e := api.NewError(status, message)
	for _, err := range errs {
		var detailed huma.ErrorDetailer
		if !errors.As(err, &detailed) {
			e.Errors = append(e.Errors, api.FieldError{Message: err.Error()})
			continue
		}
		d := detailed.ErrorDetail()
		f := api.FieldError{Field: d.Location, Message: d.Message}
		secret := false
		for _, s := range secrets {
			secret = secret || strings.Contains(strings.ToLower(d.Location), s)
		}
		switch v := d.Value.(type) {
		case nil:
		case string, bool, float64, int, int64:
			if !secret && d.Location != "body" { // a whole body may have anything in it
				f.Value = fmt.Sprintf("%.200v", v)
			}
		}
		e.Errors = append(e.Errors, f)
	}
	if len(e.Errors) > 0 {
		first := e.Errors[0]
		e.Message = fmt.Sprintf("%s: %s", first.Field, first.Message)
		if first.Field == "" {
			e.Message = first.Message
		}
		if first.Value != "" {
			e.Message += fmt.Sprintf(" (it is %q)", first.Value)
		}
		if n := len(e.Errors) - 1; n > 0 {
			e.Message += fmt.Sprintf("; and %d more", n)
		}
	}
	return e
}

// reply is an answer with a document.
type reply[T any] struct{ Body T }

// none is a request without anything.
type none struct{}

// newAPI is the API on a mux, without its calls.
func newAPI(mux *http.ServeMux) huma.API {
	config := huma.DefaultConfig("Turnout", api.DocumentVersion)
	config.Info.Description = "The operations platform of Turnout. Every error is a problem document (RFC 9457)."
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "/api/v1/openapi", "", ""
	config.CreateHooks = nil // no $schema in documents
	config.RejectUnknownQueryParameters = true
	config.Formats = map[string]huma.Format{"application/json": strictJSON, "json": strictJSON}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":   {Type: "http", Scheme: "bearer", Description: "A token of a user."},
		"session": {Type: "apiKey", In: "cookie", Name: "__Host-turnout", Description: "A session; what changes something also needs the header X-CSRF-Token. By http on the machine of the server the cookie is called turnout."},
	}
	schemas := huma.NewMapRegistry("#/components/schemas/", schemaName)
	schemas.RegisterTypeAlias(reflect.TypeFor[metadata.Zxid](), reflect.TypeFor[string]())
	schemas.RegisterTypeAlias(reflect.TypeFor[broker.Offsets](), reflect.TypeFor[offsets]())
	for _, document := range []reflect.Type{ // they are open to fields of other versions; docs/metadata.md describes them
		reflect.TypeFor[metadata.Wish](), reflect.TypeFor[metadata.Route](), reflect.TypeFor[metadata.TopicSettings](), reflect.TypeFor[metadata.Group](), reflect.TypeFor[metadata.Cluster](),
	} {
		schemas.RegisterTypeAlias(document, reflect.TypeFor[map[string]any]())
	}
	config.Components.Schemas = schemas
	return humago.New(mux, config)
}

// offsets says what broker.Offsets is as JSON.
type offsets struct{}

// Schema is that of huma.SchemaProvider.
func (offsets) Schema(huma.Registry) *huma.Schema {
	offset := &huma.Schema{Type: huma.TypeInteger, Format: "int64"}
	return &huma.Schema{
		Description: "By partition: a list where these are 0 to n-1, else an object.",
		OneOf:       []*huma.Schema{{Type: huma.TypeArray, Items: offset}, {Type: huma.TypeObject, AdditionalProperties: offset}},
	}
}

// schemaName is that of the type, with its package where several packages have the name.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if p := t.PkgPath(); strings.HasSuffix(p, "/metadata") || strings.HasSuffix(p, "/broker") {
		return strings.ToUpper(p[strings.LastIndex(p, "/")+1:][:1]) + p[strings.LastIndex(p, "/")+2:] + name
	}
	return name
}

// anybody is what is needed for a call that is open to all.
const anybody people.Permission = ""

// needs lets those requests through whose principal has the permission. It is asked before the request is looked at.
func (s *server) needs(need people.Permission) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		if err := people.From(ctx.Context()).Need(need); err != nil {
			r, w := humago.Unwrap(ctx)
			s.fail(w, r, err)
			return
		}
		next(ctx)
	}
}

// refusals are the statuses with which a call may be refused.
func refusals(in reflect.Type) []int {
	all := []int{
		http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	}
	if _, is := in.FieldByName("Body"); is {
		all = append(all, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	return append(all, http.StatusUnprocessableEntity)
}

// call is one operation: what it needs, its id, what it is for, and what it does. Its ctx ends after a minute, and with the request.
func call[I, O any](s *server, need people.Permission, method, path, id, summary string, f func(ctx context.Context, in *I) (*O, error), more ...func(*huma.Operation)) {
	op := huma.Operation{
		Method: method, Path: "/api/v1" + path, OperationID: id, Summary: summary,
		Tags:         []string{strings.Split(strings.Trim(path, "/"), "/")[0]},
		MaxBodyBytes: -1, BodyReadTimeout: -1, // it was taken in before, by read
		Security: []map[string][]string{{"token": {}}, {"session": {}}},
		Errors:   refusals(reflect.TypeFor[I]()),
	}
	_, conditional := any(new(I)).(interface{ version() (int64, error) })
	if conditional {
		op.Errors = append(op.Errors, http.StatusPreconditionFailed, http.StatusPreconditionRequired)
	}
	if need == anybody {
		op.Security = nil
	} else {
		op.Description = fmt.Sprintf("Needs the permission %s.", need)
		op.Middlewares = huma.Middlewares{s.needs(need)}
	}
	op.Errors = append(op.Errors, http.StatusTooManyRequests)
	for _, change := range more {
		change(&op)
	}
	if need != anybody && method != http.MethodGet && op.Metadata[harmlessCall] == nil {
		s.repeatable(&op)
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, longest)
		defer cancel()
		out, err := f(ctx, in)
		if err != nil {
			e := s.described(method, path, err)
			if conditional && errors.Is(err, store.ErrChanged) {
				e = e.Changed()
			}
			return nil, e
		}
		return out, nil
	})
}

// created makes 201 the status of a call that makes something.
func created(op *huma.Operation) { op.DefaultStatus = http.StatusCreated }

// OpenAPI is the description of the API, version 3.1, in YAML.
func OpenAPI() ([]byte, error) {
	s := &server{}
	s.register(http.NewServeMux())
	return s.api.OpenAPI().YAML()
}

// etag is the ETag of a version.
func etag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }

// IfMatch is part of requests that change something that was read before.
type IfMatch struct {
	IfMatch string `header:"If-Match" doc:"The ETag of what was read, so that nothing else is changed." example:"\"3\""`
}

// version is the one that was read.
func (m IfMatch) version() (int64, error) {
	if m.IfMatch == "" {
		return 0, api.NewError(http.StatusPreconditionRequired, "the header If-Match is missing: read what is to be changed, and send its ETag")
	}
	text, err := strconv.Unquote(m.IfMatch)
	if err != nil {
		text = m.IfMatch
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 1 {
		return 0, fmt.Errorf("%w: If-Match %.40q: must be the ETag of what was read, like \"3\"", errs.ErrInvalid, m.IfMatch)
	}
	return v, nil
}
