package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// tally is a set of writes in the order of their revisions. Two are equal if their writes are, up to
// the chance of a collision of 64 bits.
type tally struct {
	rev   int64 // of the latest
	count int64
	sum   uint64 // of all writes' fingerprints, in any order
}

func (t *tally) add(rev int64, op uint64) {
	t.rev = max(t.rev, rev)
	t.count++
	t.sum += mix(mix(uint64(rev)) ^ op)
}

// compare tells in what way a watcher's tally is not what it had to be.
func (t tally) compare(want tally) error {
	switch {
	case t == want:
		return nil
	case t.count != want.count:
		return fmt.Errorf("delivered %d events of %d; its last revision is %d, the last acknowledged %d", t.count, want.count, t.rev, want.rev)
	}
	return fmt.Errorf("delivered %d events, but not those that were acknowledged", t.count)
}

// delivery is one write on its way to its watchers.
type delivery struct {
	left atomic.Int64
	done chan struct{}
}

// deliveries are the writes under way, by operation.
type deliveries struct {
	stripes [64]struct {
		sync.Mutex
		of map[uint64]*delivery
	}
}

// expect announces a write that so many watchers will deliver, before it is sent.
func (d *deliveries) expect(op uint64, watchers int) *delivery {
	x := &delivery{done: make(chan struct{})}
	x.left.Store(int64(watchers))
	s := &d.stripes[op%uint64(len(d.stripes))]
	s.Lock()
	defer s.Unlock()
	if s.of == nil {
		s.of = map[uint64]*delivery{}
	}
	s.of[op] = x
	return x
}

func (d *deliveries) forget(op uint64) {
	s := &d.stripes[op%uint64(len(d.stripes))]
	s.Lock()
	defer s.Unlock()
	delete(s.of, op)
}

// arrived notes that one watcher has delivered a write.
func (d *deliveries) arrived(op uint64) {
	s := &d.stripes[op%uint64(len(d.stripes))]
	s.Lock()
	x := s.of[op]
	s.Unlock()
	if x != nil && x.left.Add(-1) == 0 {
		close(x.done)
	}
}

// wait waits until all have delivered it, or until nobody will.
func (x *delivery) wait(ctx context.Context, broken <-chan struct{}) error {
	select {
	case <-x.done:
		return nil
	case <-broken:
		return fmt.Errorf("a watch stream has ended, %d watchers have yet to deliver", x.left.Load())
	case <-ctx.Done():
		return fmt.Errorf("acknowledged, but %d watchers have not delivered it: %w", x.left.Load(), ctx.Err())
	}
}
