package lead

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// This file coordinates transactions over several ranges, on the leader of the anchor, the range of
// the first key. A coordination dies with the leader term in which it began. It locks, the anchor
// first, whose Prepare is the record; then it decides, takes a revision, and logs Commit in the
// anchor: that is the commit point. Nothing but Abort, logged there before, can keep it from passing.

// coordStep is how far a coordination has come.
type coordStep uint8

const (
	coordLocating  coordStep = iota // which ranges hold its keys
	coordFloor                      // the oracle has been asked for the floor
	coordPreparing                  // the participants lock
	coordPlanning                   // evaluated on what is locked
	coordRevision                   // waits for its revision
	coordLogged                     // Commit has been proposed
	coordAborting                   // Abort has been proposed
	coordPausing                    // tries again later
	coordDone
)

// Coordination is one transaction over several ranges, from its arrival to its answer.
type Coordination struct {
	seq   uint64       // of its arrival
	It    *Item        // the request; it is in no table
	Spans []shard.Span // an expiry: where the lease has been attached

	step     coordStep
	attempt  int
	inOrder  bool // participants lock one after another and wait, instead of all at once
	id       apply.TxnID
	parts    []*TxnPart // in key order; the first is the anchor
	floor    int64
	epoch    shard.Epoch
	above    int64       // the commit revision must lie above
	minEpoch shard.Epoch // and its epoch must not lie below
	lockBy   time.Time   // then it lets go
	due      time.Time   // of the next attempt
	plan     *TxnPlan
	failure  error // why it is being aborted; nil: to be tried again
}

// TxnPart is one participant.
type TxnPart struct {
	Rng         shard.RangeID
	Key         []byte // its first key: it names the participant, wherever its range goes
	span        shard.Span
	Body        *pb.Prepare
	Want, count []shard.Span
	asked       bool
	Resp        *pb.PrepareResponse
}

// coordinations are the transactions over several ranges that this leader coordinates. Their events are
// Coordinate, Located, Prepared, Planned, the revision that they have asked for, their entries in the log,
// and time.
type coordinations struct {
	l       *Leader
	Stats   *TxnStats
	coords  map[apply.TxnID]*Coordination // by the id of the present attempt
	idle    map[*Coordination]bool        // between two attempts
	commits []*Coordination               // will commit, wait for a revision
	bytes   int                           // of requests that are coordinated, and of records
}

func newCoordinations(l *Leader) coordinations {
	return coordinations{
		l: l, Stats: &TxnStats{},
		coords: make(map[apply.TxnID]*Coordination), idle: make(map[*Coordination]bool),
	}
}

// coordinatePause is the pause before the second attempt; it doubles up to 16 times.
const coordinatePause = 10 * time.Millisecond

// Coordinate takes a request whose keys lie in several ranges, of which this is the first.
func (cs *coordinations) Coordinate(it *Item, spans []shard.Span) {
	switch {
	case cs.l.dead:
		cs.l.finish(it, nil, cs.l.NotLeader())
		return
	case !cs.l.own:
		cs.l.finish(it, nil, shard.ErrUnavailable)
		return
	case len(cs.coords)+len(cs.idle) >= cs.l.lim.Coordinate, len(cs.l.Resolutions.records) >= cs.l.lim.Resolve,
		Over(cs.bytes, it.Size, cs.l.lim.CoordinateBytes):
		cs.l.finish(it, nil, shard.ErrTooManyRequests)
		return
	}
	c := &Coordination{seq: cs.l.id(), It: it, Spans: spans}
	cs.bytes += it.Size
	cs.locate(c)
	cs.l.Run()
}

// locate begins an attempt.
func (cs *coordinations) locate(c *Coordination) {
	c.step = coordLocating
	cs.idle[c] = true
	cs.l.Emit(Action{Kind: ActLocate, actionArgs: &actionArgs{Coord: c}})
}

// Located is told the participants.
func (cs *coordinations) Located(c *Coordination, parts []*TxnPart, err error) {
	if cs.l.dead || c.step != coordLocating {
		return
	}
	defer cs.l.Run()
	switch {
	case err != nil:
		cs.endCoord(c, nil, err)
		return
	case len(parts) == 0 || parts[0].Rng != cs.l.m.Desc.ID:
		cs.endCoord(c, nil, cs.l.wrongRange())
		return
	}
	c.parts, c.step = parts, coordFloor
	c.attempt++
	c.inOrder = c.attempt > 1 || c.Spans != nil
	cs.l.Evaluations.askRevision(c.It, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case c.step != coordFloor:
		case err != nil:
			cs.endCoord(c, nil, unasked(err))
		case epoch < cs.l.m.Epoch: // of an oracle that has been replaced
			cs.pauseCoord(c)
		default:
			cs.lockAnchor(c, rev, epoch)
		}
	})
}

// lockAnchor begins to lock.
func (cs *coordinations) lockAnchor(c *Coordination, rev int64, epoch shard.Epoch) {
	c.step, c.floor, c.epoch = coordPreparing, rev, epoch
	c.above, c.minEpoch = rev, epoch
	c.lockBy = cs.l.Now.Add(cs.l.lim.Patience + cs.l.lim.Patience*time.Duration(len(c.parts))/32)
	c.id = apply.TxnID{Anchor: cs.l.m.Desc.ID, Term: cs.l.Term, Seq: cs.l.id()}
	delete(cs.idle, c)
	cs.coords[c.id] = c
	for i, p := range c.parts {
		p.Body.Id, p.Body.AnchorKey, p.Body.Floor = c.id.ToPB(), c.parts[0].Key, rev
		if i > 0 {
			c.parts[0].Body.Participants = append(c.parts[0].Body.Participants, &pb.Participant{Key: p.Key})
		}
	}
	cs.lockPart(c, 0)
}

func (cs *coordinations) lockPart(c *Coordination, i int) {
	c.parts[i].asked = true
	p := c.parts[i]
	cs.l.Emit(Action{Kind: ActPrepare, N: i, actionArgs: &actionArgs{Coord: c, Txn: c.id, Parts: c.parts, Prepare: &pb.PrepareRequest{
		Prepare: p.Body, Epoch: uint64(c.epoch), NoWait: !c.inOrder, ExpireGrant: c.It.Op.GetExpireGrant(),
		Want: pb.FromSpans(p.Want), Count: pb.FromSpans(p.count),
	}}})
}

// Prepared is the answer of a participant.
func (cs *coordinations) Prepared(c *Coordination, id apply.TxnID, i int, resp *pb.PrepareResponse, err error) {
	if cs.l.dead || c.id != id || c.step != coordPreparing {
		return
	}
	defer cs.l.Run()
	if err != nil {
		cs.abortCoord(c, lockFailure(err))
		return
	}
	p := c.parts[i]
	p.Resp = resp
	c.above, c.minEpoch = max(c.above, resp.Floor), max(c.minEpoch, shard.Epoch(resp.Epoch))
	c.It.Missing = append(c.It.Missing, resp.MissingLeases...)
	left := 0
	for j, q := range c.parts {
		if q.Resp != nil {
			continue
		}
		left++
		if !q.asked && (!c.inOrder || left == 1) {
			cs.lockPart(c, j)
		}
	}
	if left == 0 {
		c.step = coordPlanning
		cs.l.Emit(Action{Kind: ActPlan, actionArgs: &actionArgs{
			Coord: c, Txn: c.id, Parts: c.parts, Rev: c.floor, Missing: slices.Clone(c.It.Missing),
		}})
	}
}

// lockFailure sorts out what a participant says: nil for what another attempt may change.
func lockFailure(err error) error {
	switch {
	case shard.Retryable(err), errors.Is(err, shard.ErrConflict), errors.Is(err, shard.ErrTimeout),
		errors.Is(err, shard.ErrAmbiguous), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, shard.ErrStopped):
		return nil
	}
	return err
}

// Planned is the decision: what the transaction answers and what it writes.
func (cs *coordinations) Planned(c *Coordination, id apply.TxnID, plan *TxnPlan, err error) {
	if cs.l.dead || c.id != id || c.step != coordPlanning {
		return
	}
	defer cs.l.Run()
	if err != nil {
		cs.abortCoord(c, lockFailure(err))
		return
	}
	c.plan, c.step = plan, coordRevision
	if plan.writes {
		cs.commits = append(cs.commits, c)
		return
	}
	// It takes no revision: it is answered as of one at which everything was locked.
	cs.l.Evaluations.askRevision(c.It, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case c.step != coordRevision || c.id != id:
		case err != nil || epoch < max(c.minEpoch, cs.l.m.Epoch) || rev < c.above:
			cs.abortCoord(c, nil)
		default:
			cs.logCommit(c, rev, epoch)
		}
	})
}

// commitOf is a transaction that waits for its revision, and the attempt that it is for.
type commitOf struct {
	c   *Coordination
	txn apply.TxnID
}

// flushCommits asks for the revisions of transactions, in front of plain writes: locks are held.
// They stand in the same queue, so that revisions are used in the order in which they were asked for.
func (cs *coordinations) flushCommits() {
	if len(cs.commits) == 0 || cs.l.Batches.unanswered >= cs.l.lim.Allocs {
		return
	}
	b := &batch{}
	for len(cs.commits) > 0 && len(b.commits) < cs.l.lim.BatchCount {
		c := cs.commits[0]
		cs.commits = cs.commits[1:]
		if c.step == coordRevision {
			b.commits = append(b.commits, commitOf{c, c.id})
		}
	}
	if len(b.commits) == 0 {
		return
	}
	b.id = cs.l.id()
	cs.l.Batches.asked = append(cs.l.Batches.asked, b)
	cs.l.Batches.unanswered++
	cs.l.Emit(Action{Kind: ActAllocate, Id: b.id, N: len(b.commits)})
}

// useCommits takes the revisions of transactions.
func (cs *coordinations) useCommits(b *batch) {
	for i, x := range b.commits {
		if x.c.step == coordRevision && x.c.id == x.txn { // else given up: for another attempt it is too old
			cs.useCommit(x.c, b.first+int64(i), b.epoch, b.err)
		}
	}
}

// useCommit takes the revision of a transaction. One that does not lie above what its participants
// have shown is not used (hazard 29).
func (cs *coordinations) useCommit(c *Coordination, rev int64, epoch shard.Epoch, err error) {
	switch {
	case err != nil:
		cs.abortCoord(c, unasked(err))
	case epoch < max(c.minEpoch, cs.l.m.Epoch, cs.l.Fences.raising) || rev <= c.above:
		if c.It.tries++; c.It.tries > cs.l.lim.Tries {
			cs.abortCoord(c, shard.ErrUnavailable)
			return
		}
		cs.commits = append(cs.commits, c)
	default:
		cs.logCommit(c, rev, epoch)
	}
}

// logCommit proposes the commit point.
func (cs *coordinations) logCommit(c *Coordination, rev int64, epoch shard.Epoch) {
	c.step = coordLogged
	cs.l.known = max(cs.l.known, rev)
	if c.plan.writes { // else it may be the revision of a plain write that is on its way
		cs.l.Batches.lastProposed = max(cs.l.Batches.lastProposed, rev)
	}
	effects := make([]*pb.Effects, len(c.parts))
	for i, p := range c.parts {
		effects[i] = &pb.Effects{ParticipantKey: p.Key}
		if e := c.plan.effects[i]; e != nil {
			effects[i].Ops, effects[i].FirstSub = e.Ops, e.FirstSub
		}
	}
	commit := &pb.Commit{Id: c.id.ToPB(), Revision: rev, Effects: effects}
	cs.l.Proposals.proposeEntry(&proposal{done: func(err error) { cs.commitLogged(c, commit, err) }},
		&pb.Entry{Epoch: uint64(epoch), Commit: commit})
}

func (cs *coordinations) commitLogged(c *Coordination, commit *pb.Commit, err error) {
	if err != nil {
		if errors.Is(err, apply.ErrNoPrepare) || errors.Is(err, apply.ErrWrongTerm) {
			err = cs.l.NotLeader() // somebody else has decided: certainly not committed
		}
		cs.endCoord(c, nil, err)
		return
	}
	cs.endCoord(c, &pb.WriteResponse{
		Result: c.plan.At(commit.Revision), Revision: commit.Revision, Wrote: c.plan.writes, Term: cs.l.Term,
	}, nil)
	if !cs.l.dead {
		cs.l.Resolutions.resolveEverywhere(c.id, commit)
	}
}

// endCoord answers the request, for good.
func (cs *coordinations) endCoord(c *Coordination, resp *pb.WriteResponse, err error) {
	c.step = coordDone
	cs.bytes -= c.It.Size
	delete(cs.idle, c)
	if cs.coords[c.id] == c {
		delete(cs.coords, c.id)
	}
	if err == nil {
		cs.Stats.Committed.Add(1)
	} else {
		cs.Stats.Failed.Add(1)
	}
	cs.l.finish(c.It, resp, err)
}

// ---- giving up

// abortCoord ends an attempt before its commit point; why is told to the client, and nil means that
// there is another attempt.
func (cs *coordinations) abortCoord(c *Coordination, why error) {
	c.step, c.failure = coordAborting, why
	id, parts := c.id, c.parts
	if parts[0].Resp == nil { // the anchor has not locked: nobody has
		cs.aborted(c)
		return
	}
	cs.l.Participants.abort(id, func(err error) {
		if cs.l.dead {
			return
		}
		for i, p := range parts {
			if i > 0 && p.asked {
				cs.l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: p.Key, Resolve: &pb.Resolve{Id: id.ToPB()}, Epoch: cs.l.m.Epoch}})
			}
		}
		cs.aborted(c)
	})
}

// aborted goes on after an attempt that has certainly had no effect.
func (cs *coordinations) aborted(c *Coordination) {
	if cs.coords[c.id] == c {
		delete(cs.coords, c.id)
	}
	switch {
	case c.failure != nil:
		cs.endCoord(c, nil, c.failure)
	default:
		cs.pauseCoord(c)
	}
}

// pauseCoord lets it wait for another attempt. The pause differs between those that collide.
func (cs *coordinations) pauseCoord(c *Coordination) {
	c.step = coordPausing
	cs.Stats.Again.Add(1)
	c.parts, c.plan, c.It.Missing = nil, nil, nil
	pause := coordinatePause << min(max(c.attempt-1, 0), 4)
	c.due = cs.l.Now.Add(pause/2 + pause*time.Duration(c.id.Seq%8)/8)
	cs.idle[c] = true
}

// tickCoords ends the patience of clients and begins attempts that are due.
func (cs *coordinations) tickCoords(now time.Time) {
	late := func(c *Coordination) bool { return !c.It.Deadline.IsZero() && !now.Before(c.It.Deadline) }
	for _, c := range cs.allCoords() {
		switch {
		case late(c) && c.step == coordLogged:
			cs.l.reply(c.It, nil, shard.ErrAmbiguousTimeout)
		case late(c) && c.step == coordAborting:
			c.failure = cmp.Or(c.failure, shard.ErrTimeout)
		case late(c) && cs.idle[c]:
			cs.endCoord(c, nil, shard.ErrTimeout)
		case late(c):
			cs.abortCoord(c, shard.ErrTimeout)
		case c.step == coordPreparing && !now.Before(c.lockBy):
			cs.abortCoord(c, nil)
		case c.step == coordPausing && !now.Before(c.due):
			cs.locate(c)
		}
	}
}

// allCoords lists the coordinations in the order of their arrival.
func (cs *coordinations) allCoords() []*Coordination {
	all := make([]*Coordination, 0, len(cs.coords)+len(cs.idle))
	for _, c := range cs.coords {
		all = append(all, c)
	}
	for c := range cs.idle {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Coordination) int { return cmp.Compare(a.seq, b.seq) })
	return all
}
