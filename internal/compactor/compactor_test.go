package compactor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/shard"
)

// node is a store that a compactor of its own looks after, on the clock of a bubble.
type node struct {
	rev      atomic.Int64
	follower atomic.Bool
	fail     atomic.Pointer[error] // of compactions
	took     time.Duration         // of a compaction
	log      bytes.Buffer          // read when the compactor has ended

	began time.Time

	mu   sync.Mutex
	done []string // "1h0m0s 42": when, and at which revision, one was asked for
}

func start(t *testing.T, p Plan, n *node) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	n.began = time.Now()
	go func() {
		defer close(ended)
		Run(ctx, p, Env{
			Current: func(context.Context) int64 { return n.rev.Load() },
			Leads:   func() bool { return !n.follower.Load() },
			Compact: n.compact,
			Logger:  slog.New(slog.NewTextHandler(&n.log, nil)),
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	synctest.Wait()
}

func (n *node) compact(_ context.Context, rev int64) error {
	n.mu.Lock()
	n.done = append(n.done, fmt.Sprint(time.Since(n.began), " ", rev))
	n.mu.Unlock()
	if n.took > 0 {
		<-time.After(n.took)
	}
	if e := n.fail.Load(); e != nil {
		return *e
	}
	return nil
}

// pass lets so much time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (n *node) expect(t *testing.T, want ...string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.done, want) {
		t.Errorf("compactions %q, want %q", n.done, want)
	}
	n.done = nil
}

// every lets time pass, and makes the node's revision so much higher in the middle of every d.
func (n *node) every(d, all time.Duration, step int64) {
	for range all / d {
		pass(d / 2)
		n.rev.Add(step)
		pass(d - d/2)
	}
}

func TestPeriodOfMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		n.rev.Store(1)
		start(t, Plan{Mode: Periodic, Period: 10 * time.Minute}, n)
		n.every(time.Minute, 9*time.Minute, 1) // 1 at the beginning, 10 behind nine minutes
		n.expect(t)
		n.every(time.Minute, time.Minute, 1)
		n.expect(t, "10m0s 1") // what was current at the beginning
		n.every(time.Minute, 9*time.Minute, 1)
		n.expect(t)
		pass(time.Minute)
		n.expect(t, "20m0s 10") // the newest sample that was ten minutes old at the one before
	})
}

// TestPeriodOfManyHours: the first compaction waits for the whole period, the others for an hour each.
func TestPeriodOfManyHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		n.rev.Store(100)
		start(t, Plan{Mode: Periodic, Period: 5 * time.Hour}, n)
		n.every(time.Hour, 8*time.Hour, 100)
		n.expect(t, "5h0m0s 100", "6h0m0s 200", "7h0m0s 300", "8h0m0s 400")
	})
}

// TestPeriodNothingNew: a revision is not compacted twice.
func TestPeriodNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		n.rev.Store(7)
		start(t, Plan{Mode: Periodic, Period: time.Hour}, n)
		pass(5 * time.Hour)
		n.expect(t, "1h0m0s 7")
		n.rev.Store(8)
		pass(time.Hour + 6*time.Minute) // it is seen at the next sample, and due when that is the oldest
		n.expect(t)
		pass(6 * time.Minute)
		n.expect(t, "6h12m0s 8")
	})
}

// TestPeriodFailure: what failed is tried at every sample, each time at what is a period old then.
func TestPeriodFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		n.rev.Store(1)
		err := error(shard.ErrUnavailable)
		n.fail.Store(&err)
		start(t, Plan{Mode: Periodic, Period: time.Hour}, n)
		n.every(6*time.Minute, time.Hour+18*time.Minute, 1)
		n.expect(t, "1h0m0s 1", "1h6m0s 1", "1h12m0s 2", "1h18m0s 3")
		n.fail.Store(nil)
		n.every(6*time.Minute, 2*time.Hour, 1)
		n.expect(t, "1h24m0s 4", "2h24m0s 14")
	})
}

// TestOthersCompact: a compaction that was made by hand meanwhile counts as made.
func TestOthersCompact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		n.rev.Store(5)
		err := fmt.Errorf("meta: %w", &shard.CompactedError{Revision: 9})
		n.fail.Store(&err)
		start(t, Plan{Mode: Periodic, Period: time.Hour}, n)
		pass(3 * time.Hour)
		n.expect(t, "1h0m0s 5")
	})
}

// TestFollowersSample: who comes to lead compacts at once, at what is a period old; who does not lead never does.
func TestFollowersSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		n.follower.Store(true)
		n.rev.Store(1)
		start(t, Plan{Mode: Periodic, Period: time.Hour}, n)
		n.every(6*time.Minute, 4*time.Hour, 1)
		n.expect(t)
		n.follower.Store(false)
		n.every(6*time.Minute, time.Hour, 1)
		n.expect(t, "4h6m0s 31")
	})
}

// TestPeriodSlowCompaction: the pauses are counted from its end.
func TestPeriodSlowCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{took: 2 * time.Minute}
		n.rev.Store(1)
		start(t, Plan{Mode: Periodic, Period: 10 * time.Minute}, n)
		n.every(time.Minute, 30*time.Minute, 1)
		n.expect(t, "10m0s 1", "22m0s 10")
	})
}

func TestRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		n.rev.Store(99)
		start(t, Plan{Mode: Revisions, Count: 100}, n)
		pass(10 * time.Minute)
		n.expect(t) // there are not so many
		n.rev.Store(103)
		pass(5 * time.Minute)
		n.expect(t, "15m0s 3")
		pass(20 * time.Minute)
		n.expect(t)
		err := errors.New("no")
		n.fail.Store(&err)
		n.rev.Store(104)
		pass(10 * time.Minute)
		n.expect(t, "40m0s 4", "45m0s 4")
		n.fail.Store(nil)
		n.follower.Store(true)
		pass(5 * time.Minute)
		n.expect(t)
		n.follower.Store(false)
		pass(10 * time.Minute)
		n.expect(t, "55m0s 4")
	})
}

func TestOff(t *testing.T) {
	for _, p := range []Plan{{}, {Mode: Periodic}, {Mode: Revisions}, {Mode: Periodic, Count: 5}, {Mode: Revisions, Period: time.Hour}} {
		Run(t.Context(), p, Env{}) // returns
	}
}

// TestLog: the lines are etcd's.
func TestLog(t *testing.T) {
	var log string
	t.Run("", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &node{}
			n.rev.Store(3)
			err := error(shard.ErrUnavailable)
			n.fail.Store(&err)
			t.Cleanup(func() { log = n.log.String() })
			start(t, Plan{Mode: Periodic, Period: time.Minute}, n)
			pass(time.Minute)
			n.fail.Store(nil)
			pass(6 * time.Second)
		})
	})
	for _, want := range []string{
		`level=INFO msg="starting auto periodic compaction" revision=3 compact-period=1m0s`,
		`level=WARN msg="failed auto periodic compaction" revision=3 compact-period=1m0s retry-interval=6s error=`,
		`level=INFO msg="completed auto periodic compaction" revision=3 compact-period=1m0s took=0s`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no line with %s in\n%s", want, log)
		}
	}
}
