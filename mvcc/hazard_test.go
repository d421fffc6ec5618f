package mvcc

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// harness is a store with a few words to write scenarios in.
type harness struct {
	t *testing.T
	o Options
	*Store
	*Maintenance
	index uint64
}

func newHarness(t *testing.T, change func(*Options)) *harness {
	t.Helper()
	h := &harness{t: t, o: Options{
		Path: filepath.Join(t.TempDir(), "db"), RangeID: 2, NoSync: true, InitialMmapSize: 1 << 20,
		SettleBytes: math.MaxInt,
	}}
	if change != nil {
		change(&h.o)
	}
	h.reopen()
	return h
}

// reopen opens the file again, as after a crash when the store was not closed.
func (h *harness) reopen() {
	h.t.Helper()
	if h.Store != nil {
		h.ok(h.Store.file.db.Load().Close())
	}
	s, err := Open(h.o)
	h.ok(err)
	h.Store, h.Maintenance, h.index = s, s.Maintenance(), s.Position().Index
	h.t.Cleanup(func() { h.ok(s.file.db.Load().Close()) })
}

func (h *harness) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) change(c Change) []*shard.Event {
	h.t.Helper()
	h.index++
	c.Pos = Position{h.index, 1}
	evs, err := h.Apply(c)
	h.ok(err)
	return evs
}

func (h *harness) put(key string, rev int64) {
	h.t.Helper()
	h.change(Change{Muts: []Mutation{{Key: []byte(key), Value: fmt.Appendf(nil, "%s@%d", key, rev), Rev: Rev{rev, 0}}}})
}

func (h *harness) del(key string, rev int64) {
	h.t.Helper()
	h.change(Change{Muts: []Mutation{{Key: []byte(key), Delete: true, Rev: Rev{rev, 0}}}})
}

func (h *harness) compactTo(rev int64) {
	h.t.Helper()
	h.change(Change{CompactTo: rev})
	h.ok(h.Flush())
}

// maintainAll does steps until nothing is due, and calls between after each.
func (h *harness) maintainAll(budget int, between func()) {
	h.t.Helper()
	for more := true; more; {
		var err error
		more, err = h.Maintain(budget)
		h.ok(err)
		if between != nil {
			between()
		}
	}
}

// want checks the key at a revision; 0 means that it does not live then.
func (h *harness) want(key string, at, mod int64) {
	h.t.Helper()
	kv, ok, err := h.Get([]byte(key), at)
	h.ok(err)
	if ok != (mod != 0) || kv.ModRevision != mod {
		h.t.Fatalf("%q at %d: mod revision %d (%v), want %d", key, at, kv.ModRevision, ok, mod)
	}
}

// stored counts the entries of a bucket.
func (h *harness) stored(bucket []byte) int {
	h.t.Helper()
	n := 0
	h.ok(h.Store.file.view(func(tx *bolt.Tx) error {
		n = tx.Bucket(bucket).Stats().KeyN
		return nil
	}))
	return n
}

// A transaction is prepared with floor 100; others write on, and the range settles. Its Resolve
// then enters at 101. It must still be there after the next pass, and after a restart.
func TestHazard06SettlingStopsAtFloor(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 50)
	h.put("a", 100)
	h.SetFloor(100)
	for rev := int64(200); rev < 220; rev++ {
		h.put("other", rev)
	}
	h.ok(h.SettleNow())
	if s := h.Stats().SettleRevision; s != 100 {
		t.Fatalf("settled to %d past the floor", s)
	}
	h.put("k", 101)
	h.SetFloor(math.MaxInt64)
	h.want("k", 100, 50)
	h.want("k", 150, 101)
	h.ok(h.SettleNow())
	h.want("k", 150, 101)
	h.reopen()
	h.want("k", 150, 101)
	kv, _, err := h.Get([]byte("k"), math.MaxInt64)
	h.ok(err)
	if kv.Version != 2 || kv.CreateRevision != 50 {
		t.Fatalf("late insert does not follow the version before it: %+v", kv)
	}
}

// The floor is lifted before the late insert is in the file: settling must not pass it then
// either, else a crash leaves a base that has it and a position that does not.
func TestHazard06UnflushedLateInsertIsNotSettled(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 50)
	h.SetFloor(60)
	h.put("a", 90)
	h.ok(h.Flush())
	durable := h.DurablePosition()
	h.put("k", 70)
	h.SetFloor(math.MaxInt64)
	h.RequestSettle()
	h.maintainAll(10, nil)
	if s := h.Stats().SettleRevision; s >= 70 {
		t.Fatalf("settled to %d, past a version that is not in the file", s)
	}
	h.reopen()
	if h.Position() != durable {
		t.Fatalf("reopened at %v, want %v", h.Position(), durable)
	}
	h.want("k", 80, 50)
	h.put("k", 70)
	h.want("k", 80, 70)
	h.ok(h.SettleNow())
	h.want("k", 80, 70)
}

// A late delete that finds nothing leaves no version. Settling must wait for it all the same:
// after a crash the Raft log brings it again.
func TestHazard06LateDeleteOfNothingIsReplayed(t *testing.T) {
	h := newHarness(t, nil)
	h.SetFloor(60)
	h.put("a", 90)
	h.ok(h.Flush())
	h.del("k", 70)
	h.SetFloor(math.MaxInt64)
	h.RequestSettle()
	h.maintainAll(10, nil)
	h.reopen()
	h.del("k", 70)
	h.ok(h.SettleNow())
	h.want("k", 90, 0)
}

// Below what is settled nothing may be inserted: the store says so instead of hiding it.
func TestHazard06InsertIntoSettledIsRefused(t *testing.T) {
	h := newHarness(t, nil)
	h.put("a", 100)
	h.ok(h.SettleNow())
	_, err := h.Apply(Change{Pos: Position{99, 1}, Muts: []Mutation{{Key: []byte("k"), Rev: Rev{60, 0}}}})
	if !errors.Is(err, shard.ErrInvalid) {
		t.Fatalf("insert below the settle revision: %v", err)
	}
}

// k@50 is in the base; a tombstone k@120 in log and index; then Compact(200). The tombstone
// must mask k@50 at every step until k@50 is gone, also across crashes.
func TestHazard14TombstoneKeptUntilBaseClean(t *testing.T) {
	for crashAt := range 12 {
		h := newHarness(t, nil)
		for rev := int64(40); rev <= 50; rev++ {
			h.put("k", rev)
		}
		h.ok(h.SettleNow())
		h.del("k", 120)
		h.put("z", 130)
		h.compactTo(200)
		step := 0
		h.maintainAll(2, func() {
			h.want("k", math.MaxInt64, 0)
			h.want("z", math.MaxInt64, 130)
			if step++; step == crashAt {
				h.reopen()
				h.want("k", math.MaxInt64, 0)
			}
		})
		h.maintainAll(2, nil)
		if h.CompactPending() {
			t.Fatalf("crash at %d: compaction is still pending", crashAt)
		}
		if n := h.stored(bucketBase); n != 1 {
			t.Fatalf("crash at %d: %d versions in the base, want z only", crashAt, n)
		}
		h.want("k", math.MaxInt64, 0)
		h.reopen()
		h.want("k", math.MaxInt64, 0)
	}
}

// What dies before it settles never reaches the base.
func TestHazard14DeadVersionsNeverReachBase(t *testing.T) {
	h := newHarness(t, nil)
	rev := int64(0)
	for range 50 {
		h.put("k", rev+1)
		h.put("tmp", rev+2)
		h.del("tmp", rev+3)
		rev += 3
	}
	h.compactTo(rev + 1)
	puts := 0
	h.maintainAll(7, func() { puts = max(puts, h.stored(bucketBase)) })
	if puts != 1 {
		t.Fatalf("%d versions were in the base at once, want 1", puts)
	}
	if n := h.stored(bucketLog); n != 0 {
		t.Fatalf("%d entries left in the log", n)
	}
	h.want("k", rev+1, rev-2)
}

// The sweep begins only when everything at or below the compaction revision has settled: with a
// floor below it (which the protocol rules out) nothing is deleted.
func TestHazard14NoSweepBeforeSettled(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 10)
	h.ok(h.SettleNow())
	h.SetFloor(15)
	h.put("k", 20)
	h.compactTo(30)
	h.maintainAll(10, nil)
	if !h.CompactPending() || h.stored(bucketBase) != 1 {
		t.Fatal("swept although a version below the compaction revision is not in the base")
	}
	h.SetFloor(math.MaxInt64)
	h.maintainAll(10, nil)
	if h.CompactPending() || h.stored(bucketBase) != 1 {
		t.Fatalf("pending %v, %d in the base", h.CompactPending(), h.stored(bucketBase))
	}
	h.want("k", 30, 20)
}

// Before each commit, and between it and the trim after it, every reader finds every version.
func TestHazard15CommitFirstTrimAfter(t *testing.T) {
	var h *harness
	seen := make(map[string]int)
	h = newHarness(t, func(o *Options) {
		o.hook = func(point string) error {
			seen[point]++
			h.want("k", math.MaxInt64, 9)
			h.want("k", 4, 4)
			h.want("m", math.MaxInt64, 20)
			n, err := h.Count(shard.All, math.MaxInt64)
			h.ok(err)
			evs, _, err := h.History([]shard.Span{shard.All}, 4, 20, math.MaxInt, true)
			h.ok(err)
			if n != 2 || len(evs) != 7 {
				h.t.Fatalf("after %s: %d keys, %d events", point, n, len(evs))
			}
			return nil
		}
	})
	for rev := int64(1); rev <= 9; rev++ {
		h.put("k", rev)
	}
	h.put("m", 20)
	h.ok(h.Flush())
	h.RequestSettle()
	h.maintainAll(3, nil)
	h.compactTo(4)
	h.maintainAll(3, nil)
	if seen["flush"] < 2 || seen["before settle"] < 4 || seen["settle"] < 4 || seen["sweep"] < 1 {
		t.Fatalf("points seen: %v", seen)
	}
}

// Between a reader's look at memory and its transaction, everything is flushed and settled and
// the index is trimmed to nothing.
func TestHazard15GapOfReader(t *testing.T) {
	var h *harness
	settling := false
	h = newHarness(t, func(o *Options) {
		o.gap = func() {
			if h != nil && h.Store != nil && !settling {
				settling = true
				h.ok(h.SettleNow())
				settling = false
			}
		}
	})
	rev := int64(0)
	for name, read := range map[string]func() (int, error){
		"get": func() (int, error) {
			_, ok, err := h.Get([]byte("k"), rev)
			if !ok {
				return 0, err
			}
			return 1, err
		},
		"count": func() (int, error) {
			n, err := h.Count(shard.Point([]byte("k")), rev)
			return int(n), err
		},
		"reverse": func() (n int, err error) {
			o := ScanOptions{Span: shard.Point([]byte("k")), Rev: rev, Reverse: true}
			return n, h.Scan(o, func(*shard.KeyValue) bool { n++; return true })
		},
		"history": func() (int, error) {
			evs, _, err := h.History([]shard.Span{shard.All}, rev, rev, 1, true)
			return len(evs), err
		},
		"leases": func() (int, error) {
			keys, err := h.LeaseKeys(7, 0)
			return len(keys), err
		},
		"snapshot": func() (n int, err error) {
			p := h.Store.mem.newPin()
			defer h.Store.mem.unpin(p)
			w := versionWalk{s: h.Store, p: p, span: shard.Point([]byte("k"))}
			return n, w.each(func(v *version) error {
				if v.kv.ModRevision == rev {
					n++
				}
				return nil
			})
		},
	} {
		rev++
		h.change(Change{Muts: []Mutation{{Key: []byte("k"), Lease: 7, Rev: Rev{rev, 0}}}})
		if n, err := read(); n != 1 || err != nil {
			t.Errorf("%s: found %d, %v", name, n, err)
		}
	}
}

// A reader that has taken the index sees the base as of later: the last settling step between
// the two must not hide anything. A scan's callback stands for the gap.
func TestHazard15ReaderSpansSettling(t *testing.T) {
	h := newHarness(t, func(o *Options) { o.steps = smallSteps })
	for i := range 40 {
		h.put(fmt.Sprintf("k%02d", i), int64(i+1))
	}
	h.ok(h.Flush())
	h.RequestSettle()
	n := 0
	h.ok(h.Scan(ScanOptions{Rev: 40}, func(kv *shard.KeyValue) bool {
		if kv.ModRevision != int64(n+1) {
			t.Fatalf("key %d has revision %d", n, kv.ModRevision)
		}
		_, err := h.Maintain(3)
		h.ok(err)
		n++
		return true
	}))
	if n != 40 {
		t.Fatalf("%d keys, want 40", n)
	}
}

// Apply looks for the previous version while settling trims the index: whichever comes first,
// the version is found.
func TestHazard15PreviousVersionAcrossTrim(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 1)
	muts := []Mutation{{Key: []byte("k"), Rev: Rev{2, 0}}}
	prevs, err := h.previous(muts)
	h.ok(err)
	h.ok(h.SettleNow()) // trims the entry that prevs points to
	h.Store.mem.mu.Lock()
	evs := h.Store.mem.insertLocked(muts, prevs)
	h.Store.mem.mu.Unlock()
	if len(evs) != 1 || evs[0].Prev == nil || evs[0].KV.Version != 2 || evs[0].KV.CreateRevision != 1 {
		t.Fatalf("%+v", evs)
	}
	h.want("k", 2, 2)
}

// All replicated state is in the file with the position: a crash leaves a prefix of the log,
// whole, whatever was flushed when.
func TestHazard15CrashLeavesOnePosition(t *testing.T) {
	h := newHarness(t, nil)
	for i := range int64(20) {
		h.change(Change{
			Muts:  []Mutation{{Key: []byte("k"), Value: []byte{byte(i)}, Lease: 5, Rev: Rev{i + 1, 0}}},
			State: []StateUpdate{{"epoch", []byte{byte(i)}}},
		})
		if i == 7 {
			h.ok(h.Flush())
		}
	}
	durable := h.DurablePosition()
	h.reopen()
	if h.Position() != durable || durable != (Position{8, 1}) || h.LastRevision() != 8 || h.State("epoch")[0] != 7 {
		t.Fatalf("reopened at %v, last %d, epoch %v", h.Position(), h.LastRevision(), h.State("epoch"))
	}
	h.want("k", math.MaxInt64, 8)
}

// A long reader pins what it reads, not the writers: deletion waits, everything else goes on.
func TestHazard20PinnedReaderHoldsDeletionOnly(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 1)
	h.put("k", 2)
	h.ok(h.SettleNow())
	p := h.Store.mem.newPin()
	h.put("k", 3)
	h.compactTo(3)
	h.ok(h.SettleNow())
	if n := h.stored(bucketBase); n != 3 || !h.CompactPending() {
		t.Fatalf("%d versions in the base, want all 3 while pinned", n)
	}
	h.Store.mem.unpin(p)
	h.maintainAll(10, nil)
	if n := h.stored(bucketBase); n != 1 || h.CompactPending() {
		t.Fatalf("%d versions in the base, want 1", n)
	}
}

// Equal content hashes equal, however it came about and wherever ranges are cut.
func TestHazard22HashIndependentOfSettlingAndCuts(t *testing.T) {
	whole, left, right := newHarness(t, nil), newHarness(t, nil), newHarness(t, nil)
	for i := range 60 {
		key, rev := fmt.Sprintf("k%d", i%7), int64(i+1)
		part := left
		if key >= "k3" {
			part = right
		}
		if i%11 == 10 {
			whole.del(key, rev)
			part.del(key, rev)
		} else {
			whole.put(key, rev)
			part.put(key, rev)
		}
	}
	for _, h := range []*harness{whole, left, right} {
		h.change(Change{CompactTo: 30})
	}
	left.ok(left.SettleNow())
	hash := func(h *harness) uint64 {
		x, err := h.HashKV(55)
		h.ok(err)
		return x
	}
	if hash(whole) != hash(left)+hash(right) {
		t.Fatal("the hashes of two halves do not add up to the whole's")
	}
	before := hash(whole)
	whole.ok(whole.SettleNow())
	if whole.CompactPending() || hash(whole) != before {
		t.Fatal("the hash changed when compacted versions were deleted")
	}
}

// TestContentHash: a hash of what there is at a revision is the same before and behind compactions up to it, of a tombstone too, wherever ranges are
// cut, and what was before counts for the other one alone.
func TestContentHash(t *testing.T) {
	history, fresh := newHarness(t, nil), newHarness(t, nil)
	for i := range 60 {
		key, rev := fmt.Sprintf("k%d", i%7), int64(i+1)
		if i%11 == 10 {
			history.del(key, rev)
		} else {
			history.put(key, rev)
		}
	}
	hash := func(h *harness, rev int64, content bool) uint64 {
		x, _, err := h.HashAt(rev, content)
		h.ok(err)
		return x
	}
	const deleted = 44 // a delete
	at := map[int64]uint64{}
	for _, rev := range []int64{deleted, 50, 60} {
		at[rev] = hash(history, rev, true)
		if at[rev] == hash(history, rev, false) {
			t.Errorf("at %d there is nothing but what was put last", rev)
		}
	}
	if at[deleted] == at[50] || at[50] == at[60] {
		t.Error("changes do not change the hash")
	}
	history.change(Change{CompactTo: deleted})
	for range 2 {
		for rev, want := range at {
			if got := hash(history, rev, true); got != want {
				t.Errorf("at %d behind a compaction at %d: %x, before %x", rev, deleted, got, want)
			}
		}
		history.ok(history.SettleNow())
	}
	history.change(Change{CompactTo: 60})
	if got := hash(history, 60, false); got != at[60] {
		t.Errorf("where everything is compacted both hashes are one: %x, %x", got, at[60])
	}
	if got := hash(fresh, 0, true); got != 0 {
		t.Errorf("nothing hashes to %x", got)
	}
}

// A compaction that deletes nothing is not written by itself, but does not keep the log from being cut for ever.
func TestACompactionOfWhatRestsIsNotFlushed(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 10)
	h.put("k", 11)
	compact := func(rev int64) { h.change(Change{CompactTo: rev}) }
	compact(20)
	if !h.NeedsFlush() {
		t.Fatal("the file must know of a compaction before what it kills is deleted")
	}
	h.ok(h.Flush())
	h.maintainAll(10, nil)
	for i := range int64(idleLag) {
		if h.NeedsFlush() || h.CompactPending() {
			t.Fatalf("after %d compactions of what rests: flush %v, pending %v", i, h.NeedsFlush(), h.CompactPending())
		}
		compact(21 + i)
	}
	if !h.NeedsFlush() || h.CompactPending() {
		t.Fatalf("flush %v, pending %v: the log cannot be cut", h.NeedsFlush(), h.CompactPending())
	}
	h.ok(h.Flush())
	compact(100)
	h.put("k", 101)
	compact(110)
	if !h.NeedsFlush() || !h.CompactPending() {
		t.Fatalf("flush %v, pending %v although it has been written to", h.NeedsFlush(), h.CompactPending())
	}
	h.ok(h.Flush())
	h.maintainAll(10, nil)
	if n := h.stored(bucketBase); n != 1 || h.CompactPending() {
		t.Errorf("%d versions in the base, pending %v", n, h.CompactPending())
	}
}

// A compaction has nothing to delete where nothing was written since the last one, or ever: nobody waits for
// it, and it costs the file nothing. What was deleted at the last one's revision is history until the next.
func TestACompactionOfWhatRestsIsNone(t *testing.T) {
	h := newHarness(t, nil)
	h.change(Change{CompactTo: 5})
	if h.CompactPending() {
		t.Error("an empty range has something to delete")
	}
	h.put("k", 10)
	h.put("k", 20)
	h.compactTo(30)
	h.maintainAll(10, nil)
	for _, rev := range []int64{40, 50} {
		h.change(Change{CompactTo: rev})
		if h.CompactPending() {
			t.Errorf("compacted at %d: something is to be deleted", rev)
		}
		h.ok(h.Flush())
		if more, err := h.Maintain(10); more || err != nil {
			t.Errorf("compacted at %d: there is more to do, %v", rev, err)
		}
		h.reopen()
		if h.CompactPending() {
			t.Errorf("compacted at %d and opened again: something is to be deleted", rev)
		}
	}
	h.want("k", 50, 20)
	h.del("k", 60)
	h.compactTo(60)
	h.maintainAll(10, nil)
	if n := h.stored(bucketLog); n != 1 {
		t.Errorf("%d entries of what was deleted at the compaction revision, want 1", n)
	}
	h.change(Change{CompactTo: 61})
	if !h.CompactPending() {
		t.Error("what was deleted at the compaction before has nothing to delete")
	}
	h.ok(h.Flush())
	h.maintainAll(10, nil)
	if n := h.stored(bucketLog) + h.stored(bucketBase); n != 0 || h.CompactPending() {
		t.Errorf("%d versions are left, pending: %v", n, h.CompactPending())
	}
}
