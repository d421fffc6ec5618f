package meta

import (
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// heard is what the nodes have told in one round of questions, and how they are seen since. It is never written once it is made.
type heard struct {
	at      time.Time         // by the host's clock
	now     placement.Seconds // the same for people
	told    map[shard.NodeID]*pb.NodeStatusResponse
	pulses  map[shard.NodeID]pulse
	leaders map[shard.RangeID]led
}

// led is what the leader of a range has told of it.
type led struct {
	node shard.NodeID
	term uint64
	// What else is told; status is nil where only the lead is known.
	replica    uint64
	generation shard.Generation
	status     *pb.RangeStatusResponse
}

// pulse is how a node has been seen by this leader of the meta group.
type pulse struct {
	liveness placement.Liveness
	since    placement.Seconds // of a silent one: since when it is
	late     placement.Seconds // when it has not answered the last question, but all before; 0: it has
}

// next is a node's pulse once it was asked again. One that is silent is dead if gossip says so too; or, whatever
// that says, after twice the time in which a dead one counts as lost.
func (p pulse) next(known, answered, alive bool, now, deadAfter placement.Seconds) pulse {
	switch {
	case answered && known && p.liveness == placement.Up:
		p.late = 0
		return p
	case answered:
		return pulse{liveness: placement.Up, since: now}
	case known && p.liveness == placement.Up && p.late == 0 && !mutate.On(mutate.PlannerImpatient):
		// One question is too few to call a node silent that has too much to do, and that is to be relieved: what it has told before stands until the next.
		p.late = now
		return p
	case p.late != 0:
		p.since = p.late
	case !known || p.liveness == placement.Up:
		p.since = now
	}
	p.late = 0
	if p.liveness = placement.Dead; alive && now-p.since < 2*deadAfter && !mutate.On(mutate.PlannerHasty) {
		p.liveness = placement.Suspect
	}
	return p
}

// hear makes what nodes have told to what is known, which has come before it: nil: nothing. It returns which ranges are led by another node than
// before.
func (h *heard) hear(asked []shard.NodeID, told map[shard.NodeID]*pb.NodeStatusResponse, c *Placement, at time.Time, now placement.Seconds) (*heard, []shard.RangeID) {
	next := &heard{at: at, now: now, told: told, pulses: make(map[shard.NodeID]pulse, len(asked))}
	deadAfter := placement.Seconds(c.DeadAfter / time.Second)
	for _, node := range asked {
		var was pulse
		known := false
		if h != nil {
			was, known = h.pulses[node]
		}
		is := was.next(known, told[node] != nil, c.Alive(node), now, deadAfter)
		if is.late != 0 {
			told[node] = h.told[node]
		}
		next.pulses[node] = is
	}
	var before map[shard.RangeID]led
	if h != nil {
		before = h.leaders
	}
	var moved []shard.RangeID
	next.leaders, moved = leaders(told, before)
	return next, moved
}

// leads reports whether a range is led by the node that tells of it.
func leads(st *pb.RangeStatusResponse, node shard.NodeID) bool {
	for _, r := range st.Descriptor_.GetReplicas() {
		if r.ReplicaId == st.Leader {
			return r.NodeId == uint64(node)
		}
	}
	return false
}

// leaders picks the words of leaders: what others have may be behind, or lost. Of two that lead, the later term counts. moved are the ranges that are led by
// another node than before.
func leaders(told map[shard.NodeID]*pb.NodeStatusResponse, before map[shard.RangeID]led) (out map[shard.RangeID]led, moved []shard.RangeID) {
	n := 0
	for _, resp := range told {
		n += len(resp.Ranges)
	}
	out = make(map[shard.RangeID]led, n)
	type claim struct {
		node shard.NodeID
		st   *pb.RangeStatusResponse
	}
	var news []claim
	for node, resp := range told {
		for _, st := range resp.Ranges {
			id := shard.RangeID(st.Descriptor_.GetRangeId())
			if was := before[id]; was.node == node && was.replica == st.Leader { // a replica stays on its node
				out[id] = ledBy(node, st)
				continue
			}
			if leads(st, node) || mutate.On(mutate.SizeOfFollower) {
				news = append(news, claim{node, st})
			}
		}
	}
	for _, c := range news {
		id := shard.RangeID(c.st.Descriptor_.GetRangeId())
		if now, twice := out[id]; !twice || now.term < c.st.Term {
			out[id] = ledBy(c.node, c.st)
		}
	}
	for _, c := range news {
		id := shard.RangeID(c.st.Descriptor_.GetRangeId())
		if was, known := before[id]; known && was.node != out[id].node {
			moved = append(moved, id)
		}
	}
	return out, moved
}

func ledBy(node shard.NodeID, st *pb.RangeStatusResponse) led {
	return led{node: node, term: st.Term, replica: st.Leader, generation: shard.Generation(st.Descriptor_.GetGeneration()), status: st}
}
