package replica

import (
	"fmt"
	"math"
	"time"

	"pontoon/internal/mutate"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// Birth is a range's replica that has come into being here: its file is durable, and nobody serves it yet.
type Birth struct {
	Desc   shard.Descriptor
	Self   shard.Replica
	Closed int64     // everything at or below is in the file, or never will be
	Leads  bool      // the replica of the range that it was cut from leads: this one should stand at once
	Load   *LoadPart // what is known of what it does

	began, made time.Time // when the entry began to be applied, and when the file was durable
}

// Births is what a node does about ranges that come into being on it.
type Births interface {
	// Wanted reports whether a replica may come into being here: not if it is here already, or was (hazard 42). One that
	// waits for its state is stopped.
	Wanted(child shard.RangeID, self shard.ReplicaID) bool
	// Born serves the replica, now or as soon as it can. It may take as long as opening a file.
	Born(Birth)
}

// makeChild makes the file of the range that an entry cuts off, and says in the entry's change what goes. nil: the child does not come
// into being here.
//
// The order is what keeps the child from being lost, or made twice: first its file, durably, then the parent's beyond
// the entry, and then its group (hazards 41, 42). A crash after the first applies the entry again, which makes the
// file anew; one after the second leaves a file that the next start finds and serves.
func (b *births) makeChild(d *apply.Decision) (*Birth, error) {
	r := b.r
	cut, began := d.Cut, r.cfg.Now()
	d.Change.Cut = &mvcc.Cut{Span: cut.Left.Span}
	load := r.load.cut(cut.Right.Span.Start)
	self, here := cut.Right.ReplicaOn(r.cfg.Self.Node)
	if !here || r.cfg.Births == nil || !r.cfg.Births.Wanted(cut.Right.ID, self.ID) {
		r.copies.drop()
		n, err := r.store.Count(cut.Right.Span, math.MaxInt64)
		d.Change.Cut.Keys = n
		return nil, err
	}
	n, err := r.copies.finish(cut, mvcc.Position(raftgroup.BirthPosition()))
	if err != nil && !mutate.On(mutate.CutWithoutFile) {
		return nil, fmt.Errorf("%v: make %v: %w", r.cfg.Desc.ID, cut.Right.ID, err)
	}
	d.Change.Cut.Keys = n
	return &Birth{Desc: cut.Right, Self: self, Load: load, began: began, made: r.cfg.Now()}, nil
}

// pastCut writes the file beyond the entry that has just been applied to the store.
func (b *births) pastCut() error {
	r := b.r
	if mutate.On(mutate.BirthUnflushed) {
		return nil
	}
	r.unflushed = 0
	return r.store.Maintenance().Flush()
}

// reshapedLocked publishes the last item of the generation gen, which has the border if the range was cut, and the first of the
// next. What is closed there holds for both parts, so it is what the entry says and what was closed before: a mark that waits
// for the entry's index was made behind the cut, and speaks for the left part alone.
func (b *births) reshapedLocked(d *apply.Decision, gen shard.Generation, birth *Birth) {
	r := b.r
	m := r.mu.m
	if mutate.On(mutate.BorderLateMarks) {
		r.applyClosedMarksLocked()
	}
	if d.Cut != nil {
		r.mu.nextItem.Border = &shard.Border{At: d.Cut.Right.Span.Start, Child: d.Cut.Right.ID, Generation: m.Desc.Generation}
		r.publishItemOfLocked(gen, false)
	}
	if birth != nil {
		birth.Closed = m.Final()
	}
	r.publishItemLocked(false)
}

// reshaped does what comes of an entry that changes the range, once it counts.
func (b *births) reshaped(d *apply.Decision) {
	r := b.r
	switch {
	case d.Cut != nil:
		r.cfg.Wake(r.cfg.Desc.ID, false) // there is something to trim
	case d.Moved != nil:
		r.moved()
	case d.Freezes:
		r.changed()
	}
}

// bearLocked unlocks the mutex, and lets the child be served once the border has gone out: who listens to this range's feed
// listens to the child's from its first item.
func (b *births) bearLocked(birth *Birth) {
	r := b.r
	birth.Leads = r.mu.lead != nil
	said := make(chan struct{})
	r.mu.queue.calls = append(r.mu.queue.calls, func() { close(said) })
	r.pumpLocked()
	<-said // another goroutine may be executing; none of that blocks
	flushed := r.cfg.Now()
	r.cfg.Births.Born(*birth)
	r.cfg.Logger.Info("a part of a range has been cut off", "range", r.cfg.Desc.ID.String(), "right", birth.Desc.ID.String(),
		"file", birth.made.Sub(birth.began), "parent", flushed.Sub(birth.made), "opened", r.cfg.Now().Sub(flushed))
}
