package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// fakeOps notes what it was asked, and answers as it was told.
type fakeOps struct {
	err   error
	asked string
	left  time.Duration
}

func (f *fakeOps) BeginMerge(_ context.Context, key []byte, reason string) (Op, error) {
	f.asked = fmt.Sprintf("merge at %q: %s", key, reason)
	return Op{ID: 9, Kind: "merge", Range: 2, Key: key, Child: 3, Outcome: "under way"}, f.err
}

func (f *fakeOps) BeginMove(_ context.Context, id uint64, from, to, reason string) (Op, error) {
	f.asked = fmt.Sprintf("move %d from %q to %q: %s", id, from, to, reason)
	return Op{ID: 8, Kind: "move", Range: id, From: from, To: to, Outcome: "under way"}, f.err
}

func (f *fakeOps) BeginSplit(ctx context.Context, key []byte, sticky time.Duration, reason string) (Op, error) {
	f.asked = fmt.Sprintf("split at %q for %v: %s", key, sticky, reason)
	end, _ := ctx.Deadline()
	f.left = time.Until(end)
	return Op{ID: 7, Kind: "split", Range: 2, Key: key, Outcome: "under way"}, f.err
}

func (f *fakeOps) Unstick(_ context.Context, key []byte) (Border, error) {
	f.asked = fmt.Sprintf("unstick %q", key)
	return Border{key, `m\x80`}, f.err
}

func (f *fakeOps) Op(_ context.Context, id uint64) (Op, error) {
	f.asked = fmt.Sprint("op ", id)
	return Op{ID: id, Outcome: "done"}, f.err
}

func (f *fakeOps) List(context.Context) ([]Op, error) {
	f.asked = "all"
	return nil, f.err
}

// TestOps: an op is begun, and looked at; what is malformed or comes from a page of another origin begins nothing.
func TestOps(t *testing.T) {
	const path, json = "/pontoon/v1/ops", "application/json"
	tests := []struct {
		name, method, path, typ, body string
		err                           error
		code                          int
		answer, asked                 string
	}{
		{"begun", "POST", path, json, `{"split":{"key":"bYA="},"reason":"by hand"}`, nil, 202, `{"id":7,"kind":"split","range":2,`, `split at "m\x80" for -1ns: by hand`},
		{"begun by a text", "POST", path, json, `{"split":{"key_text":"m"}}`, nil, 202, `"outcome":"under way"`, `split at "m" for -1ns: `},
		{"at no key, which is not decided here", "POST", path, json, `{"split":{}}`, &StatusError{400, errors.New("cannot be cut there")}, 400, "cannot be cut there", `split at "" for -1ns: `},
		{"for a time", "POST", path, json, `{"split":{"key_text":"m","sticky_s":3600}}`, nil, 202, `"outcome":"under way"`, `split at "m" for 1h0m0s: `},
		{"not to stay", "POST", path, json, `{"split":{"key_text":"m","sticky":false}}`, nil, 202, `"outcome":"under way"`, `split at "m" for 0s: `},
		{"not to stay, for a time", "POST", path, json, `{"split":{"key_text":"m","sticky":false,"sticky_s":1}}`, nil, 400, "the body must say", ""},
		{"for less than no time", "POST", path, json, `{"split":{"key_text":"m","sticky_s":-1}}`, nil, 400, "the body must say", ""},
		{"unstuck", "POST", "/pontoon/v1/ranges/unstick", json, `{"key":"bYA="}`, nil, 200, `{"key":"bYA=","key_text":"m\\x80"}`, `unstick "m\x80"`},
		{"unstuck by a text", "POST", "/pontoon/v1/ranges/unstick", json, `{"key_text":"m"}`, &StatusError{400, errors.New("nobody has asked")}, 400, `nobody has asked`, `unstick "m"`},
		{"unstuck by a form", "POST", "/pontoon/v1/ranges/unstick", "text/plain", `{"key_text":"m"}`, nil, 415, json, ""},
		{"unstuck by two keys", "POST", "/pontoon/v1/ranges/unstick", json, `{"key":"bYA=","key_text":"m"}`, nil, 400, "must name a border", ""},
		{"two keys", "POST", path, json, `{"split":{"key":"bYA=","key_text":"m"}}`, nil, 400, "the body must say", ""},
		{"no base64", "POST", path, json, `{"split":{"key":"?"}}`, nil, 400, "the body must say", ""},
		{"nothing", "POST", path, json, `{}`, nil, 400, "the body must say", ""},
		{"no JSON", "POST", path, json, `m`, nil, 400, "the body must say", ""},
		{"too much", "POST", path, json, `{"reason":"` + strings.Repeat("w", beginOpBytesMax) + `"}`, nil, 400, "the body must say", ""},
		{"a form", "POST", path, "text/plain", `{"split":{"key_text":"m"}}`, nil, 415, json, ""},
		{"in the way", "POST", path, json, `{"split":{"key_text":"m"}}`, &StatusError{409, errors.New("op 3")}, 409, "op 3", `split at "m" for -1ns: `},
		{"nobody leads", "POST", path, json, `{"split":{"key_text":"m"}}`, errors.New("no leader"), 503, "no leader", `split at "m" for -1ns: `},
		{"one", "GET", path + "/9", "", "", nil, 200, `{"id":9,`, "op 9"},
		{"none", "GET", path + "/9", "", "", &StatusError{404, errors.New("no such op")}, 404, "no such op", "op 9"},
		{"no id", "GET", path + "/nine", "", "", nil, 400, `no op has the id "nine"`, ""},
		{"all", "GET", path, "", "", nil, 200, `[]`, "all"},
		{"all, of nobody", "GET", path, "", "", errors.New("no leader"), 503, "no leader", "all"},
		{"taken back", "DELETE", path + "/9", "", "", nil, 405, "Method Not Allowed", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakeOps{err: tt.err}
			cfg := testConfig(&fakeHealth{})
			cfg.Ops, cfg.Borders = f, f
			req := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
			if tt.typ != "" {
				req.Header.Set("Content-Type", tt.typ)
			}
			w := httptest.NewRecorder()
			New(cfg).ServeHTTP(w, req)
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.answer) || f.asked != tt.asked {
				t.Errorf("got %d %q, asked for %q", w.Code, w.Body.String(), f.asked)
			}
			if w.Code == 202 && (w.Header().Get("Location") != path+"/7" || w.Header().Get("Content-Type") != json) {
				t.Errorf("header %v", w.Header())
			}
		})
	}
	if w := get(New(testConfig(&fakeHealth{})), "GET", path); w.Code != 404 {
		t.Errorf("without anybody who could: %d", w.Code)
	}
	f := &fakeOps{}
	cfg := testConfig(&fakeHealth{})
	cfg.Ops, cfg.RequestTimeout = f, time.Hour
	for body, bound := range map[string]time.Duration{`{"split":{"key_text":"m"},"timeout_ms":60000}`: time.Minute, `{"split":{"key_text":"m"},"timeout_ms":7200000}`: time.Hour} {
		req := httptest.NewRequest("POST", path, strings.NewReader(body))
		req.Header.Set("Content-Type", json)
		New(cfg).ServeHTTP(httptest.NewRecorder(), req)
		if f.left > bound || f.left < bound/2 {
			t.Errorf("%s: %v are left", body, f.left)
		}
	}
}
