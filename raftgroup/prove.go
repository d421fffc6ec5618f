package raftgroup

import (
	"slices"
	"sync"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Proofs of leadership. A leader asks the other voters: do you still know of no term above mine?
// A voter learns of a term before it votes in it, so when a majority has answered, nobody had
// been elected in a higher term when the question was sent: whatever was committed by then is at
// or below this leader's commit index. The questions of all groups between two nodes travel
// together, and all callers that wait when a round starts share it. Sleeping groups are not
// woken: their term is published.
//
// Answers are counted in the configuration that the leader has applied when one comes, both halves of it while it
// is joint. They are no older than the question, whatever the configuration was then.

// proofRoundsMax bounds the rounds of one group that are under way; later callers wait and
// share the next one.
const proofRoundsMax = 4

// proofsAsked is how many callers may wait in rounds under way for those of other callers to begin:
// under load they wait for answers, and the questions of more of them travel together.
const proofsAsked = 8

// proofWaitersMax bounds the callers of one group that wait for a round to begin; more get no proof.
const proofWaitersMax = 64 << 10

type proofWaiter struct {
	term     uint64
	deadline time.Time // zero until the prover's next turn or tick: the clock may cost more than the rest
	done     func(ok bool, commit uint64)
}

// proofRound is one question, for one group.
type proofRound struct {
	seq, term uint64
	started   time.Time // before it was sent
	resend    time.Time
	votes     []uint64 // who has answered, the leader too
	asked     []uint64 // who has been asked
	waiters   []proofWaiter
	callers   int          // len(waiters) when it started
	few       [2][4]uint64 // backs votes and asked where voters are few
}

// groupProofs is the state of one group in the prover.
type groupProofs struct {
	g       *group
	waiting []proofWaiter // for the next round
	renew   bool          // a round is wanted for the lease
	rounds  []*proofRound // under way, oldest first
	dirty   bool          // in prover.mu.dirty
	active  bool          // in prover.mu.active
}

// prover runs the rounds of all groups. It has a slot among the step workers, whose turn starts
// the rounds that have been asked for.
type prover struct {
	h    *Host
	slot slot
	mu   struct {
		sync.Mutex
		seq     uint64
		dirty   []*groupProofs
		active  []*groupProofs // with something waiting or under way
		asked   int            // callers of all rounds under way
		overdue bool           // a tick has passed: the next turn waits for nobody
		// late are nodes that let a question wait until it was asked again; the value says whether
		// one may be asked in passing, to see whether it is back.
		late map[shard.NodeID]bool
	}
}

// outcome is a callback to run once no lock is held.
type outcome struct {
	w      proofWaiter
	ok     bool
	commit uint64
}

func report(outs []outcome) {
	for _, o := range outs {
		if o.w.done != nil {
			o.w.done(o.ok, o.commit)
		}
	}
}

func newProver(h *Host) *prover {
	p := &prover{h: h}
	p.mu.late = make(map[shard.NodeID]bool)
	p.slot.run = p.startRounds
	return p
}

// Confirm calls done(true, commit) once it is proven, by a round that started after this call,
// that this replica led term and nobody led a higher one: every entry that had been committed
// before the call is at or below commit. done(false, 0) means that the leadership is lost or
// that no proof came within an election timeout, or too many wait. A leader that has not committed an entry of its
// term yet waits for that first. done must not block; it may be called before Confirm returns.
func (h *Host) Confirm(id shard.RangeID, term uint64, done func(ok bool, commit uint64)) {
	g := h.group(id)
	if g == nil || term == 0 || g.pub.leadTerm.Load() != term {
		done(false, 0)
		return
	}
	h.prover.confirm(g, proofWaiter{term: term, done: done})
}

func (p *prover) confirm(g *group, w proofWaiter) {
	p.mu.Lock()
	gp := proofsOf(g)
	full := len(gp.waiting) >= proofWaitersMax
	if !full {
		gp.waiting = append(gp.waiting, w)
		p.markLocked(gp)
	}
	p.mu.Unlock()
	if full {
		w.done(false, 0)
		return
	}
	if g.pub.leadTerm.Load() != w.term {
		p.fail(g) // lost meanwhile; whoever reported that may have come before us
		return
	}
	p.h.steps.wake(&p.slot)
}

// proofsOf returns a group's state in the prover, which the prover's lock guards.
func proofsOf(g *group) *groupProofs {
	if g.proof == nil {
		g.proof = &groupProofs{g: g}
	}
	return g.proof
}

// markLocked puts a group on the list of those that want a round.
func (p *prover) markLocked(gp *groupProofs) {
	if !gp.dirty {
		gp.dirty = true
		p.mu.dirty = append(p.mu.dirty, gp)
	}
	if !gp.active {
		gp.active = true
		p.mu.active = append(p.mu.active, gp)
	}
}

// renewLease asks for a round whose answers prolong the lease.
func (p *prover) renewLease(g *group) {
	if g.pub.ownTerm.Load() != g.pub.leadTerm.Load() {
		return
	}
	p.mu.Lock()
	gp := proofsOf(g)
	gp.renew = true
	p.markLocked(gp)
	p.mu.Unlock()
	p.h.steps.wake(&p.slot)
}

// ownTermCommitted lets the callers go on that came before the leader's first commit.
func (p *prover) ownTermCommitted(g *group) {
	if g.cfg.Lease {
		p.renewLease(g)
		return
	}
	p.mu.Lock()
	gp := g.proof
	wanted := gp != nil && len(gp.waiting) > 0
	if wanted {
		p.markLocked(gp)
	}
	p.mu.Unlock()
	if wanted {
		p.h.steps.wake(&p.slot)
	}
}

// startRounds is the prover's turn.
func (p *prover) startRounds() {
	questions := map[shard.NodeID]*pb.ProofRound{}
	var outs []outcome
	p.mu.Lock()
	p.mu.seq++
	now := p.h.cfg.Now()
	held := p.heldLocked()
	p.mu.overdue = false
	kept := p.mu.dirty[:0]
	for _, gp := range p.mu.dirty {
		if held && !gp.g.cfg.Lease {
			kept = append(kept, gp)
			continue
		}
		gp.dirty = false
		outs = p.startLocked(gp, now, questions, outs)
	}
	clear(p.mu.dirty[len(kept):])
	p.mu.dirty = kept
	p.mu.Unlock()
	p.sendQuestions(questions)
	report(outs)
}

// heldLocked reports whether callers wait for the rounds under way.
func (p *prover) heldLocked() bool { return p.mu.asked >= proofsAsked && !p.mu.overdue }

// startLocked starts one group's round, if it may.
func (p *prover) startLocked(gp *groupProofs, now time.Time, q map[shard.NodeID]*pb.ProofRound, outs []outcome) []outcome {
	g := gp.g
	term := g.pub.leadTerm.Load()
	if term == 0 || g.pub.ownTerm.Load() != term || len(gp.rounds) >= proofRoundsMax {
		return outs // what ends this state marks the group again, or the deadline passes
	}
	if len(gp.waiting) == 0 && !gp.renew {
		return outs
	}
	r := &proofRound{seq: p.mu.seq, term: term, started: now}
	r.votes, r.asked = append(r.few[0][:0], uint64(g.cfg.Replica)), r.few[1][:0]
	for _, w := range gp.waiting {
		if w.term == term {
			w.begin(now, p.h.cfg.electionTimeout())
			r.waiters = append(r.waiters, w)
		} else {
			outs = append(outs, outcome{w: w})
		}
	}
	gp.waiting, gp.renew = nil, false
	gp.rounds = append(gp.rounds, r)
	r.callers = len(r.waiters)
	p.mu.asked += r.callers
	if conf := g.members.conf(); majority(conf.voters, r.votes) {
		return p.proveLocked(gp, len(gp.rounds)-1, conf, outs)
	}
	p.addQuestions(g, r, now, q)
	return outs
}

// begin lets the waiter's time run, if it does not yet.
func (w *proofWaiter) begin(now time.Time, patience time.Duration) {
	if w.deadline.IsZero() {
		w.deadline = now.Add(patience)
	}
}

// addQuestions adds a round's question to the frames of those who have not answered it. The first
// time it asks no more of them than make a majority: a frame less, and an answer less, for each
// round that goes well. The next tick asks all. A round that carries a lease asks all at once.
func (p *prover) addQuestions(g *group, r *proofRound, now time.Time, q map[shard.NodeID]*pb.ProofRound) {
	voters := g.members.conf().voters
	first := len(r.asked) == 0
	var leaseMs uint64
	if g.cfg.Lease {
		leaseMs = uint64(p.h.cfg.LeaseDuration.Milliseconds())
	}
	few := first && leaseMs == 0
	r.resend = now.Add(2 * p.h.cfg.TickInterval)
	if few {
		r.resend = now.Add(p.h.cfg.TickInterval / 2)
	}
	var backing [8]uint64
	hoped := append(backing[:0], r.votes...)
	for _, v := range p.inOrder(g) {
		id, node := v.id, v.node
		if slices.Contains(r.votes, id) {
			continue
		}
		if few && majority(voters, hoped) {
			if !p.mu.late[node] {
				continue
			}
			p.mu.late[node] = false // asked in passing, once a tick
		}
		if !slices.Contains(r.asked, id) {
			r.asked = append(r.asked, id)
		} else if _, known := p.mu.late[node]; !known {
			p.mu.late[node] = false
		}
		hoped = append(hoped, id)
		round := q[node]
		if round == nil || round.Seq != r.seq {
			if round != nil {
				p.sendQuestions(map[shard.NodeID]*pb.ProofRound{node: round})
			}
			round = &pb.ProofRound{Seq: r.seq}
			q[node] = round
		}
		round.Proofs = append(round.Proofs, &pb.Proof{Group: uint64(g.cfg.ID), Term: r.term, LeaseMs: leaseMs, To: id})
	}
}

// inOrder returns the voters in the order in which they are asked: as in the ring, but those last
// that are late.
func (p *prover) inOrder(g *group) []voter {
	ring := g.members.conf().ring
	if len(p.mu.late) == 0 {
		return ring
	}
	out := make([]voter, 0, len(ring))
	for _, late := range []bool{false, true} {
		for _, v := range ring {
			if _, is := p.mu.late[v.node]; is == late {
				out = append(out, v)
			}
		}
	}
	return out
}

func (p *prover) sendQuestions(q map[shard.NodeID]*pb.ProofRound) {
	for node, round := range q {
		p.h.nodes.post(node, 24*len(round.Proofs), func(f *pb.RaftFrame) { f.Rounds = append(f.Rounds, round) })
	}
}

// proveLocked ends round i, whose answers decide in conf, and those before it: a proof that is newer than asked
// for is as good.
func (p *prover) proveLocked(gp *groupProofs, i int, conf *configuration, outs []outcome) []outcome {
	g, r := gp.g, gp.rounds[i]
	commit := g.pub.commit.Load()
	ok := g.pub.leadTerm.Load() == r.term
	if ok && g.cfg.Lease {
		g.pub.lease.Store(&lease{term: r.term, conf: conf.Index, until: r.started.Add(p.h.cfg.leaderLease())})
	}
	for _, done := range gp.rounds[:i+1] {
		p.endLocked(done)
		for _, w := range done.waiters {
			o := outcome{w: w, ok: ok && w.term == r.term}
			if o.ok {
				o.commit = commit
			}
			outs = append(outs, o)
		}
	}
	gp.rounds = slices.Delete(gp.rounds, 0, i+1)
	if len(gp.waiting) > 0 || gp.renew {
		p.markLocked(gp)
	}
	return outs
}

// endLocked counts a round out that is not under way any more.
func (p *prover) endLocked(r *proofRound) { p.mu.asked -= r.callers }

// handle takes a round of another node, or its answer to one of ours.
func (p *prover) handle(from shard.NodeID, r *pb.ProofRound) {
	if r.Response {
		p.count(from, r)
		return
	}
	answer := &pb.ProofRound{Seq: r.Seq, Response: true}
	for _, pr := range r.Proofs {
		g := p.h.group(shard.RangeID(pr.Group))
		if g == nil || uint64(g.cfg.Replica) != pr.To || g.box.stoppedBy() != nil {
			continue
		}
		if pr.LeaseMs > 0 {
			g.box.receiveCall(false, func() { g.voteLease.grant(g, from, r.Seq, pr) })
		} else if g.pub.term.Load() <= pr.Term {
			answer.Proofs = append(answer.Proofs, pr)
		}
	}
	if len(answer.Proofs) > 0 {
		p.h.nodes.post(from, 24*len(answer.Proofs), func(f *pb.RaftFrame) { f.Rounds = append(f.Rounds, answer) })
	}
}

// count adds a node's answers to the rounds that they belong to.
func (p *prover) count(from shard.NodeID, r *pb.ProofRound) {
	var outs []outcome
	p.mu.Lock()
	held := p.heldLocked()
	again := false
	delete(p.mu.late, from)
	for _, pr := range r.Proofs {
		g := p.h.group(shard.RangeID(pr.Group))
		if g == nil || g.proof == nil || g.members.nodeOf(shard.ReplicaID(pr.To)) != from {
			continue
		}
		gp := g.proof
		i := slices.IndexFunc(gp.rounds, func(x *proofRound) bool { return x.seq == r.Seq && x.term == pr.Term })
		if i < 0 {
			continue
		}
		pending := gp.rounds[i]
		if !slices.Contains(pending.votes, pr.To) {
			pending.votes = append(pending.votes, pr.To)
		}
		if conf := g.members.conf(); majority(conf.voters, pending.votes) {
			outs = p.proveLocked(gp, i, conf, outs)
			again = again || gp.dirty
		}
	}
	again = again || held && !p.heldLocked() && len(p.mu.dirty) > 0
	p.mu.Unlock()
	if again {
		p.h.steps.wake(&p.slot)
	}
	report(outs)
}

// fail ends everything that waits for a group: its leadership is over.
func (p *prover) fail(g *group) {
	g.pub.lease.Store(nil)
	var outs []outcome
	p.mu.Lock()
	if gp := g.proof; gp != nil {
		outs = p.failAllLocked(gp, nil)
	}
	wake := len(p.mu.dirty) > 0
	p.mu.Unlock()
	if wake {
		p.h.steps.wake(&p.slot)
	}
	report(outs)
}

func (p *prover) failAllLocked(gp *groupProofs, outs []outcome) []outcome {
	for _, r := range gp.rounds {
		p.endLocked(r)
		for _, w := range r.waiters {
			outs = append(outs, outcome{w: w})
		}
	}
	for _, w := range gp.waiting {
		outs = append(outs, outcome{w: w})
	}
	gp.rounds, gp.waiting, gp.renew = nil, nil, false
	return outs
}

// tick ends what has waited too long, and asks again those who have not answered.
func (p *prover) tick(now time.Time) {
	questions := map[shard.NodeID]*pb.ProofRound{}
	var outs []outcome
	p.mu.Lock()
	wake := p.mu.asked > 0 && len(p.mu.dirty) > 0
	p.mu.overdue = true
	for node := range p.mu.late {
		p.mu.late[node] = true
	}
	p.mu.active = slices.DeleteFunc(p.mu.active, func(gp *groupProofs) bool {
		outs = p.expireLocked(gp, now, outs)
		for _, r := range gp.rounds {
			if !now.Before(r.resend) {
				p.addQuestions(gp.g, r, now, questions)
			}
		}
		if len(gp.waiting) > 0 {
			p.markLocked(gp)
			wake = true
		}
		gp.active = gp.dirty || len(gp.rounds) > 0 || len(gp.waiting) > 0
		return !gp.active
	})
	p.mu.Unlock()
	p.sendQuestions(questions)
	if wake {
		p.h.steps.wake(&p.slot)
	}
	report(outs)
}

// expireLocked fails the waiters whose deadline has passed, and drops rounds that nobody answers.
func (p *prover) expireLocked(gp *groupProofs, now time.Time, outs []outcome) []outcome {
	patience := p.h.cfg.electionTimeout()
	late := func(w proofWaiter) bool {
		if now.Before(w.deadline) {
			return false
		}
		outs = append(outs, outcome{w: w})
		return true
	}
	for i := range gp.waiting {
		gp.waiting[i].begin(now, patience)
	}
	gp.waiting = slices.DeleteFunc(gp.waiting, late)
	for _, r := range gp.rounds {
		r.waiters = slices.DeleteFunc(r.waiters, late)
	}
	gp.rounds = slices.DeleteFunc(gp.rounds, func(r *proofRound) bool {
		over := len(r.waiters) == 0 && now.Sub(r.started) >= patience
		if over {
			p.endLocked(r)
		}
		return over
	})
	return outs
}

// close fails everything, for a host that stops.
func (p *prover) close() {
	var outs []outcome
	p.mu.Lock()
	for _, gp := range p.mu.active {
		outs = p.failAllLocked(gp, outs)
	}
	p.mu.active = nil
	p.mu.Unlock()
	report(outs)
}
