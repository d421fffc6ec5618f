package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// TestMergeAgainstModel cuts a store at random, lets both parts go on, also cutting them again, and merges two
// neighbours, with the copy begun at any moment before and both of them written to, compacted, settled and started again
// beside it. The merged store is compared with a model that has received both; then random operations, crashes and
// restarts go on in it. To run a failure again: go test ./mvcc -run TestMergeAgainstModel -mvcc.seed=N
func TestMergeAgainstModel(t *testing.T) {
	for _, seed := range seeds(1) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			left := newDriver(t, seed)
			left.ops(60)
			for range 3 {
				right := left.split()
				if right == nil {
					continue // no key to cut at is left
				}
				p := pair{left, right}
				p.ops(60)
				if far := right.split(); far != nil { // the right begins with a cut of its own
					far.close()
				}
				left = p.merge()
				left.ops(60)
			}
			left.finishCompaction()
			left.check()
			left.close()
		})
	}
}

// pair is the drivers of two neighbours, which share the revisions.
type pair struct{ left, right *driver }

// sync makes the revisions that one has handed out known to the other.
func (p *pair) sync() {
	rev := max(p.left.rev, p.right.rev)
	p.left.rev, p.right.rev = rev, rev
}

func (p *pair) ops(n int) {
	for range n {
		p.op()
	}
}

func (p *pair) op() {
	d := p.left
	if d.r.IntN(2) == 0 {
		d = p.right
	}
	if p.left.r.IntN(20) == 0 {
		p.both()
	} else {
		d.op()
	}
	p.sync()
}

// both is one transaction on both.
func (p *pair) both() {
	for _, d := range []*driver{p.left, p.right} {
		if d.locked != nil {
			return
		}
	}
	p.left.rev++
	p.sync()
	for sub, d := range []*driver{p.right, p.left} {
		d.apply(Change{Muts: []Mutation{d.mutation(d.key(), Rev{d.rev, int64(sub)})}})
	}
}

// final is a revision at or below which nothing comes to either any more.
func (p *pair) final() int64 {
	p.sync()
	settle := min(p.left.rev, p.left.floor, p.right.floor)
	if p.left.r.IntN(4) == 0 {
		settle = p.left.r.Int64N(settle + 1)
	}
	return settle
}

func (p *pair) begin(path string) *Merge {
	p.left.t.Helper()
	m, err := BeginMerge(p.left.s, p.right.s, [2]shard.Span{p.left.served, p.right.served}, p.final(), path)
	p.left.must(err)
	return m
}

// of reports whether the copy is of the stores as they are open now.
func (p *pair) of(m *Merge) bool {
	return m.sources[0].s == p.left.s && m.sources[1].s == p.right.s
}

// prepare begins a copy and lets it go on beside other operations. After a crash it begins again.
func (p *pair) prepare(path string) *Merge {
	d := p.left
	d.t.Helper()
	m := p.begin(path)
	for range d.r.IntN(120) {
		if d.r.IntN(3) == 0 {
			p.op()
		}
		if d.r.IntN(60) == 0 {
			m.lose(d.r.IntN(2))
		}
		if d.r.IntN(6) == 0 {
			m.round() // earlier than it would be due
		}
		_, err := m.Step(1+d.r.IntN(20), d.r.IntN(2) == 0)
		if p.of(m) && err == nil {
			continue
		}
		if err != nil && !errors.Is(err, errCrash) && p.of(m) {
			d.t.Fatal(err)
		}
		d.must(m.Discard())
		if p.of(m) {
			d.recover()
		}
		m = p.begin(path)
	}
	if !p.of(m) {
		d.must(m.Discard())
		m = p.begin(path)
	}
	return m
}

// lose makes a copier forget what was written to one of its sources.
func (c *copier) lose(i int) {
	c.work.Lock()
	defer c.work.Unlock()
	tap := c.sources[i].pin.tap
	tap.m.mu.Lock()
	defer tap.m.mu.Unlock()
	tap.lost = true
}

// merge makes one store of both, and returns its driver.
func (p *pair) merge() *driver {
	l, r := p.left, p.right
	l.t.Helper()
	l.files++
	path := filepath.Join(l.dir, fmt.Sprintf("merged%d", l.files))
	m := p.prepare(path)
	r.drain()
	p.sync()
	if l.floor < max(l.m.compact, r.m.compact) { // else it goes on in the merged store
		l.drain()
		p.sync()
	}
	if !p.of(m) {
		l.must(m.Discard())
		m = p.begin(path)
	}
	// Position and state are told.
	pos := Position{Index: uint64(len(l.log)), Term: 9}
	state := []StateUpdate{{"desc", []byte("whole")}, {"gone", nil}}
	for err := m.Finish(pos, state); err != nil; err = m.Finish(pos, state) {
		if !errors.Is(err, errCrash) {
			l.t.Fatal(err)
		}
		l.must(m.Discard())
		l.recover()
		l.check()
		r.check()
		m = p.begin(path)
	}
	l.must(m.Discard()) // does nothing
	return p.merged(m, path, pos, state)
}

// merged opens what was copied, in the place of the left one, and compares it.
func (p *pair) merged(m *Merge, path string, pos Position, state []StateUpdate) *driver {
	l, r := p.left, p.right
	l.t.Helper()
	for _, d := range []*driver{l, r} {
		d.crash = 0
		d.check() // as it was
		if n := len(d.s.mem.mu.pins); n > 0 {
			d.t.Fatalf("%d pins are left", n)
		}
		d.close()
	}
	l.must(os.Rename(path, l.opt.Path))
	d := &driver{
		t: l.t, r: rand.New(rand.NewPCG(l.r.Uint64(), 3)), dir: l.dir, m: unite(l.m, r.m), files: l.files,
		log: slices.Clone(l.log), rev: l.rev, floor: l.floor, locked: l.locked, decide: l.decide,
		served: shard.Span{Start: l.served.Start, End: r.served.End}, opt: l.opt,
	}
	d.hooks()
	d.m.pos, d.m.state = pos, map[string]string{}
	for _, u := range state {
		if u.Value != nil {
			d.m.state[u.Key] = string(u.Value)
		}
	}
	d.log[len(d.log)-1].floor = d.floor
	d.open()
	d.check()
	if keys := m.Keys(); keys != d.s.Keys() {
		d.t.Fatalf("%d keys of %d were copied", d.s.Keys(), keys)
	}
	d.recover()
	d.check()
	if d.r.IntN(2) == 0 {
		d.must(d.s.SettleNow())
		d.noDead()
		d.check()
	}
	return d
}

// noDead checks that what is compacted is gone from the base, where the hold-back allows that.
func (d *driver) noDead() {
	d.t.Helper()
	if d.s.Maintenance().CompactPending() {
		if d.floor >= d.m.compact {
			d.t.Fatalf("compaction at %d is pending, held back at %d", d.m.compact, d.floor)
		}
		return
	}
	var key []byte
	d.must(d.s.file.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketBase).ForEach(func(k, rec []byte) error {
			v, err := decodeBaseEntry(k, rec)
			if rev := v.kv.ModRevision; err == nil && rev <= d.m.compact {
				if bytes.Equal(key, v.kv.Key) || v.del && rev < d.m.compact {
					err = fmt.Errorf("%q at %d is dead at %d", v.kv.Key, rev, d.m.compact)
				}
				key = bytes.Clone(v.kv.Key)
			}
			return err
		})
	}))
}

// unite is the model that has received what two neighbours have.
func unite(l, r *model) *model {
	m := l.clone()
	maps.Copy(m.vers, r.clone().vers)
	m.last, m.compact = max(l.last, r.last), max(l.compact, r.compact)
	return m
}

// mergeHarness is a pair of stores: the left serves what is below "m", the right the rest.
type mergeHarness struct {
	left, right *harness
	path        string
}

func newMergeHarness(t *testing.T) *mergeHarness {
	return &mergeHarness{newHarness(t, nil), newHarness(t, func(o *Options) { o.RangeID = 3 }), filepath.Join(t.TempDir(), "merged")}
}

var mergeSpans = [2]shard.Span{leftSpan, {Start: []byte("m")}}

func (p *mergeHarness) begin(settle int64) *Merge {
	t := p.left.t
	t.Helper()
	m, err := BeginMerge(p.left.Store, p.right.Store, mergeSpans, settle, p.path)
	p.left.ok(err)
	t.Cleanup(func() { p.left.ok(m.Discard()) })
	return m
}

// finished makes the merged store and opens it.
func (p *mergeHarness) finished(m *Merge) *harness {
	p.left.t.Helper()
	p.left.ok(m.Finish(Position{11, 5}, nil))
	o := p.left.o
	o.Path = p.path
	h := &harness{t: p.left.t, o: o}
	h.reopen()
	return h
}

// Each key has a place in the history of the merged store, whichever had it, and in whichever order they came.
func TestMergeInterleaves(t *testing.T) {
	p := newMergeHarness(t)
	for rev := int64(1); rev <= 40; rev++ {
		if rev%3 == 0 {
			p.left.put("a", rev)
		} else {
			p.right.put("x", rev)
		}
		if rev == 20 {
			p.left.ok(p.left.SettleNow())
			p.right.ok(p.right.Flush())
		}
	}
	m := p.begin(30)
	p.copy(m)
	p.left.put("a", 41)
	p.right.put("x", 42)
	h := p.finished(m)
	evs, _, err := h.History([]shard.Span{shard.All}, 1, 100, math.MaxInt, true)
	if h.ok(err); len(evs) != 42 {
		t.Fatalf("%d events", len(evs))
	}
	for i, ev := range evs {
		if ev.KV.ModRevision != int64(i+1) || (ev.Prev == nil) != (ev.KV.Version == 1) {
			t.Fatalf("event %d is at %d, version %d, before: %v", i, ev.KV.ModRevision, ev.KV.Version, ev.Prev)
		}
	}
	if s := h.Stats().SettleRevision; s != 39 { // the left has come so far by itself, and the right further
		t.Fatalf("settled up to %d", s)
	}
	h.want("a", 41, 41)
	h.want("a", 20, 18)
	h.want("x", 41, 40)
}

// What was cut off from either, and is not trimmed yet, stays behind; what had been cut off from the left comes back as it
// is in the right now.
func TestMergeOfWhatWasCut(t *testing.T) {
	p := newMergeHarness(t)
	p.left = cutHarness(t, nil)
	p.right = p.left.finished(p.left.beginSplit())
	p.left.cut()
	p.right.put("r00", 100)
	p.right.put("x", 101)
	p.right.change(Change{Cut: &Cut{Span: shard.Span{Start: []byte("m"), End: []byte("w")}, Keys: 1}})
	for _, h := range []*harness{p.left, p.right} {
		if h.ok(h.Flush()); !h.TrimPending() {
			t.Fatal("nothing is left to be trimmed")
		}
	}
	m, err := BeginMerge(p.left.Store, p.right.Store, [2]shard.Span{p.left.Span(), p.right.Span()}, 72, p.path)
	p.left.ok(err)
	h := p.finished(m)
	for range 2 {
		n, err := h.Count(shard.All, math.MaxInt64)
		if h.ok(err); n != 2*cutKeys || h.Keys() != n {
			t.Fatalf("%d keys, %d counted", h.Keys(), n)
		}
		if leased, err := h.LeaseKeys(5, 0); err != nil || len(leased) != 2*cutKeys-1 {
			t.Fatalf("%d keys with the lease, %v", len(leased), err)
		}
		evs, _, err := h.History([]shard.Span{shard.All}, 1, 200, math.MaxInt, false)
		if h.ok(err); len(evs) != 6*cutKeys+1 {
			t.Fatalf("%d events", len(evs))
		}
		if got, err := h.HashKV(math.MaxInt64); err != nil || got != p.sum() {
			t.Fatalf("hash %x, %v; of both %x", got, err, p.sum())
		}
		h.ok(h.SettleNow())
		h.reopen()
	}
	h.want("r00", 99, 50)
	h.want("r00", 100, 100)
	if span := h.Span(); !span.Equal(shard.All) || h.TrimPending() {
		t.Fatalf("serves %v; trimming pending: %v", span, h.TrimPending())
	}
}

// One of the two has been compacted and the other has not: what is dead in the other is deleted later, though nobody
// compacts or writes again.
func TestMergeSweepsWhatOneHasNotSwept(t *testing.T) {
	for _, leftIs := range []bool{true, false} {
		p := newMergeHarness(t)
		for rev := int64(1); rev <= 10; rev++ {
			p.left.put("a", 2*rev)
			p.right.put("x", 2*rev+1)
		}
		p.left.del("a", 22)
		p.right.del("x", 23)
		compacted := p.left
		if !leftIs {
			compacted = p.right
		}
		compacted.compactTo(100) // no store has written since
		h := p.finished(p.begin(23))
		if c := h.CompactRevision(); c != 100 || !h.CompactPending() {
			t.Fatalf("compacted at %d; pending: %v", c, h.CompactPending())
		}
		h.maintainAll(3, nil)
		if n := h.stored(bucketBase) + h.stored(bucketLog); n != 0 || h.CompactPending() || h.Keys() != 0 {
			t.Fatalf("%d versions of %d keys stay; compaction pending: %v", n, h.Keys(), h.CompactPending())
		}
		var gone *shard.CompactedError
		if _, _, err := h.Get([]byte("a"), 99); !errors.As(err, &gone) || gone.Revision != 100 {
			t.Fatalf("read below the compaction: %v", err)
		}
	}
}

// What the caller knows to be final lies below what has been compacted, and swept from the log: that is read when the
// store is opened, all the same.
func TestMergeFinalBelowCompaction(t *testing.T) {
	p := newMergeHarness(t)
	p.left.SetFloor(5)
	p.left.put("a", 10)
	for rev := int64(20); rev < 30; rev++ {
		p.right.put("x", rev)
	}
	p.right.put("y", 30)
	p.right.del("z", 31)
	p.right.compactTo(35)
	p.right.ok(p.right.SettleNow())
	if n := p.right.stored(bucketLog); n != 0 {
		t.Fatalf("the log holds %d versions", n)
	}
	m := p.begin(5)
	p.left.SetFloor(math.MaxInt64)
	h := p.finished(m)
	for range 2 {
		h.want("a", math.MaxInt64, 10)
		h.want("x", math.MaxInt64, 29)
		h.want("y", math.MaxInt64, 30)
		h.want("z", math.MaxInt64, 0)
		if h.Keys() != 3 {
			t.Fatalf("%d keys", h.Keys())
		}
		h.ok(h.SettleNow())
		h.reopen()
	}
	if n, log := h.stored(bucketBase), h.stored(bucketLog); n != 3 || log != 0 {
		t.Fatalf("%d versions in the base, %d in the log", n, log)
	}
}

// Revisions come to neither any more up to one that neither has seen: what is written next may be at or below it, in the
// merged store, and a restart finds it.
func TestMergeFinalAboveEverything(t *testing.T) {
	p := newMergeHarness(t)
	p.left.put("a", 10)
	p.right.put("x", 20)
	h := p.finished(p.begin(100))
	if s := h.Stats().SettleRevision; s != 20 {
		t.Fatalf("settled up to %d", s)
	}
	h.put("b", 60)
	h.ok(h.Flush())
	h.reopen()
	h.want("b", 60, 60)
	h.want("x", 60, 20)
}

// What was to be final and is not ends the copy, whenever it comes, and leaves the stores as they are.
func TestMergeRefusesWhatIsTooLate(t *testing.T) {
	for _, last := range []bool{true, false} {
		p := newMergeHarness(t)
		p.left.put("a", 10)
		p.right.put("x", 20)
		p.right.SetFloor(25)
		p.right.put("x", 30)
		m := p.begin(25)
		p.copy(m)
		p.left.put("b", 25)
		p.right.put("y", 26)
		var err error
		if last {
			err = m.Finish(Position{11, 5}, nil)
		} else {
			m.round()
			for more := true; more && err == nil; {
				more, err = m.Step(3, true)
			}
		}
		if !errors.Is(err, errCopyLate) || !errors.Is(err, shard.ErrInvalid) {
			t.Fatalf("a version at what was to be final: %v", err)
		}
		if again := m.Finish(Position{11, 5}, nil); !errors.Is(again, errCopyLate) {
			t.Fatalf("finished after an error: %v", again)
		}
		p.left.ok(m.Discard())
		p.left.want("b", 25, 25)
		if h := p.finished(p.begin(25)); h.Keys() != 4 {
			t.Fatalf("%d keys", h.Keys())
		}
	}
}

// One revision and number in both is no history of one store.
func TestMergeRefusesARevisionTwice(t *testing.T) {
	p := newMergeHarness(t)
	p.left.put("a", 10)
	p.right.put("x", 10)
	if err := p.begin(10).Finish(Position{11, 5}, nil); !errors.Is(err, errCopyTwice) {
		t.Fatal(err)
	}
}

func TestBadMergesAreRefused(t *testing.T) {
	p := newMergeHarness(t)
	l, r := p.left.Store, p.right.Store
	p.left.put("a", 10)
	p.right.put("x", 20)
	span := func(start, end string) shard.Span { return shard.Span{Start: []byte(start), End: []byte(end)} }
	for name, begin := range map[string]func() (*Merge, error){
		"one store": func() (*Merge, error) { return BeginMerge(l, l, mergeSpans, 5, p.path) },
		"a gap": func() (*Merge, error) {
			return BeginMerge(l, r, [2]shard.Span{span("", "l"), span("m", "")}, 5, p.path)
		},
		"overlapping": func() (*Merge, error) {
			return BeginMerge(l, r, [2]shard.Span{span("", "n"), span("m", "")}, 5, p.path)
		},
		"wrong order": func() (*Merge, error) {
			return BeginMerge(l, r, [2]shard.Span{span("m", ""), span("", "m")}, 5, p.path)
		},
		"empty": func() (*Merge, error) {
			return BeginMerge(l, r, [2]shard.Span{span("b", "a"), span("a", "")}, 5, p.path)
		},
		"no revision":  func() (*Merge, error) { return BeginMerge(l, r, mergeSpans, -1, p.path) },
		"any revision": func() (*Merge, error) { return BeginMerge(l, r, mergeSpans, math.MaxInt64, p.path) },
	} {
		if _, err := begin(); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.SetFloor(4)
	if _, err := BeginMerge(l, r, mergeSpans, 5, p.path); !errors.Is(err, ErrMergeUnsettled) {
		t.Errorf("final up to 5, and held back at 4: %v", err)
	}
	r.SetFloor(math.MaxInt64)
	m := p.begin(5)
	p.left.change(Change{Cut: &Cut{Span: span("", "c"), Keys: 0}})
	if err := m.Finish(Position{11, 5}, nil); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("a source that has been cut meanwhile: %v", err)
	}
	if _, err := BeginMerge(l, r, mergeSpans, 5, p.path); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("more than is served: %v", err)
	}
	if _, err := os.Stat(p.path); err != nil || len(l.mem.mu.pins) != 1 {
		t.Errorf("what was refused has touched the file of another: %v, %d pins", err, len(l.mem.mu.pins))
	}
}

// So much is written to one that it is not remembered: the copy of both begins anew, and Finish alone does that too.
func TestMergeBeginsAnewWhenLost(t *testing.T) {
	for i := range 4 {
		p := newMergeHarness(t)
		writeBoth(p.left, "l")
		writeBoth(p.right, "r")
		m := p.begin(10)
		if left := m.Left(); left != math.MaxInt64 {
			t.Fatalf("%d are left at the beginning", left)
		}
		p.copy(m)
		if left := m.Left(); left != 0 {
			t.Fatalf("%d are left of what has been copied", left)
		}
		m.lose(i % 2)
		p.left.change(Change{Muts: []Mutation{{Key: []byte("l00"), Delete: true, Rev: Rev{500, 0}}, {Key: []byte("l"), Lease: 6, Rev: Rev{501, 0}}}})
		p.right.change(Change{Muts: []Mutation{{Key: []byte("r00"), Lease: 7, Rev: Rev{502, 0}}, {Key: []byte("s"), Rev: Rev{503, 0}}}})
		if i < 2 {
			p.copy(m)
		}
		h := p.finished(m)
		var n [3]int
		for j, lease := range []int64{5, 6, 7} {
			keys, err := h.LeaseKeys(lease, 0)
			h.ok(err)
			n[j] = len(keys)
		}
		if n != [3]int{2*cutKeys - 2, 1, 1} || h.Keys() != 2*cutKeys+1 || m.Keys() != h.Keys() {
			t.Fatalf("%d keys, %v with leases", h.Keys(), n)
		}
	}
}

// copy does steps until the copy waits for more.
func (p *mergeHarness) copy(m *Merge) {
	p.left.t.Helper()
	for more := true; more; {
		var err error
		more, err = m.Step(3, true)
		p.left.ok(err)
	}
}

// A crash before or after any transaction leaves both as they were; the next copy finds what the last one left.
func TestMergeCrash(t *testing.T) {
	for at := 1; ; at++ {
		p := newMergeHarness(t)
		writeBoth(p.left, "l")
		writeBoth(p.right, "r")
		sum, commits := p.sum(), 0
		m := p.begin(10)
		for range 3 {
			_, err := m.Step(5, true)
			p.left.ok(err)
		}
		p.left.Store.opt.hook = func(string) error {
			if commits++; commits == at {
				return errCrash
			}
			return nil
		}
		err := m.Finish(Position{11, 5}, nil)
		if err == nil {
			if at < 5 {
				t.Fatalf("finished after %d hooks", commits)
			}
			return
		}
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		p.left.ok(m.Discard())
		if _, err := os.Stat(p.path); !errors.Is(err, os.ErrNotExist) || len(p.left.Store.mem.mu.pins)+len(p.right.Store.mem.mu.pins) != 0 {
			t.Fatalf("left after Discard: %v", err)
		}
		p.left.reopen()
		p.right.reopen()
		p.left.ok(os.WriteFile(p.path, []byte("half of a file"), 0o600))
		// What was not flushed a crash takes with it.
		if got := p.sum(); got == 0 || got == sum {
			t.Fatalf("hash %x after the restart, %x before", got, sum)
		}
		sum = p.sum()
		h := p.finished(p.begin(10))
		if got, err := h.HashKV(math.MaxInt64); err != nil || got != sum {
			t.Fatalf("hash %x, %v; of both %x", got, err, sum)
		}
	}
}

// sum is the hash of both.
func (p *mergeHarness) sum() uint64 {
	p.left.t.Helper()
	l, err := p.left.HashKV(math.MaxInt64)
	p.left.ok(err)
	r, err := p.right.HashKV(math.MaxInt64)
	p.left.ok(err)
	return l + r
}

// A Merge that was ended stays so.
func TestMergeDiscard(t *testing.T) {
	p := newMergeHarness(t)
	m := p.begin(0)
	_, err := m.Step(3, true)
	p.left.ok(err)
	p.left.ok(m.Discard())
	p.left.ok(m.Discard())
	if _, err := m.Step(1, true); !errors.Is(err, shard.ErrStopped) {
		t.Fatal(err)
	}
	if err := m.Finish(Position{11, 5}, nil); !errors.Is(err, shard.ErrStopped) {
		t.Fatal(err)
	}
}

// Everything goes on beside the copy: writes, flushes, settling and compaction of both. Run it with -race.
func TestMergeBesideWriters(t *testing.T) {
	small := func(o *Options) {
		o.FlushBytes, o.SettleBytes, o.steps = 2000, 4000, steps{visits: 30, results: 16, first: 4, bytes: 1000, frame: 500, settle: 2000}
	}
	p := &mergeHarness{newHarness(t, small), newHarness(t, func(o *Options) { o.RangeID = 3; small(o) }), filepath.Join(t.TempDir(), "merged")}
	write := func(h *harness, part string, rev int64) error {
		h.index++
		m := Mutation{Key: fmt.Appendf(nil, "%s%02d", part, rev%37), Value: make([]byte, rev%50), Lease: rev % 3, Delete: rev%7 == 0, Rev: Rev{rev, 0}}
		_, err := h.Apply(Change{Pos: Position{h.index, 1}, Muts: []Mutation{m}, CompactTo: rev&^1 - 100})
		return err
	}
	const begun = 300
	rounds := int64(900)
	if testing.Short() {
		rounds = 600
	}
	var stop atomic.Bool
	var steps atomic.Int64
	run := func(wg *sync.WaitGroup, fn func() error) {
		wg.Go(func() {
			for !stop.Load() {
				if err := fn(); err != nil {
					t.Error(err)
					stop.Store(true)
				}
			}
		})
	}
	for rev := int64(1); rev <= begun; rev++ {
		p.left.ok(write(p.left, "l", 2*rev))
		p.right.ok(write(p.right, "r", 2*rev+1))
	}
	m := p.begin(2 * begun)
	var wg, writers sync.WaitGroup
	for _, h := range []*harness{p.left, p.right} {
		run(&wg, func() error {
			err := h.Flush()
			if err == nil {
				_, err = h.Maintain(20)
			}
			return err
		})
	}
	run(&wg, func() error {
		m.round()
		_, err := m.Step(10, true)
		steps.Add(1)
		return err
	})
	for i, h := range []*harness{p.left, p.right} {
		writers.Go(func() {
			for n := int64(begun + 1); n <= rounds && !stop.Load(); n++ {
				if err := write(h, []string{"l", "r"}[i], 2*n+int64(i)); err != nil {
					t.Error(err)
				}
				for at := steps.Load(); steps.Load() == at && n%3 == 0 && !stop.Load(); {
					runtime.Gosched() // the copy keeps up
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	wg.Wait()
	h := p.finished(m)
	sum, keys := p.sum(), p.left.Keys()+p.right.Keys()
	if got, err := h.HashKV(math.MaxInt64); err != nil || got != sum || h.Keys() != keys {
		t.Fatalf("hash %x of %d keys, %v; of both %x of %d", got, h.Keys(), err, sum, keys)
	}
	l, r := &p.left.Store.mem, &p.right.Store.mem
	if len(l.mu.pins)+len(r.mu.pins) != 0 {
		t.Fatal("pins are left")
	}
}
