package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// opsNode is a node that answers about ops.
type opsNode struct {
	asked []string
	looks []opInfo // what is told of the op, one after the other
	begin func(w http.ResponseWriter)
	// looked is called with the first look at the op; nil: nothing is.
	looked func()
}

func (n *opsNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // what is missing shows below
	n.asked = append(n.asked, strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.Header.Get("Content-Type"), " ", string(body))))
	switch {
	case r.Method == http.MethodPost && n.begin != nil:
		n.begin(w)
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(opInfo{ID: 7, Kind: "split", Range: 2, Key: []byte("m\x80"), Child: 9, Outcome: opUnderWay})
	case r.URL.Path == opsPath+"/7" && len(n.looks) > 0:
		if n.looked != nil {
			n.looked()
			n.looked = nil
		}
		_ = json.NewEncoder(w).Encode(n.looks[0])
		if len(n.looks) > 1 {
			n.looks = n.looks[1:]
		}
	case r.URL.Path == opsPath:
		_ = json.NewEncoder(w).Encode(n.looks)
	default:
		http.Error(w, "no op has the id", http.StatusNotFound)
	}
}

func newOpsNode(t *testing.T, looks ...opInfo) (*opsNode, *session) {
	t.Helper()
	n := &opsNode{looks: looks}
	srv := httptest.NewServer(n)
	t.Cleanup(srv.Close)
	return n, &session{env: map[string]string{"ETCDCTL_ENDPOINTS": "127.0.0.1:1," + srv.URL}} // the first is down
}

var (
	opOpen   = opInfo{ID: 7, Kind: "split", Range: 2, Generation: 3, Key: []byte("m\x80"), Child: 9, Reason: "by hand", Outcome: opUnderWay, Waiting: "r2 has no leader", Began: time.Now().Add(-36*time.Hour - 35*time.Minute)}
	opOver   = opInfo{ID: 7, Kind: "split", Range: 2, Generation: 3, Key: []byte("m\x80"), Child: 9, Reason: "by hand", Outcome: opDone, Began: time.UnixMilli(1000), Ended: time.UnixMilli(3500), StoodMicros: 1500}
	opFailed = opInfo{ID: 7, Kind: "split", Range: 2, Key: []byte("m\x80"), Child: 9, Outcome: "given up", Failure: "database space exceeded", Began: time.UnixMilli(1000), Ended: time.UnixMilli(3500)}
)

// TestRangesSplit: it is asked for once, waited for, and what became of it is told by text and exit code.
func TestRangesSplit(t *testing.T) {
	n, s := newOpsNode(t, opOpen, opOpen, opOver)
	got := s.run(t, "", "ranges", "split", `m\x80`)
	if got.out != "r2 was split: r9 has the keys from \"m\\x80\" on; requests waited for 1.5ms\n" || got.code != 0 || got.err != "" {
		t.Errorf("%+v", got)
	}
	want := `POST /pontoon/v1/ops application/json {"split":{"key":"bYA=","sticky":true},"reason":"by hand","timeout_ms":4500}`
	if len(n.asked) != 4 || n.asked[0] != want || n.asked[1] != "GET /pontoon/v1/ops/7" {
		t.Errorf("asked %q, want %s", n.asked, want)
	}
	n, s = newOpsNode(t)
	if got := s.run(t, "", "ranges", "split", `"m\x80"`, "--wait=false", "--reason", "too large"); got.out != "op 7: r2 is being split at \"m\\x80\"\n" || got.code != 0 {
		t.Errorf("%+v", got)
	}
	if len(n.asked) != 1 || !strings.Contains(n.asked[0], `"reason":"too large"`) {
		t.Errorf("asked %q", n.asked)
	}
	for flag, want := range map[string]string{"--for=90m": `{"key":"bQ==","sticky":true,"sticky_s":5400}`, "--sticky=false": `{"key":"bQ==","sticky":false}`} {
		n, s := newOpsNode(t)
		if got := s.run(t, "", "ranges", "split", "m", "--wait=false", flag); got.code != 0 || len(n.asked) != 1 || !strings.Contains(n.asked[0], want) {
			t.Errorf("%s: %+v, asked %q", flag, got, n.asked)
		}
	}
	for _, format := range []string{"table", "fields", "json"} {
		_, s := newOpsNode(t, opFailed)
		if got := s.run(t, "", "ranges", "split", "m", "-w", format); got.code != exitError || !strings.Contains(got.out, "given up") || !strings.Contains(got.err, "op 7 was given up, and r2 is as it was: database space exceeded") {
			t.Errorf("%s: %+v", format, got)
		}
	}
	if got := s.run(t, "", "ranges", "split", "m"); got.code != exitError || !strings.Contains(got.err, "nobody remembers") || got.out != "" {
		t.Errorf("forgotten: %+v", got)
	}
}

// TestRangesSplitRefused: who may not is told why.
func TestRangesSplitRefused(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		err    string
		code   int
	}{
		{args: nil, err: "needs a key", code: exitBadArgs},
		{args: []string{""}, err: "the key space begins at the empty key", code: exitBadArgs},
		{args: []string{"m", "--for=1h", "--sticky=false"}, err: "--for is how long", code: exitBadArgs},
		{args: []string{"m", "--for=900ms"}, err: "--for is how long", code: exitBadArgs},
		{args: []string{`a\q`}, err: "Go's escapes", code: exitBadArgs},
		{args: []string{"m"}, status: http.StatusConflict, err: "is being split by op 3", code: exitError},
		{args: []string{"m", "--endpoints", "127.0.0.1:1"}, err: "refused", code: exitBadConnection},
	} {
		n, s := newOpsNode(t)
		n.begin = func(w http.ResponseWriter) { http.Error(w, "r2 is being split by op 3", tt.status) }
		if got := s.run(t, "", append([]string{"ranges", "split"}, tt.args...)...); got.code != tt.code || !strings.Contains(got.err, tt.err) || got.out != "" {
			t.Errorf("%q: %+v", tt.args, got)
		}
	}
	n, s := newOpsNode(t)
	n.begin = func(w http.ResponseWriter) { http.NotFound(w, nil) }
	if got := s.run(t, "", "ranges", "split", "m"); got.code != exitError || !strings.Contains(got.err, "an older version") {
		t.Errorf("an older node: %+v", got)
	}
	n.begin = func(w http.ResponseWriter) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = c.Close() // the answer is lost
	}
	if got := s.run(t, "", "ranges", "split", "m"); got.code != exitBadConnection || !strings.Contains(got.err, "it may have begun") {
		t.Errorf("a lost answer: %+v", got)
	}
}

// TestRangesUnstick: it is asked for, and what came of it is told.
func TestRangesUnstick(t *testing.T) {
	n, s := newOpsNode(t)
	n.begin = func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(stuckInfo{[]byte("m\x80"), `m\x80`}) }
	for format, want := range map[string]string{"simple": `the border at "m\x80" need not stay any more`, "json": `{"key":"bYA=","key_text":"m\\x80"}`, "table": `"m\x80"`, "fields": `"Key" : "m\x80"`} {
		if got := s.run(t, "", "ranges", "unstick", `m\x80`, "-w", format); got.code != 0 || !strings.Contains(got.out, want) {
			t.Errorf("%s: %+v, want %s", format, got, want)
		}
	}
	if want := `POST /pontoon/v1/ranges/unstick application/json {"key":"bYA="}`; n.asked[0] != want {
		t.Errorf("asked %q, want %s", n.asked, want)
	}
	n.begin = func(w http.ResponseWriter) { http.Error(w, "nobody has asked", http.StatusBadRequest) }
	if got := s.run(t, "", "ranges", "unstick", "m"); got.code != exitError || !strings.Contains(got.err, "nobody has asked") {
		t.Errorf("refused: %+v", got)
	}
	for _, args := range [][]string{{}, {"a", "b"}, {`a\q`}} {
		if got := s.run(t, "", append([]string{"ranges", "unstick"}, args...)...); got.code != exitBadArgs {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// TestRangesSplitInterrupted: who interrupts the wait is told that the op goes on.
func TestRangesSplitInterrupted(t *testing.T) {
	n, s := newOpsNode(t, opOpen)
	n.looked = func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}
	if got := s.run(t, "", "ranges", "split", "m"); got.code != exitInterrupted || !strings.Contains(got.err, "op 7 goes on; `client ops 7`") || got.out != "" {
		t.Errorf("%+v", got)
	}
}

// TestOps lists all, or one.
func TestOps(t *testing.T) {
	_, s := newOpsNode(t, opOpen, opOver, opFailed)
	got := s.run(t, "", "ops")
	for _, want := range []string{
		`7, split, r2, r9 from "m\x80" on, under way, 36h3`, `, -, by hand, r2 has no leader`,
		`, 2.5s, 1.5ms, by hand, `, `, given up, `, `, 2.5s, -, , database space exceeded`,
	} {
		if !strings.Contains(got.out, want) || got.code != 0 {
			t.Errorf("%q is missing in %+v", want, got)
		}
	}
	for _, format := range []string{"table", "fields", "json"} {
		if got := s.run(t, "", "ops", "-w", format); got.code != 0 || !strings.Contains(got.out, "r2 has no leader") {
			t.Errorf("%s: %+v", format, got)
		}
	}
	if got := s.run(t, "", "ops", "7"); got.code != 0 || strings.Count(got.out, "\n") != 1 {
		t.Errorf("one: %+v", got)
	}
	for args, want := range map[string]outcome{
		"8":                         {err: "no op has the id", code: exitError},
		"seven":                     {err: `"seven" is no op`, code: exitBadArgs},
		"7 8":                       {err: "one id at most", code: exitBadArgs},
		"7 --endpoints 127.0.0.1:1": {err: "refused", code: exitBadConnection},
	} {
		if got := s.run(t, "", append([]string{"ops"}, strings.Fields(args)...)...); got.code != want.code || !strings.Contains(got.err, want.err) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}
