package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pontoon/internal/etcdapi/apitest"
)

// session runs the client against a naive cluster in memory.
type session struct {
	addr string
	env  map[string]string
}

type outcome struct {
	out, err string
	code     int
}

func newSession(t *testing.T) *session {
	t.Helper()
	_, addr := apitest.New().Serve(t, nil)
	return &session{addr: addr, env: map[string]string{"ETCDCTL_ENDPOINTS": addr}}
}

func (s *session) run(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{
		in: strings.NewReader(stdin), out: &out, err: &errs,
		getenv: func(k string) string { return s.env[k] },
		pause:  func(context.Context, time.Duration) error { return nil },
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code := a.run(ctx, args)
	return outcome{out: out.String(), err: errs.String(), code: code}
}

// TestSession is one long conversation; each line depends on those above it.
func TestSession(t *testing.T) {
	s := newSession(t)
	for _, tc := range []struct {
		stdin, args string // arguments are separated by blanks, _ stands for an empty one
		out         string
		err         string // part of it
		code        int
	}{
		{args: "put a 1", out: "OK\n"},
		{args: "put a 2 --prev-kv", out: "OK\na\n1\n"},
		{args: "put /奥特曼 光", out: "OK\n"},
		{args: "put b", stdin: "from stdin", out: "OK\n"},
		{args: "put b --ignore-value", out: "OK\n"},
		{args: "put b", err: "put command needs 1 argument", code: 128},
		{args: "put", err: "put command needs", code: 128},
		{args: "put c 1 --lease zz", err: "bad lease ID", code: 128},
		{args: "put c 1 --lease 99", err: "requested lease not found", code: 1},
		{args: "get a", out: "a\n2\n"},
		{args: "get /奥特曼", out: "/奥特曼\n光\n"},
		{args: "get a --rev 2", out: "a\n1\n"},
		{args: "get a --print-value-only", out: "2\n"},
		{args: "get a --hex", out: "\\x61\n\\x32\n"},
		{args: "get _ --prefix --keys-only", out: "/奥特曼\n\na\n\nb\n\n"},
		{args: "get _ --from-key --order descend --limit 1", out: "b\nfrom stdin\n"},
		{args: "get _ --prefix --sort-by VALUE --print-value-only", out: "2\nfrom stdin\n光\n"},
		{args: "get a c --keys-only", out: "a\n\nb\n\n"},
		{args: "get nothing", out: ""},
		{args: "get a --prefix --from-key", err: "cannot be set at the same time", code: 128},
		{args: "get a b --prefix", err: "too many arguments", code: 128},
		{args: "get a --order sideways", err: "bad sort order", code: 4},
		{args: "get a --count-only", err: "--count-only is only for", code: 128},
		{args: "get a --print-value-only -w json", err: "print-value-only is only for", code: 128},
		{args: "get a -w nonsense", err: "unsupported output format", code: 4},
		{args: "get a --rev 99", err: "required revision is a future revision", code: 1},
		{args: "nonsense", err: "unknown command", code: 1},
		{args: "get a --nonsense", err: "unknown flag", code: 1},
		{args: "get _ --prefix --count-only -w fields", out: "\"ClusterID\" : 193\n\"MemberID\" : 17\n\"Revision\" : 6\n\"RaftTerm\" : 7\n\"More\" : false\n\"Count\" : 3\n"},
		{args: "txn", stdin: "mod(\"a\") > \"0\"\n\nput a \"over written\"\nget a\n\nput a 'created'\n\n", out: "SUCCESS\n\nOK\n\na\nover written\n"},
		{args: "txn -i", stdin: "\nget _ --from-keys\n\n\n", err: "invalid txn request: get _ --from-keys", code: 3,
			out: "compares:\nsuccess requests (get, put, del):\n"},
		{args: "txn", stdin: "value(\"a\") = \"x\"\n\n\ndel b --prev-kv\n\n", out: "FAILURE\n\n1\nb\nfrom stdin\n"},
		{args: "txn", stdin: "mod(\"a\") ~ \"0\"\n\n\n\n", err: "unknown operator", code: 3},
		{args: "txn", stdin: "size(\"a\") = \"0\"\n\n\n\n", err: "unknown target", code: 3},
		{args: "txn", stdin: "put a 1\n", err: "malformed comparison", code: 3},
		{args: "txn", stdin: "\nput a 1", err: "EOF", code: 3},
		{args: "txn", stdin: "\nput a 1\nput a 2\n\n\n", err: "duplicate key given in txn request", code: 1},
		{args: "compact 6", out: "compacted revision 6\n"},
		{args: "compaction 6 --physical", err: "required revision has been compacted", code: 1},
		{args: "compact", err: "needs 1 argument", code: 128},
		{args: "watch a --rev 2", err: "watch was canceled (etcdserver: mvcc: required revision has been compacted)", code: 5},
		{args: "watch a --", err: "found separator --, but no commands", code: 128},
		{args: "watch", err: "bad number of arguments", code: 128},
		{args: "watch a b --prefix", err: "mutually exclusive", code: 128},
		{args: "watch -i", stdin: "walk a\nwatch a b c\n", err: "Invalid command: walk a", code: 3},
		{args: "lease grant 60", out: "lease 00000000000003e8 granted with TTL(60s)\n"},
		{args: "put l 1 --lease 3e8", out: "OK\n"},
		{args: "lease timetolive 3e8 --keys", out: "lease 00000000000003e8 granted with TTL(60s), remaining(60s), attached keys([l])\n"},
		{args: "lease keep-alive 3e8 --once", out: "lease 00000000000003e8 keepalived with TTL(60)\n"},
		{args: "lease list", out: "found 1 leases\n00000000000003e8\n"},
		{args: "lease revoke 3e8", out: "lease 00000000000003e8 revoked\n"},
		{args: "lease timetolive 3e8", out: "lease 00000000000003e8 already expired\n"},
		{args: "lease keep-alive 3e8", out: "lease 00000000000003e8 expired or revoked.\n"},
		{args: "lease revoke 3e8", err: "requested lease not found", code: 1},
		{args: "lease grant soon", err: "bad TTL", code: 128},
		{args: "get l", out: ""},
		{args: "del a z", out: "1\n", err: "Warning: Keys between"},
		{args: "del / --prefix --prev-kv", out: "1\n/奥特曼\n光\n"},
		{args: "del _ --from-key", out: "0\n"},
		{args: "members", out: "11, started, one, http://127.0.0.1:2380, http://127.0.0.1:2379, false\n12, unstarted, , http://127.0.0.1:12380, , true\n"},
	} {
		args := strings.Fields(tc.args)
		for i, w := range args {
			if w == "_" {
				args[i] = ""
			}
		}
		got := s.run(t, tc.stdin, args...)
		if got.code != tc.code || got.out != tc.out || !strings.Contains(got.err, tc.err) {
			t.Errorf("%s\n got %d %q %q\nwant %d %q %q", tc.args, got.code, got.out, got.err, tc.code, tc.out, tc.err)
		}
	}
}

func TestJSON(t *testing.T) {
	s := newSession(t)
	s.run(t, "", "put", "a", "1")
	for _, tc := range []struct{ stdin, args, want string }{
		{"", "get a", `{"header":{"cluster_id":193,"member_id":17,"revision":2,"raft_term":7},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":2,"version":1,"value":"MQ=="}],"count":1}`},
		{"\nget a\n\n\n", "txn", `{"header":{"cluster_id":193,"member_id":17,"revision":2,"raft_term":7},"succeeded":true,"responses":[{"Response":{"response_range":{"header":{"revision":2},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":2,"version":1,"value":"MQ=="}],"count":1}}}]}`},
		{"", "del a", `{"header":{"cluster_id":193,"member_id":17,"revision":3,"raft_term":7},"deleted":1}`},
		{"", "lease grant 60", `{"cluster_id":193,"member_id":17,"revision":3,"raft_term":7,"ID":1000,"TTL":60,"Error":""}`},
		{"", "compact 3", `{"header":{"cluster_id":193,"member_id":17,"revision":3,"raft_term":7}}`},
	} {
		got := s.run(t, tc.stdin, append(strings.Fields(tc.args), "-w", "json")...)
		if got.code != 0 || strings.TrimSpace(got.out) != tc.want {
			t.Errorf("%s:\n got %s %s\nwant %s", tc.args, got.out, got.err, tc.want)
		}
	}
}

func TestTable(t *testing.T) {
	s := newSession(t)
	s.run(t, "", "put", "a", "1")
	want := "KEY  VALUE  CREATE REV  MOD REV  VERSION  LEASE\na    1      2           2        1        0\n"
	if got := s.run(t, "", "get", "a", "-w", "table"); got.out != want {
		t.Errorf("got %q, want %q", got.out, want)
	}
	for _, args := range []string{"put a 2", "get _ --prefix", "del a --prev-kv", "members", "status", "lease list", "lease timetolive 1", "status --cluster=false"} {
		words := strings.Fields(strings.ReplaceAll(args, "_", "x"))
		if got := s.run(t, "", append(words, "-w", "table")...); got.code != 0 || got.out == "" {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := s.run(t, "\nput b 1\nget b\n\n\n", "txn", "-w", "table"); !strings.Contains(got.out, "txn succeeded=true") {
		t.Errorf("txn: %+v", got)
	}
}

func TestStatus(t *testing.T) {
	s := newSession(t)
	got := s.run(t, "", "status")
	want := s.addr + ", 11, 3.7.3, 3.7.0, 8.2 kB, 4.1 kB, 50%, 2.1 GB, true, false, 7, 10, 9, \n"
	if got.out != want || got.code != 0 {
		t.Errorf("got %q, want %q", got.out, want)
	}
	down := s.run(t, "", "status", "--endpoints", s.addr+",127.0.0.1:1", "--command-timeout", "300ms", "--dial-timeout", "100ms")
	if down.code != 1 || !strings.Contains(down.out, "3.7.3") || !strings.Contains(down.err, "127.0.0.1:1") {
		t.Errorf("with one that is down: %+v", down)
	}
}

// TestWatchCommand runs a command for each event; the watch ends when the test says so.
func TestWatchCommand(t *testing.T) {
	s := newSession(t)
	s.run(t, "", "put", "a", "1")
	s.run(t, "", "put", "a", "2")
	got := s.run(t, "", "watch", "a", "--rev", "1", "--prev-kv", "--", "sh", "-c", `echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"; test "$ETCD_WATCH_VALUE" != '"2"'`)
	if got.code != 1 || got.out != "PUT\na\n1\nPUT\na\n1\na\n2\n\"PUT\" \"a\" \"1\"\n\"PUT\" \"a\" \"2\"\n" {
		t.Errorf("got %+v", got)
	}
	s.env["CLIENT_WATCH_KEY"] = "a"
	if got := s.run(t, "", "watch", "b"); got.code != 128 || !strings.Contains(got.err, "conflicting environment key") {
		t.Errorf("got %+v", got)
	}
}

// TestDirect says where keys go: the server of these tests is one that routing clients cannot use.
func TestDirect(t *testing.T) {
	s := newSession(t)
	for _, tc := range []struct {
		args, out, err string
		code           int
	}{
		{args: "put a 1", out: "OK\n"},
		{args: "put a 2 --direct never", out: "OK\n"},
		{args: "get a --direct auto", out: "a\n2\n"},
		{args: "get a --direct always", err: "do not serve routing clients", code: exitBadConnection},
		{args: "members --direct always -w json", out: "{"},
		{args: "get a --direct sometimes", err: "--direct is", code: exitBadArgs},
	} {
		got := s.run(t, "", strings.Fields(tc.args)...)
		if got.code != tc.code || !strings.HasPrefix(got.out, tc.out) || !strings.Contains(got.err, tc.err) || tc.err == "" && got.err != "" {
			t.Errorf("%s: got %+v", tc.args, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	s := newSession(t)
	s.env["CLIENT_ENDPOINTS"] = s.addr
	s.env["ETCDCTL_ENDPOINTS"] = "127.0.0.1:1" // ours comes first
	s.env["ETCDCTL_API"] = "3"
	s.env["ETCDCTL_WRITE_OUT"] = "json"
	if got := s.run(t, "", "put", "a", "1"); got.code != 0 || !strings.HasPrefix(got.out, "{") {
		t.Errorf("got %+v", got)
	}
	if got := s.run(t, "", "put", "a", "1", "--write-out", "simple"); got.out != "OK\n" {
		t.Errorf("a flag wins: %+v", got)
	}
	s.env["CLIENT_DIAL_TIMEOUT"] = "soon"
	if got := s.run(t, "", "put", "a", "1"); got.code != 128 || !strings.Contains(got.err, "CLIENT_DIAL_TIMEOUT") {
		t.Errorf("got %+v", got)
	}
}

func TestRanges(t *testing.T) {
	list := []rangeInfo{
		{ID: 2, End: []byte("m"), Generation: 1, Leader: 0x11, Term: 3, Replicas: []replicaInfo{{Replica: 1, Node: 0x11, Name: "n1"}, {Replica: 2, Node: 0x12, Name: "n2"}}, Keys: 10, Size: 65536, SizeInUse: 4096, Revision: 7, Applied: 9},
		{ID: 3, Start: []byte("m"), Replicas: []replicaInfo{{Replica: 1, Node: 0x12}}, Quiescent: true, Sticky: true, StickyUntil: time.Now().Add(time.Hour + 100*time.Millisecond)},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != rangesPath {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(list) // the client's complaint is what the test looks at
	}))
	defer srv.Close()
	s := &session{env: map[string]string{"ETCDCTL_ENDPOINTS": "127.0.0.1:1," + srv.URL}} // the first is down
	got := s.run(t, "", "ranges")
	want := "r2, -inf, \"m\", 1, n1, 3, n1,n2, 10, 66 kB, 4.1 kB, 7, 9, false, false\nr3, \"m\", +inf, 0, none, 0, 12, 0, 0 B, 0 B, 0, 0, true, for 1h0m0s\n"
	if got.out != want {
		t.Errorf("got %+v\nwant %q", got, want)
	}
	for _, format := range []string{"table", "fields", "json"} {
		if got := s.run(t, "", "ranges", "-w", format); got.code != 0 || got.out == "" {
			t.Errorf("%s: %+v", format, got)
		}
	}
	srv.Close()
	if got := s.run(t, "", "ranges", "--command-timeout", "1s"); got.code != exitBadConnection {
		t.Errorf("nobody there: %+v", got)
	}
}

// TestRangesLead: the first endpoint is down; the answer is printed in every format, and what is wrong is said.
func TestRangesLead(t *testing.T) {
	asked := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what is missing shows below
		asked = r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(body)
		switch {
		case strings.Contains(asked, "n9"):
			http.Error(w, "request timed out: the replica on node 9 is 4 entries behind", http.StatusGatewayTimeout)
		case strings.Contains(asked, "old"):
			http.NotFound(w, r)
		default:
			_ = json.NewEncoder(w).Encode(transferred{Range: 5, Leader: 0x12, Name: "n2", Term: 8, StoodMicros: 2500})
		}
	}))
	defer srv.Close()
	s := &session{env: map[string]string{"ETCDCTL_ENDPOINTS": "127.0.0.1:1," + srv.URL}}
	for _, id := range []string{"r5", "5"} {
		if got := s.run(t, "", "ranges", "lead", id, "n2"); got.out != "r5: n2 leads in term 8; requests waited for 2.5ms\n" || got.code != 0 {
			t.Errorf("%s: %+v", id, got)
		}
		if want := `POST /pontoon/v1/ranges/5/leader application/json {"node":"n2","timeout_ms":4500}`; asked != want {
			t.Errorf("asked %s, want %s", asked, want)
		}
	}
	for _, format := range []string{"table", "fields", "json"} {
		if got := s.run(t, "", "ranges", "lead", "r5", "n2", "-w", format); got.code != 0 || !strings.Contains(got.out, "n2") {
			t.Errorf("%s: %+v", format, got)
		}
	}
	for _, tt := range []struct {
		args, err string
		code      int
	}{
		{"r5", "needs a range and a node", exitBadArgs},
		{"five n2", `"five" is no range`, exitBadArgs},
		{"r5 n9", "the replica on node 9 is 4 entries behind", exitError},
		{"r5 old", "an older version", exitError},
		{"r5 n2 --endpoints 127.0.0.1:1", "refused", exitBadConnection},
	} {
		if got := s.run(t, "", append([]string{"ranges", "lead"}, strings.Fields(tt.args)...)...); got.code != tt.code || !strings.Contains(got.err, tt.err) {
			t.Errorf("%s: %+v", tt.args, got)
		}
	}
}

func TestCompletion(t *testing.T) {
	s := &session{}
	for _, args := range [][]string{{"completion", "bash"}, {"version"}, {"--help"}} {
		if got := s.run(t, "", args...); got.code != 0 || got.out == "" {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for line, want := range map[string]string{
		`put a "b c"`:    `put|a|b c`,
		`put 'a b' "\t"`: "put|a b|\t",
		`  get   x  `:    `get|x`,
		`put a "b`:       "error",
		`put 'a`:         "error",
		``:               ``,
	} {
		words, err := splitWords(line)
		got := strings.Join(words, "|")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestHTTPURL(t *testing.T) {
	for _, tt := range []struct {
		endpoint string
		tls      bool
		want     string // "": refused
	}{
		{"n1:2379", false, "http://n1:2379/p?q"},
		{"n1:2379", true, "https://n1:2379/p?q"},
		{"http://n1:2379", true, "http://n1:2379/p?q"},
		{"https://n1:2379", false, "https://n1:2379/p?q"},
		{"unix:///run/a.sock", true, "http://localhost/p?q"},
		{"unixs:///run/a.sock", false, "https://localhost/p?q"},
		{"ftp://n1", false, ""},
	} {
		g := globalFlags{insecureTransport: !tt.tls}
		if got, err := g.httpURL(tt.endpoint, "/p?q"); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.endpoint, got, err)
		}
	}
	for endpoint, want := range map[string]string{"unix:///run/a.sock": "/run/a.sock", "unixs://a:1": "a:1", "unix:rel.sock": "rel.sock", "http://unix:1": ""} {
		if got, ok := socket(endpoint); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %v", endpoint, got, ok)
		}
	}
}
