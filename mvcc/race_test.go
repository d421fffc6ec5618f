package mvcc

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pontoon/shard"
)

// TestReadersBesideWriterAndMaintenance: key i always carries the revision of the last write of
// its round, so each read can be checked on its own. Run it with -race.
func TestReadersBesideWriterAndMaintenance(t *testing.T) {
	const keys, rounds = 50, 24
	h := newHarness(t, func(o *Options) {
		o.FlushBytes, o.SettleBytes, o.steps = 4000, 8000, steps{visits: 30, results: 16, first: 4, bytes: 1000, frame: 500, settle: 2000}
	})
	var applied atomic.Int64
	var stop atomic.Bool
	var turns [5]atomic.Int64 // of each goroutine, so that the writer does not run away
	var wg sync.WaitGroup
	n := 0
	run := func(fn func(last int64) error) {
		turn := &turns[n]
		n++
		wg.Go(func() {
			for ; !stop.Load(); turn.Add(1) {
				var gone *shard.CompactedError
				if err := fn(applied.Load()); err != nil && !errors.As(err, &gone) {
					t.Error(err)
					return
				}
			}
		})
	}
	run(func(int64) error {
		if h.NeedsFlush() {
			return h.Flush()
		}
		_, err := h.Maintain(20)
		return err
	})
	run(func(last int64) error { return checkGet(h.Store, last%keys, last) })
	run(func(last int64) error { return checkScan(h.Store, last, keys) })
	run(func(last int64) error { return checkHistory(h.Store, last) })
	run(func(last int64) error {
		if _, err := h.HashKV(last); err != nil {
			return err
		}
		_, err := h.WriteSnapshot(writerFunc(func(p []byte) (int, error) { return len(p), nil }))
		return err
	})
	for i := range int64(keys * rounds) {
		rev := i + 1
		h.change(Change{Muts: []Mutation{{Key: raceKey(i % keys), Value: make([]byte, 30), Rev: Rev{rev, 0}}}})
		applied.Store(rev)
		for j := range turns {
			for turns[j].Load() < i/50 && !t.Failed() {
				runtime.Gosched()
			}
		}
		if i%300 == 299 {
			h.change(Change{CompactTo: rev - 200})
		}
	}
	stop.Store(true)
	wg.Wait()
	h.ok(h.SettleNow())
	h.ok(checkScan(h.Store, keys*rounds, keys))
}

func raceKey(i int64) []byte { return fmt.Appendf(nil, "k%03d", i) }

// newestOf is the revision that key i has at rev.
func newestOf(i, rev, keys int64) int64 {
	n := rev - 1 - (rev-1-i+keys)%keys + 1
	return max(n, 0)
}

func checkGet(s *Store, i, rev int64) error {
	const keys = 50
	kv, ok, err := s.Get(raceKey(i), rev)
	want := newestOf(i, rev, keys)
	if err == nil && (ok != (want > 0) || kv.ModRevision != want) {
		return fmt.Errorf("get %d at %d: %d, want %d", i, rev, kv.ModRevision, want)
	}
	return err
}

func checkScan(s *Store, rev, keys int64) error {
	seen := int64(0)
	var bad error
	err := s.Scan(ScanOptions{Rev: rev}, func(kv *shard.KeyValue) bool {
		if want := newestOf(seen, rev, keys); kv.ModRevision != want {
			bad = fmt.Errorf("scan at %d: %q has %d, want %d", rev, kv.Key, kv.ModRevision, want)
		}
		seen++
		return bad == nil
	})
	if err == nil && bad == nil && seen != min(rev, keys) {
		bad = fmt.Errorf("scan at %d: %d keys", rev, seen)
	}
	return errors.Join(err, bad)
}

func checkHistory(s *Store, last int64) error {
	from := max(s.CompactRevision(), last-300, 1)
	evs, next, err := s.History([]shard.Span{shard.All}, from, last, math.MaxInt, true)
	if err != nil {
		return err
	}
	if int64(len(evs)) != last-from+1 || next != last+1 {
		return fmt.Errorf("history %d..%d: %d events, next %d", from, last, len(evs), next)
	}
	for i := range evs {
		if evs[i].KV.ModRevision != from+int64(i) {
			return fmt.Errorf("history %d..%d: event %d has %d", from, last, i, evs[i].KV.ModRevision)
		}
	}
	return nil
}
