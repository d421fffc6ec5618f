package mvcc

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
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
	out := make([]uint64, 0, runs**runsFlag)
	for i := range runs * *runsFlag {
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
			sp.work.pin.tap.lost = true
			d.s.mem.mu.Unlock()
			sp.work.Unlock()
		}
		if d.r.IntN(6) == 0 {
			sp.round() // earlier than it would be due
		}
		_, err := sp.Step(1 + d.r.IntN(20))
		if sp.s == d.s && err == nil {
			continue
		}
		if err != nil && !errors.Is(err, errCrash) && sp.s == d.s {
			d.t.Fatal(err)
		}
		d.must(sp.Discard())
		if sp.s == d.s {
			d.recover()
		}
		sp = d.begin(at, child, path)
	}
	if sp.s != d.s {
		d.must(sp.Discard())
		sp = d.begin(at, child, path)
	}
	return sp
}

// round begins the next round of a copy that waits, however little is left.
func (sp *Split) round() {
	sp.work.Lock()
	defer sp.work.Unlock()
	if sp.work.failed == nil && sp.work.stage == splitWait {
		sp.work.round, sp.work.stage = sp.work.pin.tap.take(), splitLog
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
