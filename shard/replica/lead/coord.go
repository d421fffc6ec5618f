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

// This file coordinates transactions over several ranges: two-phase commit, on the leader of the anchor,
// which is the range of the first key. A coordination ends with the term in which it began.
//
//	locating --> readingFloor --> preparing --> planning --> allocating --> committing --> done
//	   ^              |               |            |             |                          ^
//	   |              |               +-----+------+-------------+                          |
//	   |              |                     v                                               |
//	   |              |                  aborting --- failed for good ----------------------+
//	   |              v                     |
//	   +--------- backingOff <--------------+ another attempt may succeed
//
// The anchor locks first: its Prepare is the transaction's record. The commit point is Commit in the
// anchor's log. Only an Abort that precedes it there keeps it from passing. Before anything is locked,
// that is in locating, readingFloor and backingOff, an error or the deadline leads to done at once.

// coordStep is the state of a coordination.
type coordStep uint8

const (
	coordLocating     coordStep = iota // finds the ranges that hold its keys
	coordReadingFloor                  // the oracle has been asked for the floor
	coordPreparing                     // the participants lock
	coordPlanning                      // evaluated on what is locked
	coordAllocating                    // waits for its revision
	coordCommitting                    // Commit has been proposed
	coordAborting                      // Abort has been proposed
	coordBackingOff                    // between two attempts
	coordDone
)

// Coordination is one transaction over several ranges, from its arrival to its answer. It survives attempts.
type Coordination struct {
	seq   uint64       // of its arrival
	It    *Item        // the request; it is in no table
	Spans []shard.Span // an expiry: where the lease has been attached

	step          coordStep
	attempt       int
	sequential    bool // participants lock one after another and wait for locks, instead of all at once
	id            apply.TxnID
	parts         []*TxnPart // in key order; the first is the anchor
	floor         int64
	epoch         shard.Epoch
	aboveRevision int64       // the commit revision must lie above
	minEpoch      shard.Epoch // and its epoch must not lie below
	lockDeadline  time.Time   // of an attempt, which holds nothing before the anchor has locked
	retryAt       time.Time   // of the next attempt
	plan          *TxnPlan
	failure       error // why it is being aborted; nil: to be tried again
}

// TxnPart is one participant.
type TxnPart struct {
	Range       shard.RangeID
	Key         []byte // its first key: it names the participant, wherever its range goes
	span        shard.Span
	Body        *pb.Prepare
	Want, count []shard.Span
	prepareSent bool
	Resp        *pb.PrepareResponse
}

// coordinations are the transactions over several ranges that this leader coordinates. Their events are
// Coordinate, Located, Prepared, Planned, allocated revisions, their entries in the log, and ticks.
type coordinations struct {
	l       *Leader
	Stats   *TxnStats
	coords  map[apply.TxnID]*Coordination // by the id of the present attempt
	idle    map[*Coordination]bool        // between two attempts
	commits []*Coordination               // planned, wait for a revision
	bytes   int                           // of requests, and of commit records
}

func newCoordinations(l *Leader) coordinations {
	return coordinations{
		l: l, Stats: &TxnStats{},
		coords: make(map[apply.TxnID]*Coordination), idle: make(map[*Coordination]bool),
	}
}

// coordBackoff is the pause before the second attempt. It doubles up to 16 times as long.
const coordBackoff = 10 * time.Millisecond

// Coordinate takes a request whose keys lie in several ranges, of which this is the first.
func (cs *coordinations) Coordinate(it *Item, spans []shard.Span) {
	switch {
	case cs.l.deposed:
		cs.l.finish(it, nil, cs.l.NotLeader())
		return
	case !cs.l.ownTermApplied:
		cs.l.finish(it, nil, shard.ErrUnavailable)
		return
	case len(cs.coords)+len(cs.idle) >= cs.l.lim.Coordinations, len(cs.l.Resolutions.records) >= cs.l.lim.Resolutions,
		Exceeds(cs.bytes, it.Size, cs.l.lim.CoordinationBytes):
		cs.l.finish(it, nil, shard.ErrTooManyRequests)
		return
	}
	c := &Coordination{seq: cs.l.id(), It: it, Spans: spans}
	cs.bytes += it.Size
	cs.locate(c)
	cs.l.Run()
}

// locate starts an attempt.
func (cs *coordinations) locate(c *Coordination) {
	c.step = coordLocating
	cs.idle[c] = true
	cs.l.Emit(Action{Kind: ActLocate, actionArgs: &actionArgs{Coord: c}})
}

// Located takes the participants.
func (cs *coordinations) Located(c *Coordination, parts []*TxnPart, err error) {
	if cs.l.deposed || c.step != coordLocating {
		return
	}
	defer cs.l.Run()
	switch {
	case err != nil:
		cs.endCoord(c, nil, err)
		return
	case len(parts) == 0 || !cs.l.m.Desc.Span.Contains(parts[0].Key):
		cs.endCoord(c, nil, cs.l.m.WrongRange())
		return
	}
	c.parts, c.step = parts, coordReadingFloor
	c.attempt++
	c.sequential = c.attempt > 1 || c.Spans != nil
	cs.l.Evaluations.currentRevision(c.It, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case c.step != coordReadingFloor:
		case err != nil:
			cs.endCoord(c, nil, oracleError(err))
		case epoch < cs.l.m.Epoch: // of an oracle that has been replaced
			cs.backOff(c)
		default:
			cs.lockAnchor(c, rev, epoch)
		}
	})
}

// lockAnchor starts to lock.
func (cs *coordinations) lockAnchor(c *Coordination, rev int64, epoch shard.Epoch) {
	c.step, c.floor, c.epoch = coordPreparing, rev, epoch
	c.aboveRevision, c.minEpoch = rev, epoch
	c.lockDeadline = c.It.Deadline
	if c.lockDeadline.IsZero() {
		c.lockDeadline = cs.l.Now.Add(cs.l.lim.LockTimeout)
	}
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

// locksPerLog is how many times as long as an entry takes here an attempt may hold its locks. Logs that are slow are so mostly because
// processors or disks are short, for the other participants as well: were they not waited for, each attempt would end too early and leave
// entries more to a log that is late already.
const locksPerLog = 4

// anchorLocked follows the anchor's Prepare, which took so long from its proposal: now others may wait for what is locked.
func (cs *coordinations) anchorLocked(id apply.TxnID, took time.Duration) {
	if c := cs.coords[id]; c != nil {
		hold := max(cs.l.lim.LockTimeout, locksPerLog*took)
		c.lockDeadline = cs.l.Now.Add(hold + hold*time.Duration(len(c.parts))/32)
	}
}

func (cs *coordinations) lockPart(c *Coordination, i int) {
	c.parts[i].prepareSent = true
	p := c.parts[i]
	cs.l.Emit(Action{Kind: ActPrepare, N: i, actionArgs: &actionArgs{Coord: c, Txn: c.id, Parts: c.parts, Patience: c.lockDeadline.Sub(cs.l.Now), Prepare: &pb.PrepareRequest{
		Prepare: p.Body, Epoch: uint64(c.epoch), NoWait: !c.sequential, ExpireGrant: c.It.Op.GetExpireGrant(),
		Want: pb.FromSpans(p.Want), Count: pb.FromSpans(p.count),
	}}})
}

// Prepared takes the answer of a participant.
func (cs *coordinations) Prepared(c *Coordination, id apply.TxnID, i int, resp *pb.PrepareResponse, err error) {
	if cs.l.deposed || c.id != id || c.step != coordPreparing {
		return
	}
	defer cs.l.Run()
	if err != nil {
		cs.abortCoord(c, lockFailure(err))
		return
	}
	p := c.parts[i]
	p.Resp = resp
	c.aboveRevision, c.minEpoch = max(c.aboveRevision, resp.Floor), max(c.minEpoch, shard.Epoch(resp.Epoch))
	c.It.Missing = append(c.It.Missing, resp.MissingLeases...)
	left := 0
	for j, q := range c.parts {
		if q.Resp != nil {
			continue
		}
		left++
		if !q.prepareSent && (!c.sequential || left == 1) {
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

// lockFailure is why a participant could not lock. It is nil where another attempt may succeed.
func lockFailure(err error) error {
	switch {
	case shard.Retryable(err), errors.Is(err, shard.ErrConflict), errors.Is(err, shard.ErrTimeout),
		errors.Is(err, shard.ErrAmbiguous), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, shard.ErrStopped):
		return nil
	}
	return err
}

// Planned takes the plan: what the transaction answers and what it writes.
func (cs *coordinations) Planned(c *Coordination, id apply.TxnID, plan *TxnPlan, err error) {
	if cs.l.deposed || c.id != id || c.step != coordPlanning {
		return
	}
	defer cs.l.Run()
	if err != nil {
		cs.abortCoord(c, lockFailure(err))
		return
	}
	c.plan, c.step = plan, coordAllocating
	if plan.writes {
		cs.commits = append(cs.commits, c)
		return
	}
	// It writes nothing and takes no revision. It answers as of one at which everything was locked.
	cs.l.Evaluations.currentRevision(c.It, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case c.step != coordAllocating || c.id != id:
		case err != nil || epoch < max(c.minEpoch, cs.l.m.Epoch) || rev < c.aboveRevision:
			cs.abortCoord(c, nil)
		default:
			if err := c.It.refusal(cs.l.lim.Settings()); err != nil {
				cs.abortCoord(c, err)
				return
			}
			cs.logCommit(c, rev, epoch)
		}
	})
}

// commitOf is a transaction that waits for its revision. txn names the attempt.
type commitOf struct {
	c   *Coordination
	txn apply.TxnID
}

// flushCommits allocates the revisions of transactions, ahead of plain writes because locks are held.
// Both use one queue, so revisions are used in the order of the requests for them.
func (cs *coordinations) flushCommits() {
	settings := cs.l.lim.Settings()
	if len(cs.commits) == 0 || cs.l.Batches.allocsInFlight >= cs.l.lim.Allocs || !cs.l.Batches.mayAsk(settings) {
		return
	}
	b := &batch{}
	var ask shard.Ask
	for len(cs.commits) > 0 && len(b.commits) < cs.l.lim.BatchCount {
		c := cs.commits[0]
		cs.commits = cs.commits[1:]
		if c.step != coordAllocating {
			continue
		}
		if err := c.It.refusal(settings); err != nil {
			cs.abortCoord(c, err)
			continue
		}
		c.It.joins(&ask)
		b.commits = append(b.commits, commitOf{c, c.id})
	}
	if len(b.commits) == 0 {
		return
	}
	b.id = cs.l.id()
	cs.l.Batches.allocate(b, ask, settings)
}

// commitsAllocated takes the allocated revisions of transactions.
func (cs *coordinations) commitsAllocated(b *batch) {
	for i, x := range b.commits {
		if x.c.step == coordAllocating && x.c.id == x.txn { // a later attempt cannot use it: it is too low
			cs.commitAllocated(x.c, b.first+int64(i), b.epoch, b.err)
		}
	}
}

// commitAllocated takes the allocated revision of a transaction. It must lie above everything that the participants
// have shown (hazard 29).
func (cs *coordinations) commitAllocated(c *Coordination, rev int64, epoch shard.Epoch, err error) {
	old := errors.Is(err, shard.ErrOldSettings)
	switch {
	case old, err == nil && (epoch < max(c.minEpoch, cs.l.m.Epoch, cs.l.Fences.raisingTo) || rev <= c.aboveRevision):
		if old { // it is checked again
			c.It.By.Settings = 0
		}
		if c.It.retries++; c.It.retries > cs.l.lim.Retries {
			cs.abortCoord(c, shard.ErrUnavailable)
			return
		}
		cs.commits = append(cs.commits, c)
	case err != nil:
		cs.abortCoord(c, oracleError(err))
	default:
		cs.logCommit(c, rev, epoch)
	}
}

// logCommit proposes the commit point.
func (cs *coordinations) logCommit(c *Coordination, rev int64, epoch shard.Epoch) {
	c.step = coordCommitting
	cs.l.maxAllocated = max(cs.l.maxAllocated, rev)
	if c.plan.writes { // else the revision may belong to a plain write
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
			err = cs.l.NotLeader() // aborted elsewhere: certainly not committed
		}
		cs.endCoord(c, nil, err)
		return
	}
	cs.endCoord(c, &pb.WriteResponse{
		Result: c.plan.At(commit.Revision), Revision: commit.Revision, Wrote: c.plan.writes, Term: cs.l.Term,
	}, nil)
	if !cs.l.deposed {
		cs.l.Resolutions.startResolution(c.id, commit)
	}
}

// endCoord answers the request.
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

// ---- aborts and retries

// abortCoord ends an attempt before its commit point. why is the client's error; with nil another attempt
// follows.
func (cs *coordinations) abortCoord(c *Coordination, why error) {
	c.step, c.failure = coordAborting, why
	id, parts := c.id, c.parts
	if parts[0].Resp == nil { // the anchor locks first, so nobody has locked
		cs.aborted(c)
		return
	}
	cs.l.Participants.abort(id, func(err error) {
		if cs.l.deposed {
			return
		}
		for i, p := range parts {
			if i > 0 && p.prepareSent {
				cs.l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: p.Key, Resolve: &pb.Resolve{Id: id.ToPB(), Key: p.Key}, Epoch: cs.l.m.Epoch}})
			}
		}
		cs.aborted(c)
	})
}

// aborted follows an attempt that certainly has had no effect.
func (cs *coordinations) aborted(c *Coordination) {
	if cs.coords[c.id] == c {
		delete(cs.coords, c.id)
	}
	switch {
	case c.failure != nil:
		cs.endCoord(c, nil, c.failure)
	default:
		cs.backOff(c)
	}
}

// backOff waits for the next attempt. The pause has jitter, so that transactions that collide separate.
func (cs *coordinations) backOff(c *Coordination) {
	c.step = coordBackingOff
	cs.Stats.Retried.Add(1)
	c.parts, c.plan, c.It.Missing = nil, nil, nil
	pause := coordBackoff << min(max(c.attempt-1, 0), 4)
	c.retryAt = cs.l.Now.Add(pause/2 + pause*time.Duration(c.id.Seq%8)/8)
	cs.idle[c] = true
}

// tickCoords ends coordinations and attempts at their deadlines, and starts the attempts that are due.
func (cs *coordinations) tickCoords(now time.Time) {
	late := func(c *Coordination) bool { return !c.It.Deadline.IsZero() && !now.Before(c.It.Deadline) }
	for _, c := range cs.allCoords() {
		switch {
		case late(c) && c.step == coordCommitting:
			cs.l.reply(c.It, nil, shard.ErrAmbiguousTimeout)
		case late(c) && c.step == coordAborting:
			c.failure = cmp.Or(c.failure, shard.ErrTimeout)
		case late(c) && cs.idle[c]:
			cs.endCoord(c, nil, shard.ErrTimeout)
		case late(c):
			cs.abortCoord(c, shard.ErrTimeout)
		case c.step == coordPreparing && !now.Before(c.lockDeadline):
			cs.abortCoord(c, nil)
		case c.step == coordBackingOff && !now.Before(c.retryAt):
			cs.locate(c)
		}
	}
}

// allCoords lists the coordinations by arrival.
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
