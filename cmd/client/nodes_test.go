package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestNodes empties a node and waits for it, lets it fill again, and says what a node says against it.
func TestNodes(t *testing.T) {
	left, state := 2, "present"
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		switch {
		case strings.Contains(r.URL.Path, "n9"):
			http.Error(w, "no member has the name or the id \"n9\"", http.StatusBadRequest)
			return
		case strings.HasSuffix(r.URL.Path, "/drain"):
			state = "draining"
		case strings.HasSuffix(r.URL.Path, "/undrain"):
			state = "present"
		case state == "draining":
			left--
		}
		told := ""
		if strings.HasSuffix(r.URL.Path, "n1") {
			told = `,"leads":1,"bytes":4096`
		}
		fmt.Fprintf(w, `{"node":10,"name":"n1","state":%q,"replicas":%d%s}`, state, left, told)
	}))
	defer srv.Close()
	s := &session{env: map[string]string{"ETCDCTL_ENDPOINTS": srv.URL}}
	if got := s.run(t, "", "nodes", "show", "n1"); got.code != 0 || got.out != "n1 is present, with 2 replicas, 1 of them leading, 4.1 kB in use\n" {
		t.Errorf("%+v", got)
	}
	if got := s.run(t, "", "nodes", "drain", "n1"); got.code != 0 || got.out != "n1 is draining, with 2 replicas\n" {
		t.Errorf("%+v", got)
	}
	if got := s.run(t, "", "nodes", "drain", "n1", "--wait"); got.code != 0 || got.out != "n1 is draining, with 0 replicas\n" || asked[len(asked)-1] != "GET /pontoon/v1/nodes/a" {
		t.Errorf("%+v, asked %q", got, asked)
	}
	for _, format := range []string{"table", "fields", "json"} {
		if got := s.run(t, "", "nodes", "show", "n1", "-w", format); got.code != 0 || !strings.Contains(got.out, "draining") {
			t.Errorf("%s: %+v", format, got)
		}
	}
	if got := s.run(t, "", "nodes", "undrain", "n1"); got.code != 0 || !strings.Contains(got.out, "n1 is present") {
		t.Errorf("%+v", got)
	}
	if got := s.run(t, "", "nodes", "drain", "n9"); got.code == 0 || !strings.Contains(got.err, "no member has the name") {
		t.Errorf("%+v", got)
	}
	for _, bad := range [][]string{{"nodes", "drain"}, {"nodes", "show", "n1", "n2"}, {"nodes", "n1"}} {
		if got := s.run(t, "", bad...); got.code != exitBadArgs {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
