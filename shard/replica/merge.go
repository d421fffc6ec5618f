package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// A merge is led by the leader of the left range. All replicas, not a majority, copy both ranges into one file beside them, while everything goes on;
// then the right is frozen, and when all its replicas have said so, on disk, the left is drained and a Merge is logged. What stands is the right from its
// freeze on, and the left for a drain. Where one does not get there the left rises to another generation, and the right is thawed.
const (
	mergeBytesMax = 256 << 20              // of both together, as they are in use: each replica writes that much anew
	frozenAtMost  = 500 * time.Millisecond // from the freeze until all have said that they are frozen
	frozenEvery   = 5 * time.Millisecond   // they are asked again
	failureMax    = 1024                   // bytes of why it was given up
	unionFile     = storeFile + ".merge"
)

// Neighbours are the other replicas of this node, where a range becomes part of its left neighbour.
type Neighbours interface {
	// Neighbour returns a replica that is open; nil: none is.
	Neighbour(shard.RangeID) *Replica
	// Await returns one that is open. ErrComing: it is to be here, and is not open yet. At the next change of that, or call of Changed, the group of left is
	// woken, which waits for it (raftgroup.Retry). Another error: there is none here any more. It does not block.
	Await(right, left shard.RangeID) (*Replica, error)
	// Changed is told by a replica that it has been frozen, or has another state.
	Changed(shard.RangeID)
	// Merged lets a replica be removed that is part of another one here, durably.
	Merged(shard.RangeID)
}

// merges leads the merges of the range with its right neighbour, and carries them out.
type merges struct{ r *Replica }

// lead carries a merge out, or makes it impossible, on a goroutine of its own.
func (g *merges) lead(run *changeRun) {
	r, mg := g.r, run.req.Merge
	m := r.Shape()
	if m.Desc.Generation > shard.Generation(mg.Generation) || run.req.GiveUp {
		g.giveUp(run, nil)
		return
	}
	right, err := g.right(&m, mg)
	if err == nil {
		err = cmp.Or(m.CheckMerge(mg), g.checkSize(right))
	}
	if err != nil {
		r.changes.end(run, nil, err)
		return
	}
	mg = &pb.Merge{Op: mg.Op, Generation: mg.Generation, Right: mg.Right, RightGeneration: mg.RightGeneration,
		End: right.Desc().Span.End, After: max(mg.Generation, mg.RightGeneration+1) + 1}
	began := r.cfg.Now()
	if err := g.prepareAll(run, mg); err != nil {
		if errors.Is(err, errStands) {
			g.giveUp(run, err)
		} else {
			r.changes.end(run, nil, err)
		}
		return
	}
	prepared := r.cfg.Now()
	if err := g.freeze(mg); err != nil {
		g.giveUp(run, err)
		return
	}
	if err := g.awaitFrozen(mg, r.cfg.Now().Add(frozenAtMost)); err != nil {
		g.giveUp(run, err)
		return
	}
	r.changes.propose(run, &pb.Entry{Merge: mg}, r.cfg.TxnPatience, func(_ time.Duration, err error) {
		r.spawn(func() { g.merged(run, began, prepared, err) }, func() { r.changes.end(run, nil, shard.ErrStopped) })
	})
}

// right is the neighbour's replica here, which has to be there.
func (g *merges) right(m *apply.Shape, mg *pb.Merge) (*Replica, error) {
	r := g.r
	if r.cfg.Neighbours == nil || r.cfg.Nodes == nil || r.cfg.Ranges == nil {
		return nil, fmt.Errorf("%w: no range can be merged on this node", shard.ErrUnimplemented)
	}
	right := r.cfg.Neighbours.Neighbour(shard.RangeID(mg.Right))
	if right == nil {
		return nil, fmt.Errorf("%w: %v is not open on this node", shard.ErrUnavailable, shard.RangeID(mg.Right))
	}
	rm := right.Shape()
	switch {
	case string(rm.Desc.Span.Start) != string(m.Desc.Span.End) || len(m.Desc.Span.End) == 0:
		return nil, fmt.Errorf("%w: %v is not the right neighbour of %v", shard.ErrInvalid, rm.Desc.ID, m.Desc.ID)
	case !rm.FrozenFor(mg.Op) && rm.Desc.Generation < shard.Generation(mg.RightGeneration):
		return nil, fmt.Errorf("%w: the replica of %v here is behind", shard.ErrUnavailable, rm.Desc.ID)
	case !rm.FrozenFor(mg.Op) && rm.Desc.Generation > shard.Generation(mg.RightGeneration):
		return nil, fmt.Errorf("%w: %v has changed since the merge was decided", shard.ErrInvalid, rm.Desc.ID)
	}
	return right, nil
}

// size is what is in use of both ranges, in bytes.
func (g *merges) size(right *Replica) int64 { return g.r.Status().SizeInUse + right.Status().SizeInUse }

// checkSize refuses to merge what takes too long to copy.
func (g *merges) checkSize(right *Replica) error {
	if n := g.size(right); n > mergeBytesMax {
		return fmt.Errorf("%w: %v and %v have %d bytes together, and ranges of more than %d are not merged",
			shard.ErrInvalid, g.r.cfg.Desc.ID, right.cfg.Desc.ID, n, mergeBytesMax)
	}
	return nil
}

// errStands is why a merge that somebody else has frozen the right for is given up.
var errStands = errors.New("the right neighbour stands, and not every replica can take part")

// prepareAll lets the replicas copy, until all have. Where the right stands already, for who has frozen it has gone, there is no time for that: a node that is
// down would keep its span from everybody (hazard 35).
func (g *merges) prepareAll(run *changeRun, mg *pb.Merge) error {
	r := g.r
	began := r.cfg.Now()
	for {
		n, p := g.askAll(mg)
		switch term, leading := r.Leading(); {
		case r.ctx.Err() != nil:
			return shard.ErrStopped
		case !leading || term != run.term:
			return r.notLeader(r.role())
		case p.err != nil:
			return p.err
		case p.ready == n:
			return nil
		case p.frozen > 0 && r.cfg.Now().Sub(began) > frozenAtMost && !mutate.On(mutate.MergeStands):
			return fmt.Errorf("%w: %s", errStands, p.waiting)
		case r.cfg.Now().Sub(began) > prepareAtMost:
			return fmt.Errorf("%w: not every replica of %v has copied both ranges: %s", shard.ErrTimeout, r.cfg.Desc.ID, p.waiting)
		}
		if !r.sleep(r.ctx, prepareEvery) {
			return shard.ErrStopped
		}
	}
}

// awaitFrozen waits until every replica of the right has said that it is frozen, on disk. Otherwise one might find another right than the
// others, or none after a crash (hazard 51).
func (g *merges) awaitFrozen(mg *pb.Merge, until time.Time) error {
	r := g.r
	for {
		n, p := g.askAll(mg)
		switch {
		case r.ctx.Err() != nil:
			return shard.ErrStopped
		case p.frozen == n || mutate.On(mutate.MergeMajority) && p.frozen > n/2:
			return nil
		case r.cfg.Now().After(until):
			return fmt.Errorf("%w: %d of %d replicas of %v were frozen in time: %s", shard.ErrTimeout, p.frozen, n, shard.RangeID(mg.Right), p.waiting)
		}
		if !r.sleep(r.ctx, frozenEvery) {
			return shard.ErrStopped
		}
	}
}

// unionProgress is how far the replicas are.
type unionProgress struct {
	ready, frozen int
	waiting       string
	err           error // one that never will be
}

// take adds a node's answer. One that does not answer is neither ready nor frozen.
func (p *unionProgress) take(node shard.NodeID, is *pb.PrepareMergeResponse, err error) {
	switch {
	case errors.Is(err, shard.ErrNoSpace), errors.Is(err, shard.ErrInvalid): // it would say so for as long as it is asked
		p.err = fmt.Errorf("node %v: %w", node, err)
		return
	case err != nil:
		p.waiting = fmt.Sprintf("node %v: %v", node, err)
		return
	case is.GetReady():
		p.ready++
	default:
		p.waiting = fmt.Sprintf("node %v: %s", node, is.GetWaiting())
	}
	if is.GetFrozen() {
		p.frozen++
	}
}

// askAll asks every replica once, and returns how many there are.
func (g *merges) askAll(mg *pb.Merge) (n int, p unionProgress) {
	desc := g.r.Desc()
	req := &pb.PrepareMergeRequest{RangeId: uint64(desc.ID), Merge: mg}
	q := question[*pb.PrepareMergeResponse]{
		req: &pb.PeerRequest{PrepareMerge: req},
		here: func(ctx context.Context, reply func(*pb.PrepareMergeResponse, error)) {
			g.r.PrepareMerge(ctx, req, reply)
		},
		of: (*pb.PeerResponse).GetPrepareMerge,
	}
	q.ask(g.r, desc, func(from shard.Replica, is *pb.PrepareMergeResponse, err error) { p.take(from.Node, is, err) })
	return len(desc.Replicas), p
}

// PrepareMerge begins a copy of both ranges, or says how far it is, and whether the right is frozen here. It does not block, and reply is called before it
// returns.
func (g *merges) PrepareMerge(_ context.Context, req *pb.PrepareMergeRequest, reply func(*pb.PrepareMergeResponse, error)) {
	r, mg := g.r, req.Merge
	if mg.GetRight() == 0 || mg.Op == 0 {
		reply(nil, fmt.Errorf("%w: a merge without a range or an op", shard.ErrInvalid))
		return
	}
	m := r.Shape()
	if uint64(m.Desc.Generation) != mg.Generation { // it is behind, or past it
		reply(nil, &shard.WrongRangeError{Range: m.Desc.ID, Known: []shard.Descriptor{m.Desc}})
		return
	}
	right, err := g.right(&m, mg)
	if err != nil {
		reply(nil, err)
		return
	}
	rm := right.Shape()
	resp := &pb.PrepareMergeResponse{Frozen: rm.FrozenFor(mg.Op)}
	st, err := r.copies.ask(copyKey{op: mg.Op, with: rm.Desc.ID}, "", func(*mvcc.Store) (copier, error) {
		if err := cmp.Or(g.checkSize(right), g.checkRoom(right)); err != nil {
			return nil, err
		}
		return g.begin(right, min(r.ClosedRevision(), right.ClosedRevision()))
	})
	switch {
	case errors.Is(err, mvcc.ErrMergeUnsettled), errors.Is(err, errReplaced):
		r.copies.drop() // and begins again when it is asked the next time
		resp.Waiting = err.Error()
	case err != nil:
		reply(nil, err)
		return
	default:
		resp.Ready, resp.Left, resp.Waiting = st.ready, st.left, fmt.Sprintf("%d bytes are left to copy", st.left)
	}
	reply(resp, nil)
}

// checkRoom refuses a copy for which there may be no room. Where the merge is in the log it is tried nevertheless.
func (g *merges) checkRoom(right *Replica) error {
	free, err := durable.Free(g.r.dir)
	if need := 2 * g.size(right); err == nil && free < need {
		err = fmt.Errorf("%w: %d bytes are free, and to merge the ranges takes %d for a while", shard.ErrNoSpace, free, need)
	}
	return err
}

// begin begins a copy of this range and its right neighbour. settle is a revision that is final in both.
func (g *merges) begin(right *Replica, settle int64) (copier, error) {
	r := g.r
	left, err := r.stores.acquire()
	if err != nil {
		return nil, err
	}
	theirs, err := right.stores.acquire()
	if err != nil {
		r.stores.release(left)
		return nil, err
	}
	u := &union{with: right}
	u.current = func() bool { return r.stores.is(left) && right.stores.is(theirs) || mutate.On(mutate.MergeReplaced) }
	u.release = func() {
		r.stores.release(left)
		right.stores.release(theirs)
	}
	u.Merge, err = mvcc.BeginMerge(left.Store, theirs.Store, [2]shard.Span{r.Desc().Span, right.Desc().Span}, settle, filepath.Join(r.dir, unionFile))
	if err != nil {
		u.let()
		return nil, err
	}
	return u, nil
}

// errReplaced ends a copy of a store in whose place another one has come: the replica has got a snapshot, or is closed.
var errReplaced = errors.New("a store that was being copied has been replaced")

// union is a copy of two ranges, and holds the stores of both.
type union struct {
	*mvcc.Merge
	with    *Replica
	current func() bool // the stores are still those of the replicas
	release func()      // once
}

// Step implements copier. It ends with the store of either: whoever closes one waits for this, and nothing of a copy of what a snapshot has replaced is of
// use.
func (u *union) Step(budget int, spare bool) (bool, error) {
	if !u.current() {
		return false, errReplaced
	}
	return u.Merge.Step(budget, spare)
}

// Discard implements copier.
func (u *union) Discard() error {
	defer u.let()
	return u.Merge.Discard()
}

func (u *union) let() {
	if u.release != nil {
		u.release()
		u.release = nil
	}
}

// freeze has the right's leader freeze the range.
func (g *merges) freeze(mg *pb.Merge) error {
	resp, err := g.askRight(mg, false)
	if err == nil && resp.Outcome != uint32(shard.ChangeDone) {
		err = fmt.Errorf("%w: %v cannot be frozen any more", shard.ErrInvalid, shard.RangeID(mg.Right))
	}
	return err
}

// askRight has the right's leader freeze the range, or thaw it.
func (g *merges) askRight(mg *pb.Merge, thaw bool) (*pb.ChangeResponse, error) {
	r := g.r
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Patience)
	defer cancel()
	desc := r.Desc()
	f := &pb.Freeze{Thaw: thaw, Op: mg.Op, Generation: mg.RightGeneration, Left: uint64(desc.ID), LeftGeneration: mg.Generation, LeftStart: desc.Span.Start}
	return r.cfg.Ranges.Change(ctx, &pb.ChangeRequest{RangeId: mg.Right, Freeze: f})
}

// leadFreeze freezes this range, or thaws it, on a goroutine of its own.
func (g *merges) leadFreeze(run *changeRun) {
	r, f := g.r, run.req.Freeze
	m := r.Shape()
	if err := m.Moving().CheckChange(f.Generation); err != nil && !f.Thaw {
		r.changes.end(run, nil, fmt.Errorf("%w: %w", shard.ErrInvalid, err))
		return
	}
	r.changes.propose(run, &pb.Entry{Freeze: f}, r.cfg.TxnPatience, func(stood time.Duration, err error) {
		resp := outcomeOf(r.Shape(), run.req) // also where another term has logged it
		if resp != nil {
			resp.StoodUs = stood.Microseconds()
			r.changes.end(run, resp, nil)
			return
		}
		r.changes.end(run, nil, cmp.Or(err, shard.ErrUnavailable))
	})
}

// giveUp makes a merge impossible, and then thaws the right: in this order, or it would take writes that a Merge then loses (hazard 56).
func (g *merges) giveUp(run *changeRun, why error) {
	r, mg := g.r, run.req.Merge
	thaw := func() {
		r.spawn(func() { g.thaw(run, why) }, func() { r.changes.end(run, nil, shard.ErrStopped) })
	}
	m := r.Shape()
	if m.Desc.Generation > shard.Generation(mg.Generation) || mutate.On(mutate.ThawFirst) {
		thaw()
		return
	}
	e := &pb.Entry{GenRise: &pb.GenRise{Generation: mg.Generation, Op: mg.Op}}
	r.changes.propose(run, e, r.cfg.Patience, func(_ time.Duration, err error) {
		if err != nil {
			r.changes.end(run, nil, err)
			return
		}
		thaw()
	})
}

// thaw lets the right go on, once the left has risen.
func (g *merges) thaw(run *changeRun, why error) {
	r, mg := g.r, run.req.Merge
	if resp := outcomeOf(r.Shape(), run.req); resp != nil { // the Merge was ahead
		r.changes.end(run, resp, nil)
		return
	}
	got, err := g.askRight(mg, true)
	if err != nil {
		r.changes.end(run, nil, fmt.Errorf("thaw %v: %w", shard.RangeID(mg.Right), err))
		return
	}
	r.cfg.Logger.Info("a merge is given up for good", "range", r.cfg.Desc.ID.String(), "right", shard.RangeID(mg.Right).String(), "op", mg.Op, "why", fmt.Sprint(why))
	r.changes.end(run, &pb.ChangeResponse{Range: pb.FromDescriptor(r.Desc()), Child: got.Range, Outcome: uint32(shard.ChangeGivenUp), Waiting: errText(why)}, nil)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	return text[:min(len(text), failureMax)]
}

// merged ends a run whose Merge has applied, or never will by this term.
func (g *merges) merged(run *changeRun, began, prepared time.Time, err error) {
	r := g.r
	now := r.cfg.Now()
	resp := outcomeOf(r.Shape(), run.req)
	switch {
	case resp == nil && (errors.As(err, new(*shard.NotLeaderError)) || err == nil):
		r.changes.end(run, nil, r.notLeader(r.role()))
	case resp == nil:
		g.giveUp(run, err)
	default:
		resp.StoodUs = now.Sub(prepared).Microseconds()
		r.cfg.Logger.Info("a range has become part of its left neighbour", "range", r.cfg.Desc.ID.String(), "op", run.req.Merge.Op,
			"right", shard.RangeID(run.req.Merge.Right).String(), "prepared", prepared.Sub(began), "stood", now.Sub(prepared))
		r.changes.end(run, resp, nil)
	}
}

// Shape is what the range is, as this replica has applied it.
func (g *merges) Shape() apply.Shape {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	return g.r.mu.m.Shape
}

// ErrComing is why a merge is not carried out yet: the right neighbour's replica is to be here, and is not open, or has to apply its freeze yet.
var ErrComing = errors.New("the right neighbour's replica is not ready")

// ErrNoRight is why a merge cannot be carried out here any more: the right neighbour's replica is gone. Whoever has both halves sends them.
var ErrNoRight = errors.New("no replica of the right neighbour is here as it was frozen")

// partner is the right neighbour's replica as it was frozen. It is called by the worker that applies, which does not wait for it: it may take as long as
// a file that is verified, or a state that comes from another node.
func (g *merges) partner(mg *pb.Merge, index uint64) (*Replica, error) {
	r, id := g.r, shard.RangeID(mg.Right)
	if r.cfg.Neighbours == nil {
		return nil, fmt.Errorf("%v: %w: no range can be merged on this node", r.cfg.Desc.ID, shard.ErrUnimplemented)
	}
	right, err := r.cfg.Neighbours.Await(id, r.cfg.Desc.ID)
	if err == nil {
		switch is := right.Shape(); {
		case is.FrozenFor(mg.Op):
			return right, nil
		case is.Frozen == nil && is.Desc.Generation <= shard.Generation(mg.RightGeneration): // it is made anew, from its log: all have been frozen
			err = ErrComing
		default:
			err = fmt.Errorf("%w: it is at generation %d", shard.ErrInvalid, is.Desc.Generation)
		}
	}
	if errors.Is(err, ErrComing) && !mutate.On(mutate.MergeHasty) {
		return nil, &raftgroup.Later{Index: index, Why: fmt.Errorf("merge with %v: %w", id, err)}
	}
	// It has been here, or the Merge had not been proposed.
	return nil, fmt.Errorf("%v: %w: merge with %v: %w: %w", r.cfg.Desc.ID, mvcc.ErrDamaged, id, ErrNoRight, err)
}

// changed lets the left neighbour look again that waits for this replica.
func (g *merges) changed() {
	if n := g.r.cfg.Neighbours; n != nil && !mutate.On(mutate.FreezeUntold) {
		n.Changed(g.r.cfg.Desc.ID)
	}
}

// unite makes the store of both ranges, and lets the replica go on with it. It is called by the worker that applies, with everything ahead of the
// entry applied.
//
// The order is what keeps the right from being lost: first the left's file has both, durably and past the entry, and only then may the right's be
// deleted. A crash before applies the entry again, and finds the right as it was frozen (hazard 51).
func (g *merges) unite(d *apply.Decision, right *Replica) error {
	r, mg := g.r, d.Merge
	m := r.mu.m
	began := r.cfg.Now()
	var err error
	u, _ := r.copies.taken(func(k copyKey) bool { return k.op == mg.Op && k.with == shard.RangeID(mg.Right) }).(*union)
	if u == nil || u.with != right || !u.current() {
		if u != nil {
			err = u.Discard()
		}
		c, berr := g.begin(right, max(m.Last, right.machine().Last))
		if err = errors.Join(err, berr); err != nil {
			return fmt.Errorf("%v: merge with %v: %w", r.cfg.Desc.ID, right.cfg.Desc.ID, err)
		}
		u = c.(*union)
	}
	defer u.let()
	rm := right.machine() // nothing changes it any more
	state, err := apply.Unite(m, d, r.store.Store, right.store.Store, rm)
	if err == nil {
		err = u.Finish(d.Change.Pos, state)
	}
	if err != nil {
		return fmt.Errorf("%v: merge with %v: %w", r.cfg.Desc.ID, right.cfg.Desc.ID, errors.Join(err, u.Merge.Discard()))
	}
	r.store.Maintenance().Replaced()
	if err := durable.Rename(filepath.Join(r.dir, unionFile), filepath.Join(r.dir, storeFile)); err != nil {
		return fmt.Errorf("%v: merge with %v: %w", r.cfg.Desc.ID, right.cfg.Desc.ID, err)
	}
	st, next, err := r.openStore()
	if err != nil {
		return err
	}
	g.swap(d, st, next, rm)
	r.cfg.Neighbours.Merged(right.cfg.Desc.ID)
	r.cfg.Logger.Info("a range has become part of its left neighbour here", "range", r.cfg.Desc.ID.String(), "right", right.cfg.Desc.ID.String(),
		"file", r.cfg.Now().Sub(began))
	return nil
}

// machine is the replica's state, for who knows that it does not change.
func (g *merges) machine() *apply.Machine {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	return g.r.mu.m
}

// swap replaces the store and the state by those of both ranges. Who leads goes on with them: nothing is under way behind the drain. Everybody who
// listens begins with the history, for what was the right's has not come by this feed.
func (g *merges) swap(d *apply.Decision, st *mvcc.Store, by, right *apply.Machine) {
	r := g.r
	next := newStoreRef(st, by.Known())
	defer r.stores.replace(next, r.cfg.Logger.With("range", r.cfg.Desc.ID))()
	r.mu.Lock()
	gen := r.mu.m.Desc.Generation
	closed := min(r.mu.m.Closed, right.Closed) // of both (hazard 68)
	if mutate.On(mutate.MergeClosed) {
		closed = max(r.mu.m.Closed, right.Closed)
	}
	apply.Replace(r.mu.m, by, closed)
	r.mu.feed = apply.NewFeed(r.mu.m)
	r.store, r.unflushed = next, 0
	if l := r.mu.lead; l != nil {
		l.Barriers.Rebase(r.base(st))
	}
	r.publishItemOfLocked(gen, false)
	r.publishLocked()
	r.publishItemLocked(!mutate.On(mutate.MergeNoGap))
	r.notifyCoresLocked(d)
	r.fireIndexWaitsLocked()
	r.pumpLocked()
}

// IsPartOfLeft reports whether a frozen range has become part of its left neighbour, as the replica of that among those that get knows is.
func IsPartOfLeft(is *apply.Shape, get func(shard.RangeID) (*Replica, bool)) bool {
	if is.Frozen == nil {
		return false
	}
	left, open := get(shard.RangeID(is.Frozen.Left))
	if !open {
		return false
	}
	has := left.Shape()
	return is.PartOf(&has)
}
