package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// Copying goes on beside everything else: a step at a time, with pauses as long as the steps (copyPace), and no more than
// Config.Copying of them on a node.
const (
	copyBudget = 2000                  // versions of a step
	copyIdle   = 50 * time.Millisecond // a copy that is level looks for more
	copyFlush  = 10                    // and has the store's buffer written once in so many times
	copyKept   = time.Minute           // one that nobody asks for is thrown away then
	newFile    = storeFile + ".new"
)

// copies keeps the copy that is made ahead of a change, of the part that a split is going to cut off, or of the range and the neighbour that is to become
// part of it; one at a time.
type copies struct {
	r *Replica

	mu struct {
		sync.Mutex
		cur *partCopy // nil: none
	}
}

// copyKey is what a copy is for.
type copyKey struct {
	op   uint64
	with shard.RangeID // the range that is cut off, or the neighbour
	at   string        // where it is cut; of a merge nothing
}

// copier is a copy of some of the range's store, step by step: *mvcc.Split or *mvcc.Merge.
type copier interface {
	Step(budget int, spare bool) (more bool, err error)
	Level() bool
	Left() int64
	Discard() error
}

// partCopy is a copy that is being made, by a goroutine of its own.
type partCopy struct {
	key   copyKey
	start func(*mvcc.Store) (copier, error)
	dir   string // of the child, which is made with the copy and goes with it; empty: the copy has none of its own
	log   *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when the goroutine has let go of the copy

	mu struct {
		sync.Mutex
		part  copier
		asked time.Time
		state copyState
		err   error
	}
}

// copyState is how far a copy is.
type copyState struct {
	ready bool  // what is left is little
	left  int64 // bytes
}

// PrepareSplit begins a copy, or says how far it is. It does not block, and reply is called before it returns.
func (c *copies) PrepareSplit(_ context.Context, req *pb.PrepareSplitRequest, reply func(*pb.PrepareSplitResponse, error)) {
	r := c.r
	if len(req.At) == 0 || req.Child == 0 || req.Op == 0 {
		reply(nil, fmt.Errorf("%w: a split without a key, a range or an op", shard.ErrInvalid))
		return
	}
	desc := r.Desc()
	if uint64(desc.Generation) != req.Generation || !desc.Span.PartedBy(req.At) {
		reply(nil, &shard.WrongRangeError{Range: desc.ID, Known: []shard.Descriptor{desc}}) // it is behind, or past it
		return
	}
	key := copyKey{op: req.Op, with: shard.RangeID(req.Child), at: string(req.At)}
	st, err := c.ask(key, c.dir(key.with), func(st *mvcc.Store) (copier, error) { return c.beginSplit(st, key) })
	if err != nil {
		reply(nil, err)
		return
	}
	reply(&pb.PrepareSplitResponse{Ready: st.ready, Left: st.left}, nil)
}

// ask begins a copy in the place of another that is there, or says how far it is.
func (c *copies) ask(key copyKey, dir string, start func(*mvcc.Store) (copier, error)) (copyState, error) {
	r := c.r
	c.mu.Lock()
	p := c.mu.cur
	if p == nil || p.key != key {
		if p != nil {
			p.cancel()
		}
		p = &partCopy{key: key, start: start, dir: dir, log: r.cfg.Logger, ended: make(chan struct{})}
		p.ctx, p.cancel = context.WithCancel(r.ctx)
		before := c.mu.cur
		c.mu.cur = p
		p.mu.asked = r.cfg.Now()
		r.spawn(func() { c.run(p, before) }, func() { // closed: the one before is for Close to throw away
			close(p.ended)
			c.mu.cur = before
		})
	}
	c.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.asked = r.cfg.Now()
	return p.mu.state, p.mu.err
}

// run makes the copy, once the one before is gone, and keeps it level until it is used or forgotten.
func (c *copies) run(p, before *partCopy) {
	defer close(p.ended)
	defer p.cancel()
	if before != nil {
		<-before.ended
		before.discard()
	}
	turn := &copyTurn{of: c.r.cfg.Copying}
	if !turn.take(p.ctx) {
		return
	}
	defer turn.give()
	ref, err := c.r.stores.acquire()
	if err != nil {
		return
	}
	defer c.r.stores.release(ref)
	part, err := p.start(ref.Store)
	if err != nil {
		p.fail(err)
		return
	}
	p.mu.Lock()
	p.mu.part = part
	p.mu.Unlock()
	if err := c.follow(p, part, turn, ref.Maintenance()); err != nil {
		p.fail(err)
	}
}

// follow makes the steps of a copy, until it is ended or forgotten.
func (c *copies) follow(p *partCopy, part copier, turn *copyTurn, store *mvcc.Maintenance) error {
	var pace copyPace
	idle := 0
	for more := true; p.ctx.Err() == nil; {
		if more && !turn.take(p.ctx) {
			return nil
		}
		began, steps, err := c.r.cfg.Now(), 0, error(nil)
		if steps, more, err = p.steps(part, pace.steps(turn.mine), pace.spare()); err != nil {
			return err
		}
		pause := pace.pause(c.r.cfg.Now().Sub(began), steps)
		if !more { // the cut writes the parent's file, too, and what a merge replaces is closed, with its buffer written: both are to find little to do
			pause = copyIdle
			if idle++; idle%copyFlush == 1 {
				if err := store.Flush(); err != nil {
					return err
				}
			}
			if !mutate.On(mutate.CopyHogs) {
				turn.give()
			}
		}
		p.note(part)
		slept := c.r.cfg.Now()
		if c.forgotten(p) || !c.r.sleep(p.ctx, pause) {
			return nil
		}
		pace.woke(c.r.cfg.Now().Sub(slept) - pause)
	}
	return nil
}

// steps makes as many steps as there are to be made, most at most, and says how many.
func (p *partCopy) steps(part copier, most int, spare bool) (n int, more bool, err error) {
	for more = true; n < most && more && err == nil && p.ctx.Err() == nil; n++ {
		more, err = part.Step(copyBudget, spare)
	}
	return n, more, err
}

// copyTurn is a copy's place among those that a node makes at a time. One that is level gives it back while it waits: what it waits for are the copies
// of other nodes, and where those wait for a place that another level copy has, none would ever go on.
type copyTurn struct {
	of   chan struct{}
	mine bool
}

// take waits for a place; false: ctx has ended.
func (t *copyTurn) take(ctx context.Context) bool {
	if t.mine {
		return true
	}
	select {
	case t.of <- struct{}{}:
		t.mine = true
	case <-ctx.Done():
	}
	return t.mine
}

func (t *copyTurn) give() {
	if t.mine {
		<-t.of
		t.mine = false
	}
}

// copyPace says how a copy takes turns with everything else. Where it wakes in time, the processor is free, and it works for half of the time at most.
// Where it wakes late, or its steps take long, others have had the processor meanwhile: it makes several steps a turn then, and short pauses. For a range
// that is cut because its node has too much to do is cut soonest so; with a pause as long as each step, which waits for its turn as well, a copy came
// to an end never on a node whose processor time was used up by others.
type copyPace struct {
	late time.Duration // how late the last pause has ended
	slow bool          // the last step took long
}

const (
	copyLate     = 20 * time.Millisecond // from then on it is late
	copySlow     = 100 * time.Millisecond
	copyStepsMax = 4
	copyShort    = 2 * time.Millisecond
)

// woke is told how late the last pause has ended.
func (p *copyPace) woke(late time.Duration) { p.late = late }

// steps is how many steps the next turn has, of a copy that has its place among those of the node.
func (p *copyPace) steps(mine bool) int {
	if !mine {
		return 1
	}
	return 1 + min(int(max(p.late, 0)/copyLate), copyStepsMax-1)
}

// spare tells whether there is time for what only saves time later.
func (p *copyPace) spare() bool { return p.late < copyLate && !p.slow }

// pause is how long the pause behind a turn is that took so long, and had so many steps.
func (p *copyPace) pause(took time.Duration, steps int) time.Duration {
	p.slow = took >= time.Duration(steps)*copySlow
	if p.late >= copyLate {
		return min(took, copyShort)
	}
	return min(took, copySlow)
}

// beginSplit checks that there is room, and begins.
func (c *copies) beginSplit(st *mvcc.Store, key copyKey) (copier, error) {
	dir := c.dir(key.with)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	free, err := durable.Free(dir)
	if need := st.Stats().InUseBytes; err == nil && free < need { // about twice what is cut off
		err = fmt.Errorf("%w: %d bytes are free, and to cut the range takes %d for a while", shard.ErrNoSpace, free, need)
	}
	if err != nil {
		return nil, err
	}
	return mvcc.BeginSplit(st, []byte(key.at), key.with, filepath.Join(dir, newFile))
}

func (c *copies) dir(child shard.RangeID) string { return filepath.Join(c.r.cfg.Dir, child.String()) }

// forgotten throws a copy away that nobody has asked for.
func (c *copies) forgotten(p *partCopy) bool {
	p.mu.Lock()
	late := c.r.cfg.Now().Sub(p.mu.asked) > copyKept
	p.mu.Unlock()
	if !late {
		return false
	}
	c.mu.Lock()
	if c.mu.cur == p {
		c.mu.cur = nil
	}
	c.mu.Unlock()
	p.discard()
	return true
}

func (p *partCopy) note(part copier) {
	state := copyState{part.Level(), part.Left()}
	p.mu.Lock()
	p.mu.state = state
	p.mu.Unlock()
}

func (p *partCopy) fail(err error) {
	p.mu.Lock()
	p.mu.err = err
	p.mu.Unlock()
	p.discard()
}

// take is the copy as it is; nobody else has it from then on.
func (p *partCopy) take() copier {
	p.mu.Lock()
	defer p.mu.Unlock()
	part := p.mu.part
	p.mu.part = nil
	return part
}

// discard throws away what has been copied. The goroutine has ended, or it is the one that calls.
func (p *partCopy) discard() {
	if part := p.take(); part != nil {
		if err := part.Discard(); err != nil {
			p.log.Warn("a copy of a part of a range is left on the disk", "range", p.key.with.String(), "error", err)
		}
	}
	if p.dir != "" {
		_ = os.Remove(p.dir) // if nothing else is in it
	}
}

// end stops the copy that is there, and returns it.
func (c *copies) end() *partCopy {
	c.mu.Lock()
	p := c.mu.cur
	c.mu.cur = nil
	c.mu.Unlock()
	if p != nil {
		p.cancel()
		<-p.ended // at most a step
	}
	return p
}

// drop throws the copy away: another state has come, or nobody wants the part here.
func (c *copies) drop() {
	if p := c.end(); p != nil {
		p.discard()
	}
}

// taken stops the copy that is there, and returns it if it is the one that is wanted. nil: it is not, and is thrown away.
func (c *copies) taken(wanted func(copyKey) bool) copier {
	p := c.end()
	switch {
	case p == nil:
		return nil
	case wanted(p.key):
		return p.take()
	}
	p.discard()
	return nil
}

// finish makes the child's file durable: what is still missing, and its state. Called by the worker, before the entry that cuts is applied to
// the store. A replica that has no copy makes it now. keys is how many live keys the child has.
func (c *copies) finish(cut *apply.Cut, pos mvcc.Position) (keys int64, err error) {
	part, _ := c.taken(func(k copyKey) bool { return k.at == string(cut.Right.Span.Start) && k.with == cut.Right.ID }).(*mvcc.Split)
	dir := c.dir(cut.Right.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if part == nil {
		p, err := mvcc.BeginSplit(c.r.store.Store, cut.Right.Span.Start, cut.Right.ID, filepath.Join(dir, newFile))
		if err != nil {
			return 0, err
		}
		part = p
	}
	if err := part.Finish(filepath.Join(dir, storeFile), pos, cut.State); err != nil {
		return 0, errors.Join(err, part.Discard())
	}
	return part.Keys(), durable.SyncDir(c.r.cfg.Dir) // where the directory is new
}
