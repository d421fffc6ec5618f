package server

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// A watchdog of Pebble's files outlives their store for up to a second; it is not ours.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/vfs.(*diskHealthCheckingFS).startTickerLocked.func1"))
}

// TestStartAndStopOverAndOver starts and stops a node on one data directory, at every moment of its life: as soon as
// it is made, while it waits for its cluster, in the moment in which it is ready, and after that. Each fourth time
// something keeps it from opening first. Faults at each step are in the tests of host and front.
func TestStartAndStopOverAndOver(t *testing.T) {
	dir := t.TempDir()
	block := filepath.Join(dir, "ranges.map")
	rounds := 200
	if testing.Short() {
		rounds = 24
	}
	for i := range rounds {
		if i%4 == 3 {
			kept, err := os.ReadFile(block)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(block, []byte("no map"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := oneNode(t, dir)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), block) || !strings.Contains(err.Error(), "what to do") {
				t.Fatalf("with a damaged map: %v", err)
			}
			for _, l := range slices.Concat(cfg.Host.Peer, cfg.Front.Client) {
				if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Fatalf("%s is open: %v", l.URL, err)
				}
			}
			if err := os.WriteFile(block, kept, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := New(oneNode(t, dir))
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if i%2 == 0 {
			awaitReady(t, s)
		}
		stopNode(t, s)
		stopNode(t, s) // later calls return the same
		select {
		case err := <-s.Done():
			t.Fatalf("round %d: the node has ended by itself: %v", i, err)
		default:
		}
	}
}

// broken is a part that can promise nothing any more.
type broken struct{ retired, closed bool }

var errBroken = errors.New("the disk is gone")

func (b *broken) Run(context.Context) error { return errBroken }
func (b *broken) Retire(context.Context)    { b.retired = true }
func (b *broken) Close() error              { b.closed = true; return nil }

// whole is a part that works until it is told to stop, and notes in what order that is.
type whole struct {
	name  string
	order *[]string
}

func (w *whole) Run(ctx context.Context) error {
	<-ctx.Done()
	*w.order = append(*w.order, w.name+" ends")
	return nil
}
func (w *whole) Retire(context.Context) { *w.order = append(*w.order, w.name+" retires") }
func (w *whole) Close() error           { *w.order = append(*w.order, w.name+" is closed"); return nil }

// TestTheReverseOrder: parts retire while all of them run, and end one after the other, the last one first. One that
// has failed ends the process, and is not asked to retire.
func TestTheReverseOrder(t *testing.T) {
	cfg := Config{}
	cfg.setDefaults()
	var order []string
	s := &Server{log: cfg.Logger, done: make(chan error, 1), stopped: make(chan struct{})}
	bad := &broken{}
	s.start(bad)
	if err := <-s.Done(); !errors.Is(err, errBroken) {
		t.Errorf("done with %v", err)
	}
	<-s.parts[0].ended
	s.start(&whole{"host", &order})
	s.start(&whole{"front", &order})
	stopNode(t, s)
	want := []string{"front retires", "host retires", "front ends", "front is closed", "host ends", "host is closed"}
	if !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	if bad.retired || !bad.closed {
		t.Errorf("the failed part: retired %v, closed %v", bad.retired, bad.closed)
	}
}
