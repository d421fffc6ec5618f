package meta

import (
	"fmt"
	"time"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// reachedFor is how long a member must have been within reach without a break to count where majorities are reckoned, as in etcd.
const reachedFor = 5 * time.Second

// reach is for how long each node has been within reach of this one, which is always; nil: nobody knows, and all count.
type reach map[shard.NodeID]time.Duration

// has reports whether a node is within reach, and has been for so long.
func (r reach) has(node shard.NodeID, atLeast time.Duration) bool {
	d, ok := r[node]
	return r == nil || ok && d >= atLeast
}

// reach asks the host. Called without the lock.
func (m *Meta) reach() reach {
	if m.cfg.Reach == nil {
		return nil
	}
	r := reach(m.cfg.Reach())
	if r != nil {
		r[m.cfg.Node] = reachedFor
	}
	return r
}

// changeMember decides a change of the members, and answers with what they are then. What the log refuses, by etcd's rules, package state
// says; here is what depends on who is alive.
func (c *call) changeMember(req *pb.ChangeMemberRequest) {
	alive := c.m.reach()
	c.m.read(c.epoch, leaderRead{write: true, fail: c.fail, run: func() {
		if m, _ := c.m.state.Member(shard.NodeID(req.Id)); shard.MemberChange(req.Change) == shard.MemberRemove && m.State == shard.MemberLeaving {
			c.members(m.ID) // whoever asks again has not been answered, or wants to wait for longer
			return
		}
		e, err := state.ChangeOf(c.m.state, req, c.m.cfg.Wall())
		if err == nil {
			err = c.m.state.EnoughStarted(e)
		}
		if err == nil {
			err = mayChange(c.m.state, req, alive)
		}
		if err != nil {
			c.fail(err)
			return
		}
		if m, _ := c.m.state.Member(shard.NodeID(req.Id)); e.PromoteMember != nil && m.Learner {
			c.m.moves.learners.promote(c, e)
			return
		}
		if !req.Strict || shard.MemberChange(req.Change) != shard.MemberRemove {
			c.proposeMember(e)
			return
		}
		ranges, members := c.m.state.Map(), c.m.state.Members()
		c.m.wg.Go(func() { // it may look at every range, and the oracle needs the lock
			err := keepsMajorities(ranges, members, shard.NodeID(req.Id), alive)
			c.m.mu.Lock()
			defer c.m.mu.unlock()
			if err != nil {
				c.fail(err)
				return
			}
			c.proposeMember(e)
		})
	}})
}

func (c *call) proposeMember(e *pb.MetaEntry) {
	c.propose(e, func(r state.Result) { c.members(r.Member) })
}

// serveMembers answers with all of them, where a member is named once no group needs that one any more.
func serveMembers(c *call, dispensable shard.NodeID) {
	c.read(func() {
		if dispensable != 0 {
			c.m.own.leavers.wait(c, dispensable)
			return
		}
		c.members(0)
	})
}

// members answers with all of them.
func (c *call) members(changed shard.NodeID) {
	s := c.m.state
	out := &pb.MembersResponse{Id: uint64(changed), Members: pb.FromMembers(s.Members())}
	for _, m := range s.Members() {
		out.Replicas = append(out.Replicas, uint32(s.Placed(m.ID)))
	}
	c.reply(&pb.PeerResponse{Members: out}, nil)
}

// mayChange refuses what would cost a majority of the members, as etcd does.
func mayChange(s *state.State, req *pb.ChangeMemberRequest, alive reach) error {
	id := shard.NodeID(req.Id)
	m, known := s.Member(id)
	var voting, reached int
	for _, o := range shard.PresentMembers(s.Members()) {
		if o.Learner {
			continue
		}
		voting++
		if alive.has(o.ID, reachedFor) {
			reached++
		}
	}
	need := 0
	switch shard.MemberChange(req.Change) {
	case shard.MemberAdd:
		if req.Strict && voting > 1 { // also for a learner, which does not vote: as etcd
			need = (voting+1)/2 + 1 // the new one does not count yet
		}
	case shard.MemberRemove:
		if req.Strict && known && m.State != shard.MemberLeaving && !m.Learner && alive.has(id, 0) { // else it is part of no majority
			need = 1 + (voting-1)/2 + 1
		}
	}
	if reached < need {
		return fmt.Errorf("%w: %d of %d voting members have been within reach for %v, and %d must", shard.ErrUnhealthy, reached, voting, reachedFor, need)
	}
	return nil
}

// keepsMajorities refuses the removal of a member that holds a voter of a range which has lost its majority: such a range cannot be moved away.
func keepsMajorities(ranges *shard.Map, members []shard.Member, id shard.NodeID, alive reach) error {
	all := true
	for i := range members {
		all = all && (alive.has(members[i].ID, 0) || !members[i].HasStarted())
	}
	if all {
		return nil
	}
	for d := range ranges.All() {
		r, holds := d.ReplicaOn(id)
		if holds && r.Votes() && !(majority(&d, shard.Joining, alive) && majority(&d, shard.Leaving, alive)) {
			return fmt.Errorf("%w: most voters of %v, %v, are out of reach: its replica on %v could not be moved away", shard.ErrUnhealthy, d.ID, d.Span, id)
		}
	}
	return nil
}

// majority reports whether most of those are within reach that vote in a range with or without those of the given role: the configuration that
// comes, or the one that goes.
func majority(d *shard.Descriptor, with shard.Role, alive reach) bool {
	var e electorate
	for _, r := range d.Replicas {
		if r.Role == shard.Voter || r.Role == with {
			e.add(alive.has(r.Node, 0))
		}
	}
	return e.majority()
}
