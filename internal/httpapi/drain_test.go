package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

type fakeDrains struct{ asked string }

func (f *fakeDrains) Placement(_ context.Context, node string) (Placement, error) {
	f.asked = "placement " + node
	return Placement{Node: 5, Name: node, State: "present", Replicas: 3}, nil
}

func (f *fakeDrains) Drain(_ context.Context, node string, drain bool) (Placement, error) {
	if node == "nobody" {
		return Placement{}, &StatusError{Status: http.StatusBadRequest, Err: errors.New("no such member")}
	}
	f.asked = map[bool]string{true: "drain ", false: "undrain "}[drain] + node
	return Placement{Node: 5, Name: node, State: "draining", Replicas: 3}, nil
}

// TestDrain: members are looked at and marked, and a page of another origin cannot do that.
func TestDrain(t *testing.T) {
	f := &fakeDrains{}
	h := New(Config{Drains: f})
	for _, tc := range []struct {
		method, path, kind string
		status             int
		says, asked        string
	}{
		{"GET", "/pontoon/v1/nodes/n1", "", 200, `"replicas":3`, "placement n1"},
		{"POST", "/pontoon/v1/nodes/n1/drain", "application/json", 200, `"state":"draining"`, "drain n1"},
		{"POST", "/pontoon/v1/nodes/n1/undrain", "application/json", 200, `"name":"n1"`, "undrain n1"},
		{"POST", "/pontoon/v1/nodes/nobody/drain", "application/json", 400, "no such member", ""},
		{"POST", "/pontoon/v1/nodes/n1/drain", "text/plain", 415, "application/json", ""},
	} {
		f.asked = ""
		r := httptest.NewRequest(tc.method, tc.path, strings.NewReader("{}"))
		r.Header.Set("Content-Type", tc.kind)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.says) || f.asked != tc.asked {
			t.Errorf("%s %s: %d %s, asked %q", tc.method, tc.path, w.Code, w.Body, f.asked)
		}
	}
}
