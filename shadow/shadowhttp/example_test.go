package shadowhttp_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/shadow/shadowhttp"
)

func Example() {
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A Client.Send with r.Context() goes to the shadow topic.
		fmt.Fprintf(w, "stress: %v", shadow.Marked(r.Context()))
	})
	testers := func(r *http.Request) bool { return r.Header.Get("X-Team") == "testers" }
	server := httptest.NewServer(shadowhttp.Handler(orders, shadowhttp.WithTrust(testers)))
	defer server.Close()

	client := &http.Client{Transport: shadowhttp.Transport(nil)}
	defer client.CloseIdleConnections()
	call := func(r *http.Request) {
		resp, err := client.Do(r)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		fmt.Println(resp.StatusCode, string(body))
	}
	r, _ := http.NewRequest(http.MethodGet, server.URL, http.NoBody)
	r.Header.Set("X-Team", "testers")
	call(r)
	call(r.WithContext(shadow.WithMark(r.Context())))
	// Output:
	// 200 stress: false
	// 200 stress: true
}
