package mvcc

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

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
		_, err := m.Step(1 + d.r.IntN(20))
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
	return d
}

// unite is the model that has received what two neighbours have.
func unite(l, r *model) *model {
	m := l.clone()
	maps.Copy(m.vers, r.clone().vers)
	m.last, m.compact = max(l.last, r.last), max(l.compact, r.compact)
	return m
}
