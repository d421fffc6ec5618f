package replica

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
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

// coordination is one transaction over several ranges, from its arrival to its answer.
type coordination struct {
	seq   uint64       // of its arrival
	it    *item        // the request; it is in no table
	spans []shard.Span // an expiry: where the lease has been attached

	step     coordStep
	attempt  int
	inOrder  bool // participants lock one after another and wait, instead of all at once
	id       txnID
	parts    []*txnPart // in key order; the first is the anchor
	floor    int64
	epoch    shard.Epoch
	above    int64       // the commit revision must lie above
	minEpoch shard.Epoch // and its epoch must not lie below
	lockBy   time.Time   // then it lets go
	due      time.Time   // of the next attempt
	plan     *txnPlan
	failure  error // why it is being aborted; nil: to be tried again
}

// txnPart is one participant.
type txnPart struct {
	rng         shard.RangeID
	key         []byte // its first key: it names the participant, wherever its range goes
	span        shard.Span
	body        *pb.Prepare
	want, count []shard.Span
	asked       bool
	resp        *pb.PrepareResponse
}

// coordinatePause is the pause before the second attempt; it doubles up to 16 times.
const coordinatePause = 10 * time.Millisecond

// coordinate takes a request whose keys lie in several ranges, of which this is the first.
func (l *leader) coordinate(it *item, spans []shard.Span) {
	switch {
	case l.dead:
		l.finish(it, nil, l.notLeader())
		return
	case !l.own:
		l.finish(it, nil, shard.ErrUnavailable)
		return
	case len(l.txns.coords)+len(l.txns.idle) >= l.lim.coordinate, len(l.txns.records) >= l.lim.resolve,
		over(l.txns.bytes, it.size, l.lim.coordinateBytes):
		l.finish(it, nil, shard.ErrTooManyRequests)
		return
	}
	c := &coordination{seq: l.id(), it: it, spans: spans}
	l.txns.bytes += it.size
	l.locate(c)
	l.run()
}

// locate begins an attempt.
func (l *leader) locate(c *coordination) {
	c.step = coordLocating
	l.txns.idle[c] = true
	l.emit(action{kind: actLocate, actionArgs: &actionArgs{coord: c}})
}

// located is told the participants.
func (l *leader) located(c *coordination, parts []*txnPart, err error) {
	if l.dead || c.step != coordLocating {
		return
	}
	defer l.run()
	switch {
	case err != nil:
		l.endCoord(c, nil, err)
		return
	case len(parts) == 0 || parts[0].rng != l.m.desc.ID:
		l.endCoord(c, nil, l.wrongRange())
		return
	}
	c.parts, c.step = parts, coordFloor
	c.attempt++
	c.inOrder = c.attempt > 1 || c.spans != nil
	l.askRevision(c.it, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case c.step != coordFloor:
		case err != nil:
			l.endCoord(c, nil, unasked(err))
		case epoch < l.m.epoch: // of an oracle that has been replaced
			l.pauseCoord(c)
		default:
			l.lockAnchor(c, rev, epoch)
		}
	})
}

// lockAnchor begins to lock.
func (l *leader) lockAnchor(c *coordination, rev int64, epoch shard.Epoch) {
	c.step, c.floor, c.epoch = coordPreparing, rev, epoch
	c.above, c.minEpoch = rev, epoch
	c.lockBy = l.now.Add(l.lim.patience + l.lim.patience*time.Duration(len(c.parts))/32)
	c.id = txnID{anchor: l.m.desc.ID, term: l.term, seq: l.id()}
	delete(l.txns.idle, c)
	l.txns.coords[c.id] = c
	for i, p := range c.parts {
		p.body.Id, p.body.AnchorKey, p.body.Floor = c.id.toPB(), c.parts[0].key, rev
		if i > 0 {
			c.parts[0].body.Participants = append(c.parts[0].body.Participants, &pb.Participant{Key: p.key})
		}
	}
	l.lockPart(c, 0)
}

func (l *leader) lockPart(c *coordination, i int) {
	c.parts[i].asked = true
	p := c.parts[i]
	l.emit(action{kind: actPrepare, n: i, actionArgs: &actionArgs{coord: c, txn: c.id, parts: c.parts, prepare: &pb.PrepareRequest{
		Prepare: p.body, Epoch: uint64(c.epoch), NoWait: !c.inOrder, ExpireGrant: c.it.op.GetExpireGrant(),
		Want: pb.FromSpans(p.want), Count: pb.FromSpans(p.count),
	}}})
}

// prepared is the answer of a participant.
func (l *leader) prepared(c *coordination, id txnID, i int, resp *pb.PrepareResponse, err error) {
	if l.dead || c.id != id || c.step != coordPreparing {
		return
	}
	defer l.run()
	if err != nil {
		l.abortCoord(c, lockFailure(err))
		return
	}
	p := c.parts[i]
	p.resp = resp
	c.above, c.minEpoch = max(c.above, resp.Floor), max(c.minEpoch, shard.Epoch(resp.Epoch))
	c.it.missing = append(c.it.missing, resp.MissingLeases...)
	left := 0
	for j, q := range c.parts {
		if q.resp != nil {
			continue
		}
		left++
		if !q.asked && (!c.inOrder || left == 1) {
			l.lockPart(c, j)
		}
	}
	if left == 0 {
		c.step = coordPlanning
		l.emit(action{kind: actPlan, actionArgs: &actionArgs{
			coord: c, txn: c.id, parts: c.parts, rev: c.floor, missing: slices.Clone(c.it.missing),
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

// planned is the decision: what the transaction answers and what it writes.
func (l *leader) planned(c *coordination, id txnID, plan *txnPlan, err error) {
	if l.dead || c.id != id || c.step != coordPlanning {
		return
	}
	defer l.run()
	if err != nil {
		l.abortCoord(c, lockFailure(err))
		return
	}
	c.plan, c.step = plan, coordRevision
	if plan.writes {
		l.txns.commits = append(l.txns.commits, c)
		return
	}
	// It takes no revision: it is answered as of one at which everything was locked.
	l.askRevision(c.it, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case c.step != coordRevision || c.id != id:
		case err != nil || epoch < max(c.minEpoch, l.m.epoch) || rev < c.above:
			l.abortCoord(c, nil)
		default:
			l.logCommit(c, rev, epoch)
		}
	})
}

// commitOf is a transaction that waits for its revision, and the attempt that it is for.
type commitOf struct {
	c   *coordination
	txn txnID
}

// flushCommits asks for the revisions of transactions, in front of plain writes: locks are held.
// They stand in the same queue, so that revisions are used in the order in which they were asked for.
func (l *leader) flushCommits() {
	if len(l.txns.commits) == 0 || l.unanswered >= l.lim.allocs {
		return
	}
	b := &batch{}
	for len(l.txns.commits) > 0 && len(b.commits) < l.lim.batchCount {
		c := l.txns.commits[0]
		l.txns.commits = l.txns.commits[1:]
		if c.step == coordRevision {
			b.commits = append(b.commits, commitOf{c, c.id})
		}
	}
	if len(b.commits) == 0 {
		return
	}
	b.id = l.id()
	l.asked = append(l.asked, b)
	l.unanswered++
	l.emit(action{kind: actAllocate, id: b.id, n: len(b.commits)})
}

// useCommits takes the revisions of transactions.
func (l *leader) useCommits(b *batch) {
	for i, x := range b.commits {
		if x.c.step == coordRevision && x.c.id == x.txn { // else given up: for another attempt it is too old
			l.useCommit(x.c, b.first+int64(i), b.epoch, b.err)
		}
	}
}

// useCommit takes the revision of a transaction. One that does not lie above what its participants
// have shown is not used (hazard 29).
func (l *leader) useCommit(c *coordination, rev int64, epoch shard.Epoch, err error) {
	switch {
	case err != nil:
		l.abortCoord(c, unasked(err))
	case epoch < max(c.minEpoch, l.m.epoch, l.raising) || rev <= c.above:
		if c.it.tries++; c.it.tries > l.lim.tries {
			l.abortCoord(c, shard.ErrUnavailable)
			return
		}
		l.txns.commits = append(l.txns.commits, c)
	default:
		l.logCommit(c, rev, epoch)
	}
}

// logCommit proposes the commit point.
func (l *leader) logCommit(c *coordination, rev int64, epoch shard.Epoch) {
	c.step = coordLogged
	l.known = max(l.known, rev)
	if c.plan.writes { // else it may be the revision of a plain write that is on its way
		l.lastProposed = max(l.lastProposed, rev)
	}
	effects := make([]*pb.Effects, len(c.parts))
	for i, p := range c.parts {
		effects[i] = &pb.Effects{ParticipantKey: p.key}
		if e := c.plan.effects[i]; e != nil {
			effects[i].Ops, effects[i].FirstSub = e.Ops, e.FirstSub
		}
	}
	commit := &pb.Commit{Id: c.id.toPB(), Revision: rev, Effects: effects}
	l.proposeEntry(&proposal{done: func(err error) { l.commitLogged(c, commit, err) }},
		&pb.Entry{Epoch: uint64(epoch), Commit: commit})
}

func (l *leader) commitLogged(c *coordination, commit *pb.Commit, err error) {
	if err != nil {
		if errors.Is(err, errNoPrepare) || errors.Is(err, errWrongTerm) {
			err = l.notLeader() // somebody else has decided: certainly not committed
		}
		l.endCoord(c, nil, err)
		return
	}
	l.endCoord(c, &pb.WriteResponse{
		Result: c.plan.at(commit.Revision), Revision: commit.Revision, Wrote: c.plan.writes, Term: l.term,
	}, nil)
	if !l.dead {
		l.resolveEverywhere(c.id, commit)
	}
}

// endCoord answers the request, for good.
func (l *leader) endCoord(c *coordination, resp *pb.WriteResponse, err error) {
	c.step = coordDone
	l.txns.bytes -= c.it.size
	delete(l.txns.idle, c)
	if l.txns.coords[c.id] == c {
		delete(l.txns.coords, c.id)
	}
	if err == nil {
		l.txns.stats.Committed.Add(1)
	} else {
		l.txns.stats.Failed.Add(1)
	}
	l.finish(c.it, resp, err)
}

// ---- giving up

// abortCoord ends an attempt before its commit point; why is told to the client, and nil means that
// there is another attempt.
func (l *leader) abortCoord(c *coordination, why error) {
	c.step, c.failure = coordAborting, why
	id, parts := c.id, c.parts
	if parts[0].resp == nil { // the anchor has not locked: nobody has
		l.aborted(c)
		return
	}
	l.abort(id, func(err error) {
		if l.dead {
			return
		}
		for i, p := range parts {
			if i > 0 && p.asked {
				l.emit(action{kind: actResolve, actionArgs: &actionArgs{key: p.key, resolve: &pb.Resolve{Id: id.toPB()}, epoch: l.m.epoch}})
			}
		}
		l.aborted(c)
	})
}

// aborted goes on after an attempt that has certainly had no effect.
func (l *leader) aborted(c *coordination) {
	if l.txns.coords[c.id] == c {
		delete(l.txns.coords, c.id)
	}
	switch {
	case c.failure != nil:
		l.endCoord(c, nil, c.failure)
	default:
		l.pauseCoord(c)
	}
}

// pauseCoord lets it wait for another attempt. The pause differs between those that collide.
func (l *leader) pauseCoord(c *coordination) {
	c.step = coordPausing
	l.txns.stats.Again.Add(1)
	c.parts, c.plan, c.it.missing = nil, nil, nil
	pause := coordinatePause << min(max(c.attempt-1, 0), 4)
	c.due = l.now.Add(pause/2 + pause*time.Duration(c.id.seq%8)/8)
	l.txns.idle[c] = true
}

// tickCoords ends the patience of clients and begins attempts that are due.
func (l *leader) tickCoords(now time.Time) {
	late := func(c *coordination) bool { return !c.it.deadline.IsZero() && !now.Before(c.it.deadline) }
	for _, c := range l.allCoords() {
		switch {
		case late(c) && c.step == coordLogged:
			l.reply(c.it, nil, shard.ErrAmbiguousTimeout)
		case late(c) && c.step == coordAborting:
			c.failure = cmp.Or(c.failure, shard.ErrTimeout)
		case late(c) && l.txns.idle[c]:
			l.endCoord(c, nil, shard.ErrTimeout)
		case late(c):
			l.abortCoord(c, shard.ErrTimeout)
		case c.step == coordPreparing && !now.Before(c.lockBy):
			l.abortCoord(c, nil)
		case c.step == coordPausing && !now.Before(c.due):
			l.locate(c)
		}
	}
}

// allCoords lists the coordinations in the order of their arrival.
func (l *leader) allCoords() []*coordination {
	all := make([]*coordination, 0, len(l.txns.coords)+len(l.txns.idle))
	for _, c := range l.txns.coords {
		all = append(all, c)
	}
	for c := range l.txns.idle {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *coordination) int { return cmp.Compare(a.seq, b.seq) })
	return all
}
