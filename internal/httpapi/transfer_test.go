package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

// fakeTransfers notes what it was asked, and answers as it was told.
type fakeTransfers struct {
	err   error
	asked string
}

func (f *fakeTransfers) Transfer(_ context.Context, id uint64, to string) (Transferred, error) {
	f.asked = fmt.Sprintf("r%d to %s", id, to)
	return Transferred{Range: id, Leader: 5, Name: to, Term: 8, StoodMicros: 120}, f.err
}

// TestTransfer: who asks is told the new leader, or what is wrong, and nothing is done for a request that is malformed or
// comes from a page of another origin.
func TestTransfer(t *testing.T) {
	const path, body, json = "/pontoon/v1/ranges/7/leader", `{"node":"n2"}`, "application/json"
	tests := []struct {
		name, method, path, typ, body string
		err                           error
		code                          int
		answer, asked                 string
	}{
		{"moved", "POST", path, json, body, nil, 200, `{"range":7,"leader":5,"name":"n2","term":8,"stood_us":120}`, "r7 to n2"},
		{"by the name that the list shows", "POST", "/pontoon/v1/ranges/r7/leader", json + "; charset=utf-8", body, nil, 200, `"range":7`, "r7 to n2"},
		{"a form", "POST", path, "text/plain", body, nil, 415, "application/json", ""},
		{"no type", "POST", path, "", body, nil, 415, "application/json", ""},
		{"no range", "POST", "/pontoon/v1/ranges/x/leader", json, body, nil, 400, `no range has the id "x"`, ""},
		{"no node", "POST", path, json, `{}`, nil, 400, "must name a node", ""},
		{"no JSON", "POST", path, json, `n2`, nil, 400, "must name a node", ""},
		{"a question", "GET", path, json, "", nil, 405, "Method Not Allowed", ""},
		{"unknown", "POST", path, json, body, &StatusError{400, errors.New("no member")}, 400, "no member", "r7 to n2"},
		{"not taken over", "POST", path, json, body, fmt.Errorf("front: %w", &StatusError{504, errors.New("behind")}), 504, "front: behind", "r7 to n2"},
		{"nobody leads", "POST", path, json, body, errors.New("no leader"), 503, "no leader", "r7 to n2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakeTransfers{err: tt.err}
			cfg := testConfig(&fakeHealth{})
			cfg.Transfers = f
			req := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
			if tt.typ != "" {
				req.Header.Set("Content-Type", tt.typ)
			}
			w := httptest.NewRecorder()
			New(cfg).ServeHTTP(w, req)
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.answer) || f.asked != tt.asked {
				t.Errorf("got %d %q, asked for %q", w.Code, w.Body.String(), f.asked)
			}
		})
	}
	if w := get(New(testConfig(&fakeHealth{})), "POST", path); w.Code != 404 {
		t.Errorf("without anybody who could: %d", w.Code)
	}
}
