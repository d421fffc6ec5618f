package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// runServer runs the binary to its end.
func runServer(t *testing.T, environ []string, args ...string) (code int, output string) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t, 20*time.Second), env.server, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), environ...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// TestCommandLine compares exit codes and texts; the expectations are etcd's.
func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		code int
		want string
	}{
		{"version", nil, []string{"--version"}, 0, "etcd Version: 3.7.3"},
		{"help", nil, []string{"--help"}, 0, "--initial-cluster-token"},
		{"unknown flag", nil, []string{"--nope"}, 2, "flag provided but not defined: -nope"},
		{"not a flag", nil, []string{"nope"}, 1, `is not a valid flag`},
		{"host name", nil, []string{"--listen-client-urls=http://example.com:1", "--advertise-client-urls=http://127.0.0.1:1"}, 1, "expected IP in URL for binding (http://example.com:1)"},
		{"host name in a variable", []string{"ETCD_LISTEN_PEER_URLS=http://example.com:1"}, nil, 1, "expected IP in URL for binding (http://example.com:1)"},
		{"election timeout", nil, []string{"--election-timeout=400"}, 1, "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"},
		{"local name", nil, []string{"--name=x", "--initial-cluster=y=http://localhost:2380"}, 1, `couldn't find local name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out := runServer(t, tt.env, tt.args...)
			if code != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d, want %d; output:\n%s\nwant: %s", code, tt.code, out, tt.want)
			}
		})
	}
}

// TestReadyNeedsQuorum starts the nodes one by one: no node may say that it serves before two run.
func TestReadyNeedsQuorum(t *testing.T) {
	lengthy(t)
	c := describeCluster(t, harness.Options{})
	ctx := testContext(t, startTimeout)
	if err := c.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := c.Nodes[0].WaitReady(short); err == nil {
		t.Fatal("ready without a quorum")
	}
	if err := c.Nodes[1].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if resp, err := newClient(t, c, c.Nodes[0].ClientURL).Get(ctx, "x"); err != nil || resp.Header.Revision != 1 {
		t.Errorf("a fresh cluster answers %v, %v", resp, err)
	}
	if err := c.Nodes[2].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestLogLines: one JSON object a line with etcd's fields.
func TestLogLines(t *testing.T) {
	c := sharedCluster(t)
	n := 0
	for _, line := range lines(c.Nodes[0].Log()) {
		if !strings.HasPrefix(line, "{") {
			if env.kind == harness.Pontoon {
				t.Errorf("not JSON: %s", line)
			}
			continue
		}
		var m struct{ Level, TS, Caller, Msg string }
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Errorf("%v: %s", err, line)
			continue
		}
		if m.Level == "" || m.Caller == "" {
			t.Errorf("a field is missing: %s", line)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000000Z", m.TS); err != nil {
			t.Error(err)
		}
		n++
	}
	log := c.Nodes[0].Log()
	for _, want := range []string{`"msg":"ready to serve client requests"`, "serving client traffic insecurely"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	if n < 5 {
		t.Errorf("%d lines", n)
	}
}

func TestHTTPEndpoints(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	for _, tt := range []struct{ path, want string }{
		{"/version", `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{"/health", `{"health":"true","reason":""}`},
		{"/health?serializable=true", `{"health":"true","reason":""}`},
		{"/livez", "ok\n"},
		{"/readyz?verbose", "[+]linearizable_read ok\n"},
		{"/readyz/serializable_read", "ok\n"},
		{"/metrics", "etcd_server_has_leader 1"},
		{"/metrics", "go_goroutines"},
	} {
		eventually(t, limit(10*time.Second), tt.path, func() error {
			code, body, err := httpGet(ctx, c.Nodes[1].ClientURL+tt.path)
			if err != nil || code != 200 || !strings.Contains(body, tt.want) {
				return fmt.Errorf("%d %v: %.300s", code, err, body)
			}
			return nil
		})
	}
	if code, _, err := httpGet(ctx, c.Nodes[1].ClientURL+"/debug/pprof/"); err != nil || code != 404 {
		t.Errorf("profiles without --enable-pprof: %d, %v", code, err)
	}
}

// TestEnvironmentAndFile configures one node by variables alone and another by a file.
func TestEnvironmentAndFile(t *testing.T) {
	beside(t)
	ctx := testContext(t, 2*startTimeout)
	c := describeCluster(t, harness.Options{Nodes: 1})
	n := c.Nodes[0]
	vars := []string{}
	var file strings.Builder
	for i := 0; i < len(n.Args); i += 2 {
		name := strings.TrimPrefix(n.Args[i], "--")
		vars = append(vars, "ETCD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+n.Args[i+1])
		fmt.Fprintf(&file, "%s: '%s'\n", name, n.Args[i+1])
	}
	byEnv, err := harness.New(harness.Options{Kind: env.kind, Binary: env.server, Dir: c.Dir, Nodes: 1, Env: vars})
	if err != nil {
		t.Fatal(err)
	}
	e := byEnv.Nodes[0]
	e.Args, e.ClientURL = nil, n.ClientURL
	startAndCheck(ctx, t, byEnv)

	path := filepath.Join(c.Dir, "node.yaml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	byFile, err := harness.New(harness.Options{Kind: env.kind, Binary: env.server, Dir: c.Dir, Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	f := byFile.Nodes[0]
	f.Args, f.ClientURL = []string{"--config-file", path}, n.ClientURL
	startAndCheck(ctx, t, byFile)
}

func startAndCheck(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cl := newClient(t, c)
	if _, err := cl.Put(ctx, "x", "y"); err != nil {
		t.Error(err)
	}
	if ms, err := cl.MemberList(ctx); err != nil || len(ms.Members) != 1 || ms.Members[0].ClientURLs[0] != c.Nodes[0].ClientURL {
		t.Errorf("members %v, %v", ms, err)
	}
	_ = cl.Close()
	if err := c.StopAll(10 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestDataDirIsGuarded: one process at a time, one cluster for ever.
func TestDataDirIsGuarded(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{Nodes: 1})
	n := c.Nodes[0]
	flags := []string{"--name=n1", "--data-dir", n.DataDir, "--listen-peer-urls=http://127.0.0.1:0", "--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1"}
	if code, out := runServer(t, nil, flags...); code != 1 || !strings.Contains(out, "in use by another process") {
		t.Errorf("a second process: exit code %d\n%s", code, out)
	}
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	other := append(flags, "--initial-cluster=n1=http://localhost:2380", "--initial-cluster-token=other")
	if code, out := runServer(t, nil, other...); code != 1 || !strings.Contains(out, "belongs to another cluster") {
		t.Errorf("another cluster: exit code %d\n%s", code, out)
	}
	if info, err := os.Stat(n.DataDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestManyRanges starts a cluster that is cut evenly.
func TestManyRanges(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Ranges: 24})
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	parallel(t, 8, 256, func(i int) error {
		_, err := cl.Put(ctx, string([]byte{byte(i), 'x'}), "v")
		return err
	})
	rs := ranges(t, c.Nodes[1])
	if len(rs) != 24 {
		t.Errorf("%d ranges", len(rs))
	}
	leaders := map[uint64]int{}
	for i, r := range rs {
		leaders[r.Leader]++
		if len(r.Replicas) != 3 {
			t.Errorf("range %d has %d replicas", r.ID, len(r.Replicas))
		}
		if i > 0 && !bytes.Equal(rs[i-1].End, r.Start) {
			t.Errorf("range %d begins at %q, its left neighbour ends at %q", r.ID, r.Start, rs[i-1].End)
		}
	}
	t.Logf("leaders: %v", leaders)
	if leaders[0] > 0 || len(leaders) < 2 {
		t.Errorf("leaders: %v", leaders)
	}
	resp, err := cl.Get(ctx, "\x00", withAll()...)
	if err != nil || resp.Count != 256 || resp.Header.Revision != 257 {
		t.Errorf("%v, %v", resp, err)
	}
}
