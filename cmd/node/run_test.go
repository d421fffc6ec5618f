package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pontoon/internal/config"
)

// fakeNode is a server that the test drives.
type fakeNode struct {
	ready   chan struct{}
	done    chan error
	stopped chan struct{}
	parts   parts
}

func newFakeNode() *fakeNode {
	return &fakeNode{ready: make(chan struct{}), done: make(chan error, 1), stopped: make(chan struct{})}
}

func (f *fakeNode) Ready() <-chan struct{} { return f.ready }
func (f *fakeNode) Done() <-chan error     { return f.done }
func (f *fakeNode) Stop(context.Context) error {
	close(f.stopped)
	for _, ls := range [][]listener{f.parts.peer, f.parts.client, f.parts.metrics} {
		for _, l := range ls {
			_ = l.Close()
		}
	}
	return nil
}

func (f *fakeNode) start(p parts) (node, error) {
	f.parts = p
	return f, nil
}

// flagsIn are flags of a node on ports that the system picks, with its log in a file.
func flagsIn(dir string) []string {
	return []string{
		"--name=n1", "--data-dir", filepath.Join(dir, "data"), "--log-outputs", filepath.Join(dir, "log"),
		"--listen-peer-urls=http://127.0.0.1:0", "--listen-client-urls=http://127.0.0.1:0,unix://" + filepath.Join(dir, "sock"),
		"--advertise-client-urls=http://127.0.0.1:1", "--listen-metrics-urls=http://127.0.0.1:0",
	}
}

func readLog(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLife(t *testing.T) {
	dir := t.TempDir()
	n := newFakeNode()
	signals := make(chan os.Signal, 1)
	code := make(chan int)
	close(n.ready)
	go func() { code <- run(flagsIn(dir), config.Environment{}, signals, nil, n.start) }()
	signals <- syscall.SIGTERM
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d", c)
	}
	<-n.stopped
	if l := readLog(t, dir); !strings.Contains(l, `"snapshot-catchup-entries":5000`) || !strings.Contains(l, `"v2-deprecation":"write-only"`) {
		t.Errorf("the settings are not in the log: %s", l)
	}
	if len(n.parts.client) != 2 || len(n.parts.peer) != 1 || len(n.parts.metrics) != 1 || n.parts.cfg.NodeID == 0 {
		t.Errorf("parts: %+v", n.parts)
	}
	if log := readLog(t, dir); !strings.Contains(log, "received signal; shutting down") {
		t.Errorf("log:\n%s", log)
	}
}

func TestReadyLineOnlyWhenReady(t *testing.T) {
	dir := t.TempDir()
	n := newFakeNode()
	n.done <- errors.New("disk on fire")
	if c := run(flagsIn(dir), config.Environment{}, nil, nil, n.start); c != exitError {
		t.Errorf("exit code %d", c)
	}
	log := readLog(t, dir)
	if strings.Contains(log, "ready to serve client requests") || !strings.Contains(log, `"level":"fatal"`) || !strings.Contains(log, "disk on fire") {
		t.Errorf("log:\n%s", log)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dir := t.TempDir()
	n := newFakeNode()
	args := append(flagsIn(dir), "--listen-client-urls=http://"+l.Addr().String())
	if c := run(args, config.Environment{}, nil, nil, n.start); c != exitError {
		t.Errorf("exit code %d", c)
	}
	if log := readLog(t, dir); !strings.Contains(log, "address already in use") {
		t.Errorf("log:\n%s", log)
	}
}

func TestVersionAndUsage(t *testing.T) {
	var out bytes.Buffer
	env := config.Environment{Stdout: &out, Stderr: &out}
	if c := run([]string{"--version"}, env, nil, nil, nil); c != exitOK || !strings.HasPrefix(out.String(), "etcd Version: 3.7.3\n") {
		t.Errorf("code %d, output %s", c, out.String())
	}
	if c := run([]string{"--nope"}, env, nil, nil, nil); c != exitUsage {
		t.Errorf("code %d for an unknown flag", c)
	}
	if c := run([]string{"--help"}, env, nil, nil, nil); c != exitOK {
		t.Errorf("code %d for help", c)
	}
}

func TestRestartWithOtherFlags(t *testing.T) {
	dir := t.TempDir()
	first := newFakeNode()
	first.done <- nil
	run(flagsIn(dir), config.Environment{}, nil, nil, first.start)
	id := first.parts.cfg.NodeID

	second := newFakeNode()
	second.done <- nil
	run(append(flagsIn(dir), "--name=renamed"), config.Environment{}, nil, nil, second.start)
	if second.parts.cfg == nil || second.parts.cfg.NodeID != id {
		t.Errorf("the data directory's identity was not kept: %+v", second.parts.cfg)
	}

	third := newFakeNode()
	args := append(flagsIn(dir), "--initial-cluster=n1=http://localhost:2380", "--initial-cluster-token=other")
	if c := run(args, config.Environment{}, nil, nil, third.start); c != exitError || !strings.Contains(readLog(t, dir), "belongs to another cluster") {
		t.Errorf("code %d; log:\n%s", c, readLog(t, dir))
	}
}

// Only who asks for a slack gets a process that takes its own place.
func TestExecutingItselfAgainIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []time.Duration
	}{
		{nil, nil},
		{[]string{"--cpu-scheduling=batch"}, nil},
		{[]string{"--timer-slack=0s"}, nil},
		{[]string{"--timer-slack=5ms"}, []time.Duration{5 * time.Millisecond}},
		{[]string{"--timer-slack=5ms", "--cpu-scheduling=normal"}, []time.Duration{5 * time.Millisecond}},
	} {
		n := newFakeNode()
		n.done <- nil
		var got []time.Duration
		relax := func(d time.Duration) error { got = append(got, d); return nil }
		if code := run(append(flagsIn(t.TempDir()), c.args...), config.Environment{}, nil, relax, n.start); code != exitOK {
			t.Errorf("%q: exit code %d", c.args, code)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: relaxed %v, want %v", c.args, got, c.want)
		}
	}
}

func TestWithoutTheSlackTheNodeRunsAndSaysSo(t *testing.T) {
	dir := t.TempDir()
	n := newFakeNode()
	n.done <- nil
	relax := func(time.Duration) error { return errors.New("not in this sandbox") }
	if code := run(append(flagsIn(dir), "--timer-slack=5ms"), config.Environment{}, nil, relax, n.start); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if log := readLog(t, dir); !strings.Contains(log, "not in this sandbox") {
		t.Errorf("log:\n%s", log)
	}
}

// The init system is told of the moment from which clients are served, and of the end.
func TestTheInitSystemIsTold(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", socket)
	said := func() string {
		b := make([]byte, 100)
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	n := newFakeNode()
	signals := make(chan os.Signal, 1)
	code := make(chan int)
	close(n.ready)
	go func() { code <- run(flagsIn(t.TempDir()), config.Environment{}, signals, nil, n.start) }()
	if got := said(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	signals <- syscall.SIGTERM
	if got := said(); got != "STOPPING=1" {
		t.Errorf("then %q", got)
	}
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d", c)
	}
}

// TestOneSocketForTwoSchemes: an address that is given with TLS and without is listened to once.
func TestOneSocketForTwoSchemes(t *testing.T) {
	path := "unix://" + filepath.Join(t.TempDir(), "s")
	var urls []url.URL
	for _, text := range []string{"https://127.0.0.1:0", "http://127.0.0.1:0", path, "https://localhost:0"} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, *u)
	}
	ls, err := listenAll(urls)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ plain, tls bool }{{true, true}, {true, false}, {false, true}} {
		if i >= len(ls) || ls[i].plain != want.plain || ls[i].tls != want.tls {
			t.Fatalf("%+v", ls)
		}
		if err := ls[i].Close(); err != nil {
			t.Error(err)
		}
	}
	if len(ls) != 3 {
		t.Errorf("%+v", ls)
	}
}
