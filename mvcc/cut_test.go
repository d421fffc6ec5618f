package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// cutHarness is a store with l00.. and r00.. in it, each with a lease, written three times over: settled, in the file,
// and in memory only.
func cutHarness(t *testing.T, change func(*Options)) *harness {
	h := newHarness(t, func(o *Options) {
		o.steps = steps{visits: 5, results: 3, first: 2, bytes: 300, frame: 100, settle: 400}
		if change != nil {
			change(o)
		}
	})
	writeBoth(h, "l", "r")
	return h
}

const cutKeys = 12 // of each part

func writeBoth(h *harness, parts ...string) {
	h.t.Helper()
	rev := int64(0)
	for round := range 3 {
		for i := range cutKeys {
			for _, part := range []string{"l", "r"} { // the same revisions, whoever has them
				if rev++; !strings.Contains(strings.Join(parts, ""), part) {
					continue
				}
				h.change(Change{Muts: []Mutation{{
					Key: fmt.Appendf(nil, "%s%02d", part, i), Value: fmt.Appendf(nil, "%d", rev), Lease: 5, Rev: Rev{rev, 0},
				}}})
			}
		}
		switch round {
		case 0:
			h.ok(h.SettleNow())
		case 1:
			h.ok(h.Flush())
		}
	}
}

var leftSpan = shard.Span{End: []byte("m")}

func (h *harness) cut() {
	h.t.Helper()
	h.change(Change{State: []StateUpdate{{"desc", []byte("left")}}, Cut: &Cut{Span: leftSpan, Keys: cutKeys}})
}

// cutAndTrim cuts the store and removes what is to be removed.
func (h *harness) cutAndTrim() {
	h.t.Helper()
	h.cut()
	h.ok(h.Flush())
	h.maintainAll(3, nil)
}

// right counts the entries of a bucket that lie outside of the left part.
func (h *harness) right(bucket []byte) (n int) {
	h.t.Helper()
	h.ok(h.Store.file.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, rec []byte) error {
			if bytes.Contains(k, []byte("r0")) || bytes.Contains(k, []byte("r1")) || bytes.Contains(rec, []byte("r0")) || bytes.Contains(rec, []byte("r1")) {
				n++
			}
			return nil
		})
	}))
	return n
}

func (h *harness) rightKeys() [3]int {
	return [3]int{h.right(bucketBase), h.right(bucketLog), h.right(bucketLease)}
}

// sameAsLeft compares with a store that never had the right part.
func (h *harness) sameAsLeft(left *harness) {
	h.t.Helper()
	for _, rev := range []int64{1, cutKeys, 3 * cutKeys, 6 * cutKeys, math.MaxInt64} {
		got, err := h.HashKV(rev)
		want, err2 := left.HashKV(rev)
		if err != nil || err2 != nil || got != want {
			h.t.Fatalf("hash at %d: %x, %v; want %x, %v", rev, got, err, want, err2)
		}
	}
	if h.Keys() != cutKeys {
		h.t.Fatalf("%d keys", h.Keys())
	}
	got, err := h.LeaseKeys(5, 0)
	want, err2 := left.LeaseKeys(5, 0)
	if err != nil || err2 != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		h.t.Fatalf("lease: %q, %v; want %q, %v", got, err, want, err2)
	}
	path := filepath.Join(h.t.TempDir(), "restored")
	var buf bytes.Buffer
	_, err = h.WriteSnapshot(&buf)
	h.ok(err)
	_, err = RestoreSnapshot(path, &buf)
	h.ok(err)
	s, err := Open(Options{Path: path, RangeID: 2})
	h.ok(err)
	defer s.Close()
	if n, err := s.Count(shard.All, math.MaxInt64); err != nil || n != cutKeys || s.Keys() != cutKeys {
		h.t.Fatalf("a snapshot of %d keys, which says %d; %v", n, s.Keys(), err)
	}
}

// What was cut off counts for nothing at once, wherever it lies, and while it is removed, and after a restart.
func TestCutCountsForNothing(t *testing.T) {
	h, left := cutHarness(t, nil), newHarness(t, nil)
	writeBoth(left, "l")
	h.cut()
	h.sameAsLeft(left)
	var wrong *shard.WrongRangeError
	if _, _, err := h.Get([]byte("r00"), math.MaxInt64); !errors.As(err, &wrong) {
		t.Fatalf("get of what was cut off: %v", err)
	}
	if _, err := h.Count(shard.All, math.MaxInt64); !errors.As(err, &wrong) {
		t.Fatalf("count of what was cut off: %v", err)
	}
	h.ok(h.Flush())
	h.sameAsLeft(left)
	for more := true; more; {
		var err error
		more, err = h.Maintain(3)
		h.ok(err)
		h.sameAsLeft(left)
	}
	if h.Unsettled() != left.Unsettled() {
		t.Fatalf("%d bytes in memory, %d without the right part", h.Unsettled(), left.Unsettled())
	}
	h.reopen()
	h.sameAsLeft(left)
	if n := h.rightKeys(); n != [3]int{} || h.TrimPending() {
		t.Fatalf("still in the file: %v; trimming pending: %v", n, h.TrimPending())
	}
}

// Settling and sweeping leave what was cut off to trimming, which comes after them, and a start does not load it.
func TestCutIsNotSettledNorSwept(t *testing.T) {
	h := cutHarness(t, nil)
	h.cut()
	h.ok(h.Flush())
	h.reopen()
	h.Store.mem.mu.RLock()
	for key := range h.Store.mem.mu.index.points {
		if !leftSpan.Contains([]byte(key)) {
			t.Errorf("a start loads %q", key)
		}
	}
	h.Store.mem.mu.RUnlock()

	h = cutHarness(t, nil)
	h.ok(h.SettleNow())
	before := h.right(bucketBase)
	h.put("r00", 200)
	h.cut()
	h.compactTo(h.LastRevision())
	for h.CompactPending() {
		_, err := h.Maintain(3)
		h.ok(err)
	}
	if n := h.right(bucketBase); n != before || n == 0 {
		t.Fatalf("%d entries of the right part in the base, before it was settled and swept %d", n, before)
	}
	h.maintainAll(3, nil)
	if n := h.rightKeys(); n != [3]int{} || h.Unsettled() != 0 {
		t.Fatalf("still in the file: %v, in memory: %d", n, h.Unsettled())
	}
}

// The file has to say that something was cut off before it is deleted: else a crash brings back a store that should have
// it.
func TestTrimWaitsForTheFile(t *testing.T) {
	h := cutHarness(t, nil)
	h.ok(h.Flush())
	h.cut()
	h.RequestSettle()
	h.maintainAll(3, nil)
	if !h.TrimPending() {
		t.Fatal("nothing is left to be trimmed")
	}
	h.reopen()
	if n, err := h.Count(shard.All, math.MaxInt64); err != nil || n != 2*cutKeys || h.Keys() != n {
		t.Fatalf("%d keys, %d counted, %v", n, h.Keys(), err)
	}
}

// A restart finds what was left to be trimmed, after any step.
func TestTrimGoesOnAfterACrash(t *testing.T) {
	for steps := 0; ; steps++ {
		h := cutHarness(t, nil)
		h.cut()
		h.ok(h.Flush())
		more := true
		for range steps {
			var err error
			if more, err = h.Maintain(3); err != nil {
				t.Fatal(err)
			}
		}
		h.reopen()
		if left := h.rightKeys() != [3]int{}; left && !h.TrimPending() {
			t.Fatalf("after %d steps nothing is to be trimmed, but the file holds %v", steps, h.rightKeys())
		}
		h.maintainAll(3, nil)
		if n := h.rightKeys(); n != [3]int{} || h.TrimPending() {
			t.Fatalf("after %d steps and a restart: %v", steps, n)
		}
		if !more {
			return
		}
	}
}

// A snapshot that was begun before the cut has all of it, whatever is done meanwhile; then the right part goes.
func TestTrimWaitsForPinnedReaders(t *testing.T) {
	h := cutHarness(t, nil)
	var buf bytes.Buffer
	_, err := h.WriteSnapshot(writerFunc(func(p []byte) (int, error) {
		if buf.Len() == 0 {
			h.cutAndTrim()
		}
		return buf.Write(p)
	}))
	h.ok(err)
	path := filepath.Join(t.TempDir(), "restored")
	_, err = RestoreSnapshot(path, &buf)
	h.ok(err)
	s, err := Open(Options{Path: path, RangeID: 2})
	h.ok(err)
	defer s.Close()
	if n, err := s.Count(shard.All, math.MaxInt64); err != nil || n != 2*cutKeys {
		t.Fatalf("the snapshot has %d keys, %v", n, err)
	}
	if !h.TrimPending() {
		t.Fatal("trimmed under a reader")
	}
	h.maintainAll(3, nil)
	if h.TrimPending() || h.rightKeys() != [3]int{} {
		t.Fatalf("not trimmed: %v", h.rightKeys())
	}
}

// Whoever has begun to read before the cut gets everything, or an error: never a part.
func TestReadersAcrossACutAreWholeOrRefused(t *testing.T) {
	all := []shard.Span{shard.All}
	reads := map[string]func(h *harness) (n int, err error){
		"count": func(h *harness) (int, error) {
			n, err := h.Count(shard.All, math.MaxInt64)
			return int(n), err
		},
		"scan": func(h *harness) (n int, err error) {
			err = h.Scan(ScanOptions{Rev: math.MaxInt64}, func(*shard.KeyValue) bool { n++; return true })
			return n, err
		},
		"scan in reverse": func(h *harness) (n int, err error) {
			err = h.Scan(ScanOptions{Rev: math.MaxInt64, Reverse: true}, func(*shard.KeyValue) bool { n++; return true })
			return n, err
		},
		"lease keys": func(h *harness) (int, error) {
			keys, err := h.LeaseKeys(5, 0)
			return len(keys), err
		},
		"get": func(h *harness) (int, error) {
			_, ok, err := h.Get([]byte("r00"), 2)
			return whole(ok), err
		},
		"head": func(h *harness) (int, error) {
			_, ok, err := h.Head([]byte("r00"), 2)
			return whole(ok), err
		},
		"history": func(h *harness) (int, error) {
			evs, _, err := h.History(all, 1, 6*cutKeys, math.MaxInt, true)
			prevs := 0
			for _, ev := range evs {
				if ev.Prev != nil {
					prevs++
				}
			}
			return (len(evs) + prevs) / 5, err // each key has been written three times
		},
	}
	for name, read := range reads {
		for _, trims := range []bool{false, true} {
			for at := 1; ; at++ { // the view before which the store is cut
				views, done := 0, false
				var h *harness
				gap := func() {
					if views++; views == at && !done {
						done = true
						if trims {
							h.cutAndTrim()
						} else {
							h.cut()
						}
					}
				}
				h = cutHarness(t, nil)
				h.Store.file.gap = gap
				n, err := read(h)
				h.Store.file.gap = nil
				var wrong *shard.WrongRangeError
				if errors.As(err, &wrong) {
					err, n = nil, 2*cutKeys
					if !trims {
						t.Fatalf("%s: refused, though nothing is missing", name)
					}
				}
				if h.ok(err); n != 2*cutKeys {
					t.Fatalf("%s, cut before view %d (trimmed: %v): %d of %d", name, at, trims, n, 2*cutKeys)
				}
				if !done {
					break
				}
			}
		}
	}
}

func whole(ok bool) int {
	if ok {
		return 2 * cutKeys
	}
	return 0
}

// Cuts that make no sense are refused, and nothing of their change is applied.
func TestBadCutsAreRefused(t *testing.T) {
	h := cutHarness(t, nil)
	mut := Mutation{Key: []byte("l"), Rev: Rev{1000, 0}}
	for _, c := range []Change{
		{Cut: &Cut{Span: shard.Span{Start: []byte("b"), End: []byte("a")}}},
		{Cut: &Cut{Span: leftSpan, Keys: -1}},
		{Cut: &Cut{Span: leftSpan, Keys: 2*cutKeys + 1}},
		{Cut: &Cut{Span: leftSpan, Keys: cutKeys}, Muts: []Mutation{mut}},
	} {
		c.Pos = Position{h.index + 1, 1}
		if _, err := h.Apply(c); !errors.Is(err, shard.ErrInvalid) {
			t.Fatalf("%+v: %v", c.Cut, err)
		}
	}
	h.cut()
	if _, err := h.Apply(Change{Pos: Position{h.index + 1, 1}, Cut: &Cut{Span: shard.All}}); !errors.Is(err, shard.ErrInvalid) {
		t.Fatalf("a cut that adds keys: %v", err)
	}
	for _, at := range []string{"", "m", "z"} {
		if _, err := BeginSplit(h.Store, []byte(at), 9, filepath.Join(t.TempDir(), "x")); !errors.Is(err, shard.ErrInvalid) {
			t.Fatalf("split at %q: %v", at, err)
		}
	}
}

// A range's first state is there as soon as its file is, and an old file keeps its own.
func TestBirth(t *testing.T) {
	h := newHarness(t, func(o *Options) { o.Birth = []StateUpdate{{"desc", []byte("born")}} })
	for range 2 {
		h.reopen()
		if got := string(h.State("desc")); got != "born" || h.Position() != (Position{}) {
			t.Fatalf("born with %q at %v", got, h.Position())
		}
	}
	h.change(Change{State: []StateUpdate{{"desc", []byte("grown")}}})
	h.ok(h.Flush())
	h.reopen()
	if got := string(h.State("desc")); got != "grown" {
		t.Fatalf("born again as %q", got)
	}
}
