package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pontoon/internal/httpapi"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// A watchdog of Pebble's files outlives their store for up to a second; it is not ours.
func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/vfs.(*diskHealthCheckingFS).startTickerLocked.func1"))
}

// waitMax is the patience of a test, on a busy machine.
const waitMax = 2 * time.Minute

// oneHost configures a cluster of one node with two ranges.
func oneHost(t *testing.T, dir string) Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	return Config{
		Name: "n1", Identity: peer.Identity{ClusterID: 0xc1, Node: 0x11}, DataDir: dir,
		Members:   []shard.Member{{ID: 0x11, Name: "n1", PeerURLs: []string{url}}},
		Peer:      []httpapi.Listener{{Listener: l, URL: url}},
		SplitKeys: [][]byte{[]byte("g")}, Heartbeat: 10 * time.Millisecond, Election: 100 * time.Millisecond,
		Patience: waitMax,
	}
}

// life of a host that was opened: it runs until it is stopped.
type running struct {
	*Host
	cancel context.CancelFunc
	ended  chan error
}

func runHost(h *Host) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Host: h, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- h.Run(ctx) }()
	return r
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func (r *running) join(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	if err := r.Join(ctx); err != nil {
		t.Fatalf("join: %v", err)
	}
}

// swap writes a value and returns what was there.
func (r *running) swap(t *testing.T, key, value string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	resp, err := r.router.Write(ctx, &pb.Op{Put: &pb.PutOp{Key: []byte(key), Value: []byte(value), PrevKv: true}})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return string(resp.Result.GetPut().GetPrevKv().GetValue())
}

var errFault = errors.New("a fault of the test's")

// TestOpenAndCloseWithAFaultAtEveryStep opens and closes one data directory over and over: each step of Open fails
// in turn, and after that the node opens, runs, joins, has what it had acknowledged, and stops, in the middle of
// its start or when it is ready. Nothing is left: what a failed Open had opened would keep the next from opening.
func TestOpenAndCloseWithAFaultAtEveryStep(t *testing.T) {
	dir := t.TempDir()
	steps := opening{Host: &Host{}}.steps()
	rounds := 200
	if testing.Short() {
		rounds = 2 * len(steps)
	}
	before := ""
	for i := range rounds {
		at := steps[i%len(steps)].name
		cfg := oneHost(t, dir)
		cfg.fault = func(step string) error {
			if step == at {
				return errFault
			}
			return nil
		}
		if _, err := Open(cfg); !errors.Is(err, errFault) {
			t.Fatalf("a fault at %s: %v", at, err)
		}
		if _, err := cfg.Peer[0].Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("a fault at %s leaves its port open: %v", at, err)
		}
		h, err := Open(oneHost(t, dir))
		if err != nil {
			t.Fatalf("after a fault at %s: %v", at, err)
		}
		if i%5 == 1 { // it was never run
			if err := h.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
			continue
		}
		r := runHost(h)
		if i%5 != 2 { // stopped while it starts
			r.join(t)
			if got := r.swap(t, "k", fmt.Sprint(i)); got != before {
				t.Fatalf("round %d: %q is there, %q was acknowledged", i, got, before)
			}
			before = fmt.Sprint(i)
			ctx, cancel := context.WithTimeout(t.Context(), waitMax)
			r.Retire(ctx)
			cancel()
		}
		r.stop(t)
	}
}

// TestWhatIsRequired: a configuration that lacks something is refused by name, and its port is closed.
func TestWhatIsRequired(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"cluster id":              func(c *Config) { c.Identity.ClusterID = 0 },
		"data dir":                func(c *Config) { c.DataDir = "" },
		"must be odd":             func(c *Config) { c.ReplicationFactor = 2 },
		"not among the":           func(c *Config) { c.Identity.Node = 5 },
		"peer listener":           func(c *Config) { _ = c.Peer[0].Close(); c.Peer = nil },
		"no voting member":        func(c *Config) { c.Members[0].Learner = true },
		"not a directory":         func(c *Config) { c.DataDir = "/dev/null" },
		"shared log in /dev/null": func(c *Config) { c.LogDir = "/dev/null" },
	} {
		cfg := oneHost(t, t.TempDir())
		l := cfg.Peer[0]
		change(&cfg)
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%q: the port is open", want)
		}
	}
}

// valuesMax values of 64 KiB make more than the 4 MiB of log that are kept for followers.
const valuesMax = 80

// populated returns a data directory whose Raft log begins after what it began with, as that of a node of some age.
func populated(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for range 2 {
		cfg := oneHost(t, dir)
		cfg.CatchUpEntries = 1
		h, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := runHost(h)
		r.join(t)
		for i := range valuesMax {
			r.swap(t, fmt.Sprint("a", i), strings.Repeat("x", 64<<10))
		}
		r.stop(t)
	}
	return dir
}

// files lists the files below a directory, relative to it.
func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, p)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// end is what becomes of a start: joined, with everything that was acknowledged, or why not.
func end(t *testing.T, dir string) error {
	t.Helper()
	cfg := oneHost(t, dir)
	h, err := Open(cfg)
	if err != nil {
		return err
	}
	r := runHost(h)
	joined := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	go func() { joined <- r.Join(ctx) }()
	select {
	case err = <-r.ended:
		cancel()
		<-joined
		r.ended <- nil
	case err = <-joined:
	}
	if err == nil {
		for i := range valuesMax {
			want := strings.Repeat("x", 64<<10)
			if got := r.swap(t, fmt.Sprint("a", i), want); got != want {
				t.Errorf("a%d is lost", i)
			}
		}
	}
	if err != nil {
		r.cancel()
		<-r.ended
		_ = r.Close() // it says the same again
		return err
	}
	r.stop(t)
	return nil
}

// TestEachFileMissingOrDamaged takes each file of the data directory of a cluster's only node away, and damages it.
// The node goes on without what it can do without. Else it names the file, or the directory, and says what to do.
func TestEachFileMissingOrDamaged(t *testing.T) {
	whole := populated(t)
	for _, f := range files(t, whole) {
		for _, how := range []string{"missing", "damaged"} {
			t.Run(f+" "+how, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, f)
				if how == "missing" {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				} else {
					b, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					for i := range b {
						b[i] ^= 0x5a
					}
					if err := os.WriteFile(path, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				err := end(t, dir)
				if must := map[string]bool{
					"meta/meta.snap damaged": true, "ranges/r2/mvcc.db missing": true, "ranges/r2/mvcc.db damaged": true, "ranges.map damaged": true,
				}; must[f+" "+how] && err == nil {
					t.Error("nobody has noticed")
				}
				if err == nil {
					return
				}
				text := err.Error()
				if !strings.Contains(text, "what to do: ") || !strings.Contains(text, dir) {
					t.Errorf("this does not help: %v", err)
				}
				name := strings.Split(f, "/")[0]
				if strings.HasSuffix(f, ".sst") && how == "damaged" {
					name = f
				}
				if !strings.Contains(text, name) {
					t.Errorf("%s is not named: %v", name, err)
				}
			})
		}
	}
}
