package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"pontoon/internal/durable"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// Copying goes on beside everything else: a step at a time, with pauses as long as the steps, and no more than Config.Copying
// of them on a node.
const (
	copyBudget = 2000                  // versions of a step
	copyIdle   = 50 * time.Millisecond // a copy that is level looks for more
	copyKept   = time.Minute           // one that nobody asks for is thrown away then
	newFile    = storeFile + ".new"
)

// copies keeps the copy of the part that a split is going to cut off, one at a time.
type copies struct {
	r *Replica

	mu struct {
		sync.Mutex
		cur *partCopy // nil: none
	}
}

// partCopy is a copy that is being made, by a goroutine of its own.
type partCopy struct {
	at    []byte
	child shard.RangeID
	op    uint64
	log   *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when the goroutine has let go of the copy

	mu struct {
		sync.Mutex
		part  *mvcc.Split
		asked time.Time
		state pb.PrepareSplitResponse
		err   error
	}
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
	c.mu.Lock()
	p := c.mu.cur
	if p == nil || p.op != req.Op || p.child != shard.RangeID(req.Child) || !bytes.Equal(p.at, req.At) {
		if p != nil {
			p.cancel()
		}
		p = &partCopy{at: bytes.Clone(req.At), child: shard.RangeID(req.Child), op: req.Op, log: r.cfg.Logger, ended: make(chan struct{})}
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
	if p.mu.err != nil {
		reply(nil, p.mu.err)
		return
	}
	reply(&pb.PrepareSplitResponse{Ready: p.mu.state.Ready, Left: p.mu.state.Left}, nil)
}

// run makes the copy, once the one before is gone, and keeps it level until it is used or forgotten.
func (c *copies) run(p, before *partCopy) {
	defer close(p.ended)
	defer p.cancel()
	if before != nil {
		<-before.ended
		before.discard()
	}
	select {
	case c.r.cfg.Copying <- struct{}{}:
		defer func() { <-c.r.cfg.Copying }()
	case <-p.ctx.Done():
		return
	}
	ref, err := c.r.stores.acquire()
	if err != nil {
		return
	}
	defer c.r.stores.release(ref)
	part, err := c.start(ref.Store, p)
	if err != nil {
		p.fail(err)
		return
	}
	p.mu.Lock()
	p.mu.part = part
	p.mu.Unlock()
	for p.ctx.Err() == nil {
		began := c.r.cfg.Now()
		more, err := part.Step(copyBudget)
		if err != nil {
			p.fail(err)
			return
		}
		pause := c.r.cfg.Now().Sub(began)
		if !more { // the cut writes the parent's file, too: it is to find little to do
			pause = copyIdle
			if err := ref.Maintenance().Flush(); err != nil {
				p.fail(err)
				return
			}
		}
		p.note(part, !more)
		if c.forgotten(p) || !c.r.sleep(p.ctx, pause) {
			return
		}
	}
}

// start checks that there is room, and begins.
func (c *copies) start(st *mvcc.Store, p *partCopy) (*mvcc.Split, error) {
	dir := c.dir(p.child)
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
	return mvcc.BeginSplit(st, p.at, p.child, filepath.Join(dir, newFile))
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

func (p *partCopy) note(part *mvcc.Split, ready bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.state.Ready, p.mu.state.Left = ready, part.Left()
}

func (p *partCopy) fail(err error) {
	p.mu.Lock()
	p.mu.err = err
	p.mu.Unlock()
	p.discard()
}

// take is the copy as it is; nobody else has it from then on.
func (p *partCopy) take() *mvcc.Split {
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
			p.log.Warn("a copy of a part of a range is left on the disk", "range", p.child.String(), "error", err)
		}
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

// finish makes the child's file durable: what is still missing, and its state. Called by the worker, before the entry that cuts is applied to
// the store. A replica that has no copy makes it now. keys is how many live keys the child has.
func (c *copies) finish(cut *apply.Cut, pos mvcc.Position) (keys int64, err error) {
	var part *mvcc.Split
	if p := c.end(); p != nil {
		if bytes.Equal(p.at, cut.Right.Span.Start) && p.child == cut.Right.ID {
			part = p.take()
		} else {
			p.discard()
		}
	}
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
