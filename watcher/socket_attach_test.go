package watcher

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/watcher/local"
)

// TestQuestions: a body is one JSON object of a known shape and a bounded size, and
// a client that goes away is told of.
func TestQuestions(t *testing.T) {
	r := &runner{agent: &Agent{desk: newDesk()}, log: zap.NewNop(), ended: make(chan struct{})}
	desk := r.agent.desk
	handler := question(r, func(q *Question, body *local.AttachRequest) { q.Attach = body })
	done := make(chan struct{})
	var gone []int64
	go func() { // the loop's part
		defer close(done)
		for {
			select {
			case c := <-desk.calls:
				var in Input
				desk.admit(&in, c)
				switch q := in.Questions[0]; q.Attach.Endpoint {
				case "web1":
					desk.give([]Answer{{ID: q.ID, Attached: &local.Attached{Endpoint: "web1"}}})
				case "web2":
					desk.give([]Answer{{ID: q.ID, Refusal: refuse(local.CodeElsewhere, "do", "why")}})
				default: // nobody answers
				}
			case id := <-desk.gone:
				gone = append(gone, id)
				desk.dismiss(new(Input), id)
			case <-r.ended:
				return
			}
		}
	}()
	for name, tt := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"answered":      {`{"endpoint":"web1"}`, 200, `"endpoint":"web1"`},
		"refused":       {`{"endpoint":"web2"}`, 409, `{"code":"elsewhere","error":"why","hint":"do"}`},
		"unknown field": {`{"endpoint":"web1","netnss":"x"}`, 400, `unknown field`},
		"two objects":   {`{"endpoint":"web1"}{}`, 400, `want one JSON object`},
		"no object":     {`[]`, 400, `want a JSON object`},
		"nothing":       {``, 400, `want a JSON object`},
		"too large":     {`{"endpoint":"` + strings.Repeat("a", maxQuestion) + `"}`, 400, `too large`},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			handler(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, local.PathAttach, strings.NewReader(tt.body)))
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%d %s; want %d with %q", w.Code, w.Body, tt.status, tt.want)
			}
		})
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	client := &http.Client{Timeout: 1} // ns
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(`{"endpoint":"web3"}`))
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Do(request); err == nil {
		answer.Body.Close()
		t.Error("answered")
	}
	server.Close() // waits for the handler
	close(r.ended)
	<-done
	if len(desk.waiting) != 0 {
		t.Errorf("%d clients wait for ever, %v are gone", len(desk.waiting), gone)
	}
}
