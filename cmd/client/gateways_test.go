package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestGateways: what a gateway has said of itself is there in every format, what it mirrors, too.
func TestGateways(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != gatewaysPath {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `[{"gateway":10,"name":"g1","client_urls":["http://a:1","http://b:1"],"version":"0.1.0","watchers":7,"streams":3,"mirror_keys":12,"mirror_bytes":4096,"age_ms":1200,"level":2,"upstreams":[{"url":"http://u:1","gateway":11,"feeds":5},{"url":"http://v:1","gateway":0,"feeds":0,"refused":"a ring"},{"url":"http://w:1","gateway":0,"feeds":0}]},`+
			`{"gateway":11,"name":"old","client_urls":["http://c:1"],"version":"0.0.9","watchers":0,"streams":0,"age_ms":0}]`)
	}))
	defer srv.Close()
	s := &session{env: map[string]string{"ETCDCTL_ENDPOINTS": srv.URL}}
	want := "a, g1, http://a:1,http://b:1, 0.1.0, 3, 7, 12, 4.1 kB, http://u:1 (5 feeds), http://v:1 (refused: a ring), http://w:1 (not reached), 1.2s ago\nb, old, http://c:1, 0.0.9, 0, 0, 0, 0 B, members, 0s ago\n"
	if got := s.run(t, "", "gateways"); got.code != 0 || got.out != want {
		t.Errorf("%+v", got)
	}
	for format, want := range map[string][]string{
		"table":  {"MIRRORED KEYS", "MIRRORED BYTES", "4.1 kB"},
		"fields": {`"MirrorKeys" : 12`, `"MirrorBytes" : 4096`, `"Level" : 2`, `"UpstreamFeeds" : 5`, `"UpstreamRefused" : "a ring"`},
		"json":   {`"mirror_keys":12`, `"mirror_bytes":4096`, `"upstreams":[{"url":"http://u:1"`},
	} {
		got := s.run(t, "", "gateways", "-w", format)
		for _, part := range want {
			if got.code != 0 || !strings.Contains(got.out, part) {
				t.Errorf("%s: no %q in %+v", format, part, got)
			}
		}
	}
}
