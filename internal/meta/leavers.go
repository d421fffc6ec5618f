package meta

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// leavers looks after the members that were removed. Who has removed one ends its process next, so the answer to that waits until no group would lose its
// majority by it; and a member on which nothing is placed any more is forgotten.
//
// Who waits asks for it by a call of its own, which changes nothing, and asks again where a leadership ends. Methods are called with the lock held.
type leavers struct {
	m          *Meta
	forgetting bool         // an entry that ends a member is on its way
	waiting    []leaverCall // at most leaverCallsMax; who has given up goes with the next look
	looking    bool
	due        time.Time // of the next look
}

// leaverCall waits until a member is dispensable.
type leaverCall struct {
	*call
	member shard.NodeID
}

// errLeaning is why a member is not dispensable yet.
var errLeaning = errors.New("groups would lose their majority with the member that was removed: it is to stay until it is answered that it was")

// wait answers c once no group needs the member.
func (l *leavers) wait(c *call, member shard.NodeID) {
	switch m, there := l.m.state.Member(member); {
	case !there:
		c.members(0)
	case m.State != shard.MemberLeaving:
		c.fail(fmt.Errorf("%w: %v was not removed", shard.ErrInvalid, member))
	case len(l.waiting) >= leaverCallsMax:
		c.fail(shard.ErrTooManyRequests)
	default:
		l.waiting = append(l.waiting, leaverCall{c, member})
		l.look()
	}
}

// tick looks again, and forgets who has nothing any more.
func (l *leavers) tick(now time.Time) {
	if !now.Before(l.due) {
		l.look()
	}
	l.forget()
}

// look finds out, without the lock, which of the members that somebody waits for are dispensable.
func (l *leavers) look() {
	if l.looking || len(l.waiting) == 0 {
		return
	}
	m, term := l.m, l.m.lead.ownTerm
	l.looking = true
	var ids []shard.NodeID
	for _, c := range l.waiting {
		ids = append(ids, c.member)
	}
	n := need{groups: m.state.Map(), meta: m.state.Meta(), moves: movesOf(m.state.OpsUnderWay()), members: m.state.Members()}
	filed := !m.unfiled() || mutate.On(mutate.RemovedUnfiled) // a crash must not take back that the group does without the member
	m.wg.Go(func() {
		began := m.cfg.Now()
		n.alive = m.reach()
		leans := make(map[shard.NodeID]bool, len(ids))
		for _, id := range ids {
			if _, twice := leans[id]; !twice {
				leans[id] = !filed || n.of(id)
			}
		}
		took := m.cfg.Now().Sub(began)
		m.mu.Lock()
		defer m.mu.unlock()
		if m.lead.ownTerm != term {
			return // who waited has been told
		}
		l.looking, l.due = false, m.cfg.Now().Add(planShare*took)
		l.looked(leans)
	})
}

// looked answers those who wait for a member that no group needs, and those who have given up.
func (l *leavers) looked(leans map[shard.NodeID]bool) {
	waiting := l.waiting
	l.waiting = nil
	for _, c := range waiting {
		switch leant, known := leans[c.member]; {
		case known && !leant || mutate.On(mutate.RemovedAtOnce): // and nobody else has led meanwhile, who may know better
			l.m.mu.later(func() { c.read(func() { c.members(0) }) })
		case c.ctx.Err() != nil:
			c.fail(fmt.Errorf("%w: %w", shard.ErrTimeout, errLeaning))
		default:
			l.waiting = append(l.waiting, c)
		}
	}
}

// forget ends the removed members on which nothing is placed any more, one after the other; not before who waits for one is answered, who may be on it.
func (l *leavers) forget() {
	m := l.m
	for _, id := range m.state.Forgettable() {
		if l.forgetting || slices.ContainsFunc(l.waiting, func(c leaverCall) bool { return c.member == id }) {
			continue
		}
		l.forgetting = true
		m.log.propose(&pb.MetaEntry{ForgetMember: &pb.MetaForgetMember{Id: uint64(id)}}, func(r state.Result) {
			l.forgetting = false
			if r.Err == nil {
				m.mu.later(func() {
					m.cfg.Logger.Info("a removed member holds nothing any more, and is forgotten", "member", id.String())
				})
			}
		})
	}
}

// stepDown lets those who wait ask whoever leads next.
func (l *leavers) stepDown(why error) {
	waiting := l.waiting
	*l = leavers{m: l.m}
	for _, c := range waiting {
		c.fail(why)
	}
}

// need is what there is to say whether groups need a member: all of one moment, and nothing of it is written.
type need struct {
	groups  *shard.Map
	meta    shard.Descriptor
	moves   map[shard.RangeID]*shard.Op // under way
	members []shard.Member
	alive   reach
}

// movesOf are those of ops that move replicas, by range.
func movesOf(ops []shard.Op) map[shard.RangeID]*shard.Op {
	out := make(map[shard.RangeID]*shard.Op)
	for i := range ops {
		if ops[i].Kind == shard.OpMove {
			out[ops[i].Range] = &ops[i]
		}
	}
	return out
}

// of reports whether a group would be without a majority if a member died. Those count that are within reach and are to stay: who was removed may die,
// too.
func (n *need) of(member shard.NodeID) bool {
	counts := make(map[shard.NodeID]bool, len(n.members))
	for i := range n.members {
		m := &n.members[i]
		counts[m.ID] = m.ID != member && (m.State != shard.MemberLeaving || mutate.On(mutate.RemovedCounts)) && n.alive.has(m.ID, 0)
	}
	if n.leans(&n.meta, member, counts) {
		return true
	}
	for d := range n.groups.All() {
		if n.leans(&d, member, counts) {
			return true
		}
	}
	return false
}

// leans reports it of one group. Its log may be a step ahead of what is known of it here: where it is being moved, the configuration that comes and the one
// that goes have to do without the member.
func (n *need) leans(d *shard.Descriptor, member shard.NodeID, counts map[shard.NodeID]bool) bool {
	op := n.moves[d.ID]
	if mutate.On(mutate.RemovedBehind) {
		op = nil
	}
	r, holds := d.ReplicaOn(member)
	if (!holds || !r.Votes()) && (op == nil || op.To.Node != member) {
		return false
	}
	var old, next electorate
	for _, r := range d.Replicas {
		comes, goes := r.Role == shard.Joining, r.Role == shard.Leaving
		if op != nil && r.ID == op.To.ID || !r.Votes() {
			continue
		}
		if !comes {
			old.add(counts[r.Node])
		}
		if !goes && (op == nil || r.ID != op.From.ID) {
			next.add(counts[r.Node])
		}
	}
	if op != nil && op.To.ID != 0 && op.To.Role != shard.Learner {
		next.add(counts[op.To.Node])
	}
	return !old.majority() || !next.majority()
}

// electorate counts voters, and those of them on whom one may count.
type electorate struct{ voters, count int }

func (e *electorate) add(counts bool) {
	e.voters++
	if counts {
		e.count++
	}
}

func (e *electorate) majority() bool { return e.count > e.voters/2 }
