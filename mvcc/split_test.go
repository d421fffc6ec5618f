package mvcc

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// TestSplitAgainstModel cuts a store at random, with the copy begun at any moment before, and compares both parts with
// models that never had the other's keys; then random operations, crashes and restarts go on in both. To run a failure
// again: go test ./mvcc -run TestSplitAgainstModel -mvcc.seed=N
func TestSplitAgainstModel(t *testing.T) {
	for _, seed := range seeds(1) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			d := newDriver(t, seed)
			defer d.close()
			d.ops(100)
			for range 3 {
				child := d.split()
				if child == nil {
					continue // no key to cut at is left
				}
				child.ops(60)
				d.ops(60)
				child.finishCompaction()
				child.check()
				child.close()
			}
			d.finishCompaction()
			d.check()
		})
	}
}

func seeds(runs int) []uint64 {
	if *seedFlag != 0 {
		return []uint64{*seedFlag}
	}
	n := runs * *runsFlag
	if testing.Short() {
		n = (n + 1) / 2
	}
	out := make([]uint64, 0, n)
	for i := range n {
		out = append(out, uint64(i+1))
	}
	return out
}

func (d *driver) ops(n int) {
	for range n {
		d.op()
	}
}

// split cuts the store, and returns the driver of the part that was cut off; nil where a cut is not possible.
func (d *driver) split() *driver {
	d.t.Helper()
	at := d.key()
	if at == string(d.served.Start) || at == "\x00" { // some key of anyKey stays on either side
		return nil
	}
	d.files++
	path := filepath.Join(d.dir, fmt.Sprintf("child%d", d.files))
	child := shard.RangeID(100 + d.files)
	sp := d.prepare([]byte(at), child, path)
	d.drain()
	// Position and state are the child's own.
	pos := Position{Index: uint64(len(d.log)), Term: 9}
	state := []StateUpdate{{"desc", []byte(at)}, {"gone", nil}}
	for err := sp.Finish(path, pos, state); err != nil; err = sp.Finish(path, pos, state) {
		if !errors.Is(err, errCrash) {
			d.t.Fatal(err)
		}
		d.must(sp.Discard())
		d.recover()
		sp = d.begin([]byte(at), child, path)
	}
	d.must(sp.Discard()) // does nothing
	right := shard.Span{Start: []byte(at), End: d.served.End}
	left := shard.Span{Start: d.served.Start, End: []byte(at)}
	if n, err := d.s.Count(right, math.MaxInt64); err != nil || n != sp.Keys() {
		d.t.Fatalf("%d live keys were copied of %d, %v", sp.Keys(), n, err)
	}
	c := d.child(right, path, child, pos, state)
	d.served = left
	d.apply(Change{State: []StateUpdate{{"desc", []byte("left")}}, Cut: &Cut{Span: left, Keys: sp.Keys()}})
	d.check()
	d.refuses(right)
	return c
}

func (d *driver) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// begin is BeginSplit of a store that has just been opened, or has been written to for long.
func (d *driver) begin(at []byte, child shard.RangeID, path string) *Split {
	d.t.Helper()
	sp, err := BeginSplit(d.s, at, child, path+".new")
	d.must(err)
	return sp
}

// prepare begins a copy and lets it go on beside other operations. After a crash it begins again.
func (d *driver) prepare(at []byte, child shard.RangeID, path string) *Split {
	d.t.Helper()
	sp := d.begin(at, child, path)
	for range d.r.IntN(80) {
		if d.r.IntN(3) == 0 {
			d.op()
		}
		if d.r.IntN(40) == 0 {
			sp.work.Lock()
			d.s.mem.mu.Lock()
			sp.sources[0].pin.tap.lost = true
			d.s.mem.mu.Unlock()
			sp.work.Unlock()
		}
		if d.r.IntN(6) == 0 {
			sp.round() // earlier than it would be due
		}
		_, err := sp.Step(1+d.r.IntN(20), d.r.IntN(2) == 0)
		if sp.sources[0].s == d.s && err == nil {
			continue
		}
		if err != nil && !errors.Is(err, errCrash) && sp.sources[0].s == d.s {
			d.t.Fatal(err)
		}
		d.must(sp.Discard())
		if sp.sources[0].s == d.s {
			d.recover()
		}
		sp = d.begin(at, child, path)
	}
	if sp.sources[0].s != d.s {
		d.must(sp.Discard())
		sp = d.begin(at, child, path)
	}
	return sp
}

// round begins the next round of a copy that waits, however little is left.
func (c *copier) round() {
	c.work.Lock()
	defer c.work.Unlock()
	if c.work.failed == nil && c.work.stage == copyWait {
		c.takeLocked()
	}
}

// drain ends the prepared transaction.
func (d *driver) drain() {
	for d.locked != nil {
		d.transaction()
	}
}

// child opens what was copied, and compares it.
func (d *driver) child(right shard.Span, path string, id shard.RangeID, pos Position, state []StateUpdate) *driver {
	d.t.Helper()
	c := &driver{
		t: d.t, r: rand.New(rand.NewPCG(d.r.Uint64(), 2)), dir: d.t.TempDir(), m: d.m.clone(), floor: math.MaxInt64,
		log: slices.Clone(d.log), rev: d.rev, served: right, opt: d.opt,
	}
	c.opt.Path, c.opt.RangeID = path, id
	c.hooks()
	c.m.cut(right)
	c.m.state, c.m.pos = map[string]string{}, pos
	for _, u := range state {
		if u.Value != nil {
			c.m.state[u.Key] = string(u.Value)
		}
	}
	c.log[len(c.log)-1].floor = math.MaxInt64
	c.open()
	c.check()
	return c
}

// refuses checks that nothing of a span is to be had.
func (d *driver) refuses(span shard.Span) {
	d.t.Helper()
	var wrong *shard.WrongRangeError
	if _, _, err := d.s.Get(span.Start, math.MaxInt64); !errors.As(err, &wrong) {
		d.t.Fatalf("get: %v", err)
	}
	if _, _, err := d.s.Head(span.Start, math.MaxInt64); !errors.As(err, &wrong) {
		d.t.Fatalf("head: %v", err)
	}
	if _, err := d.s.Count(shard.All, math.MaxInt64); !errors.As(err, &wrong) {
		d.t.Fatalf("count: %v", err)
	}
	if err := d.s.Scan(ScanOptions{Rev: math.MaxInt64}, nil); !errors.As(err, &wrong) {
		d.t.Fatalf("scan: %v", err)
	}
	if _, _, err := d.s.History([]shard.Span{span}, max(1, d.m.compact), d.rev, 1, false); !errors.As(err, &wrong) {
		d.t.Fatalf("history: %v", err)
	}
	mut := Mutation{Key: span.Start, Rev: Rev{d.rev + 1, 0}}
	if _, err := d.s.Apply(Change{Pos: Position{uint64(len(d.log)) + 1, 3}, Muts: []Mutation{mut}}); !errors.Is(err, shard.ErrInvalid) {
		d.t.Fatalf("apply: %v", err)
	}
}

// finishCompaction compacts everything, and checks that file and memory have nothing that nobody can see.
func (d *driver) finishCompaction() {
	d.t.Helper()
	d.crash = 0
	d.drain()
	d.rev++
	d.apply(Change{CompactTo: d.rev})
	d.must(d.s.SettleNow())
	m := d.s.Maintenance()
	if m.CompactPending() || m.TrimPending() || len(d.s.mem.mu.pins) > 0 {
		d.t.Fatalf("compaction pending: %v, trimming pending: %v, %d pins", m.CompactPending(), m.TrimPending(), len(d.s.mem.mu.pins))
	}
	want := len(d.m.scan(shard.All, math.MaxInt64))
	leases := 0
	for lease := int64(1); lease < 4; lease++ {
		leases += len(d.m.leaseKeys(lease))
	}
	count := map[string]int{}
	d.must(d.s.file.view(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, bk *bolt.Bucket) error {
			count[string(name)] = bk.Stats().KeyN
			return nil
		})
	}))
	if count["base"] != want || count["log"] != 0 || count["lease"] != leases {
		d.t.Fatalf("the file holds %v; there are %d keys and %d with a lease", count, want, leases)
	}
	if n := d.s.Stats().IndexBytes; n != 0 {
		d.t.Fatalf("%d bytes stay in memory", n)
	}
}

// finished makes the child of a split at "m" and opens it.
func (h *harness) finished(sp *Split) *harness {
	h.t.Helper()
	o := h.o
	o.Path, o.RangeID = filepath.Join(h.t.TempDir(), "child"), 9
	h.ok(sp.Finish(o.Path, Position{11, 5}, nil))
	c := &harness{t: h.t, o: o}
	c.reopen()
	return c
}

// copied does steps until the copy waits for more.
func (h *harness) copied(sp *Split) {
	h.t.Helper()
	for more := true; more; {
		var err error
		more, err = sp.Step(1, true)
		h.ok(err)
	}
}

func (h *harness) beginSplit() *Split {
	h.t.Helper()
	sp, err := BeginSplit(h.Store, []byte("m"), 9, filepath.Join(h.t.TempDir(), "new"))
	h.ok(err)
	h.t.Cleanup(func() { h.ok(sp.Discard()) })
	return sp
}

// A prepared transaction holds settling back, in the copy too, and what it inserts late comes with it.
func TestSplitFollowsLateInserts(t *testing.T) {
	h := newHarness(t, nil)
	h.put("r", 10)
	h.SetFloor(20)
	h.put("x", 30)
	sp := h.beginSplit()
	h.copied(sp)
	h.put("y", 40)
	sp.round()
	h.copied(sp)
	h.put("r", 21) // below what has been copied
	h.SetFloor(math.MaxInt64)
	c := h.finished(sp)
	c.want("r", 35, 21)
	c.want("r", 20, 10)
	c.want("y", math.MaxInt64, 40)
	evs, _, err := c.History([]shard.Span{shard.All}, 1, 100, math.MaxInt, false)
	if c.ok(err); len(evs) != 4 {
		t.Fatalf("%d events", len(evs))
	}
}

// What is dead at the moment of the copy stays behind: nothing would ever find it in the child.
func TestSplitCopiesNoGarbage(t *testing.T) {
	h := newHarness(t, nil)
	h.put("r1", 10)
	h.put("r1", 11)
	h.put("r2", 12)
	h.del("r2", 13)
	h.put("a", 14)
	h.ok(h.SettleNow())
	h.compactTo(14)
	c := h.finished(h.beginSplit())
	if n := c.stored(bucketBase); n != 1 || c.CompactPending() || c.Keys() != 1 {
		t.Fatalf("%d versions of %d keys in the base; compaction pending: %v", n, c.Keys(), c.CompactPending())
	}
	c.want("r1", 14, 11)
	c.want("r2", 14, 0)
}

// So much is written that is not remembered: the copy begins anew, and Finish alone does that too.
func TestSplitBeginsAnewWhenLost(t *testing.T) {
	for _, steps := range []bool{true, false} {
		h := cutHarness(t, nil)
		sp := h.beginSplit()
		h.copied(sp)
		sp.sources[0].pin.tap.lost = true
		h.change(Change{Muts: []Mutation{{Key: []byte("r00"), Delete: true, Rev: Rev{500, 0}}, {Key: []byte("s"), Lease: 6, Rev: Rev{501, 0}}}})
		if steps {
			h.copied(sp)
		}
		c := h.finished(sp)
		six, err := c.LeaseKeys(6, 0)
		five, err2 := c.LeaseKeys(5, 0)
		if err != nil || err2 != nil || len(six) != 1 || len(five) != cutKeys-1 || c.Keys() != cutKeys || sp.Keys() != cutKeys {
			t.Fatalf("%d keys, leases of %d and %d; %v, %v", c.Keys(), len(five), len(six), err, err2)
		}
		c.want("r00", math.MaxInt64, 0)
		c.want("s", math.MaxInt64, 501)
	}
}

// A tap that nobody takes from holds so much and no more.
func TestTapIsBounded(t *testing.T) {
	h := cutHarness(t, nil)
	sp := h.beginSplit()
	key := make([]byte, MaxKeyBytes)
	key[0] = 'r'
	for i := 0; !sp.sources[0].pin.tap.isLost(); i++ {
		copy(key[1:], fmt.Sprint(i))
		h.change(Change{Muts: []Mutation{{Key: key, Lease: 7, Rev: Rev{1000 + int64(i), 0}}}})
		if held := sp.sources[0].pin.tap.held; held > tapBytesMax+2*MaxKeyBytes {
			t.Fatalf("%d bytes are held", held)
		}
	}
}

// Discard leaves nothing, and ends the Split.
func TestSplitDiscard(t *testing.T) {
	h := cutHarness(t, nil)
	sp := h.beginSplit()
	path := sp.work.file.path
	_, err := sp.Step(3, true)
	h.ok(err)
	h.ok(sp.Discard())
	h.ok(sp.Discard())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) || len(h.Store.mem.mu.pins) != 0 {
		t.Fatalf("left after Discard: %v, %d pins", err, len(h.Store.mem.mu.pins))
	}
	if _, err := sp.Step(1, true); !errors.Is(err, shard.ErrStopped) {
		t.Fatal(err)
	}
	if err := sp.Finish(path, Position{11, 5}, nil); !errors.Is(err, shard.ErrStopped) {
		t.Fatal(err)
	}
}
