package raftgroup

import (
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/shard"
)

// leaderMoves are a host's calls that hand leaderships over.
type leaderMoves struct{ h *Host }

// leaderMove is a leader transfer whose outcome somebody waits for. It belongs to the step worker.
type leaderMove struct {
	done  func(error) // nil: none is under way
	to    shard.ReplicaID
	asked shard.ReplicaID // it has been told to campaign; 0: nobody is fit yet
}

// HandOver lets this replica, which leads term, hand the leadership over: to replica to, or where that is 0 to any
// voter that is fit. Fit is who holds the whole log, and whose node was heard within the last two heartbeats and is
// not about to stop; that is waited for, unless nobody lives who could be. Nothing is proposed in this term from the moment in which it is asked to campaign. done is called
// once, on a worker: with nil when this replica leads the term no more, otherwise with the reason why it goes on to.
// It is not called when an error is returned, nor when the group stops. Nothing bounds the wait but AbortHandOver.
func (l leaderMoves) HandOver(id shard.RangeID, term uint64, to shard.ReplicaID, done func(error)) error {
	g := l.h.group(id)
	if g == nil || !g.box.call(func() { g.role.move.begin(g, term, to, done) }) {
		return shard.ErrUnavailable
	}
	return nil
}

// AbortHandOver ends the wait of HandOver: this replica proposes again, if it leads term still. Who was asked to
// campaign may do so yet.
func (l leaderMoves) AbortHandOver(id shard.RangeID, term uint64) {
	if g := l.h.group(id); g != nil {
		g.box.call(func() { g.role.move.abort(g, term) })
	}
}

// Leave says that this node is about to stop. No leadership is handed to it any more: others are told so with every
// frame, and what has crossed that is not heeded.
func (l leaderMoves) Leave() { l.h.nodes.leaving.Store(true) }

// HasHeir reports whether another voter of the group lives, as far as this node knows, and is not about to stop.
func (l leaderMoves) HasHeir(id shard.RangeID) bool {
	g := l.h.group(id)
	return g != nil && g.hasHeir()
}

func (g *group) hasHeir() bool {
	conf := g.members.conf()
	for id := range conf.voters.IDs() {
		if r := shard.ReplicaID(id); r != g.cfg.Replica && g.h.nodes.takesOver(conf.nodeOf(r)) {
			return true
		}
	}
	return false
}

func (m *leaderMove) begin(g *group, term uint64, to shard.ReplicaID, done func(error)) {
	voters, st := g.members.conf().voters.IDs(), g.rn.BasicStatus()
	_, votes := voters[uint64(to)]
	switch {
	case st.RaftState != raft.StateLeader || st.GetTerm() != term:
		done(g.notLeader())
	case m.done != nil || g.handover.why != nil || st.LeadTransferee != raft.None:
		done(fmt.Errorf("%w: %v is being handed over already", shard.ErrTooManyRequests, g.cfg.ID))
	case to != 0 && (!votes || to == g.cfg.Replica):
		done(fmt.Errorf("%w: replica %d is no other voter of %v", shard.ErrInvalid, to, g.cfg.ID))
	case to == 0 && !g.hasHeir():
		done(fmt.Errorf("%w: nobody can take over %v", shard.ErrUnavailable, g.cfg.ID))
	default:
		*m = leaderMove{done: done, to: to}
		m.advance(g)
	}
}

// advance asks the first that is fit to campaign.
func (m *leaderMove) advance(g *group) {
	if m.asked != 0 {
		return
	}
	for _, c := range m.candidates(g) {
		if c.unfit == "" {
			m.asked = c.id
			g.transfer(c.id)
			return
		}
	}
}

// candidate is a voter that may take over, and why it is not fit to, if so.
type candidate struct {
	id    shard.ReplicaID
	node  shard.NodeID
	unfit string
}

// candidates are the other voters, or the one that was named. Their order is turned by the group's id, so that the
// leaderships of a node spread over all others.
func (m *leaderMove) candidates(g *group) []candidate {
	var all []candidate
	g.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		c := candidate{id: shard.ReplicaID(id), node: g.members.nodeOf(shard.ReplicaID(id))}
		if typ != raft.ProgressTypePeer || c.id == g.cfg.Replica || m.to != 0 && c.id != m.to {
			return
		}
		if c.unfit = g.h.nodes.unfit(&g.h.cfg, c.node, pr, g.appends.last, 0); c.unfit == "" && !g.h.nodes.takesOver(c.node) {
			c.unfit = "is about to stop"
		}
		all = append(all, c)
	})
	slices.SortFunc(all, func(a, b candidate) int { return int(a.id) - int(b.id) })
	if n := len(all); n > 1 {
		turn := int(uint64(g.cfg.ID) % uint64(n))
		all = slices.Concat(all[turn:], all[:turn])
	}
	return all
}

// roleChanged is told that this replica leads another term, or none.
func (m *leaderMove) roleChanged() {
	done := m.done
	*m = leaderMove{}
	done(nil)
}

// abort lets the leader go on, and says why nobody has taken over.
func (m *leaderMove) abort(g *group, term uint64) {
	if m.done == nil || g.role.Term != term {
		return
	}
	var why []string
	for _, c := range m.candidates(g) {
		switch {
		case c.id == m.asked:
			why = append(why, fmt.Sprintf("the replica on node %v was asked, and did not take over in time", c.node))
		case m.asked == 0:
			why = append(why, fmt.Sprintf("the replica on node %v %s", c.node, c.unfit))
		}
	}
	done, asked := m.done, m.asked
	*m = leaderMove{}
	if asked != 0 {
		g.rn.TransferLeader(uint64(g.cfg.Replica)) // which ends a transfer to another
	}
	done(fmt.Errorf("%w: %s", shard.ErrTimeout, strings.Join(why, "; ")))
}
