package raftgroup_test

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// TestChanges runs a group with a lease, whose replicas come and go on five nodes, through random schedules and faults.
func TestChanges(t *testing.T) {
	first, last := int64(1), *simSeeds
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	changes, removed := 0, 0
	for seed := first; seed <= last; seed++ {
		s := newChangeSim(t, seed)
		if err := s.run(); err != nil {
			t.Fatalf("%v\nagain: go test ./raftgroup -run TestChanges -seed=%d -steps=%d", err, seed, *simSteps)
		}
		changes += s.changes
		removed += s.removed
	}
	if (changes == 0 || removed == 0) && first != last {
		t.Fatalf("%d changes, %d replicas removed", changes, removed)
	}
	t.Logf("%d changes, %d replicas removed", changes, removed)
}

// changeSim is a simulation of one group. What it knows of replica ids and of the newest descriptor is what a meta
// group would.
type changeSim struct {
	*sim
	where   simtest.Places // every replica that ever was
	changes int
	removed int
}

const changing shard.RangeID = 1

func newChangeSim(t *testing.T, seed int64) *changeSim {
	cryptotest.SetGlobalRandom(t, uint64(seed))
	s := &changeSim{
		sim: &sim{
			rnd:     rand.New(rand.NewSource(seed)),
			c:       simtest.NewCluster(5),
			groups:  []shard.RangeID{changing},
			history: map[shard.RangeID][]simtest.Applied{},
			checked: map[*simtest.Machine]int{},
			dropped: map[string]bool{},
		},
		where: simtest.Places{1: 1, 2: 2, 3: 3},
	}
	s.c.Config = func(c *raftgroup.Config) {
		c.Choose = s.rnd.Intn
		c.CatchUpEntries = 64
	}
	s.c.First = 1
	s.c.AddGroup(raftgroup.GroupConfig{ID: changing, Lease: true}, 1, 2, 3)
	if seed%2 == 0 {
		for _, n := range s.c.Nodes[:3] {
			n.Machines[changing].AutoFlush = false
		}
	}
	return s
}

func (s *changeSim) run() error {
	if err := s.c.StartAll(); err != nil {
		return err
	}
	for i := 0; i < *simSteps && s.err == nil; i++ {
		s.act()
		s.check()
	}
	s.recover()
	return s.err
}

func (s *changeSim) act() {
	n := s.someNode()
	m := n.Machines[changing]
	switch k := s.rnd.Intn(1000); {
	case k < 400:
		for range 1 + s.rnd.Intn(4) {
			if n.Host != nil {
				n.Host.Step()
			}
		}
		s.c.Revive(n)
	case k < 750:
		for range 1 + s.rnd.Intn(4) {
			s.c.Net.DeliverSome(s.rnd.Intn)
		}
	case k < 850:
		s.tickSome()
	case k < 880 && m != nil:
		s.propose(n, changing)
	case k < 910:
		s.confirm(n, changing)
	case k < 920 && m != nil:
		m.Flush()
	case k < 970 && n.Host != nil:
		s.change(n)
	case k < 973 && n.Host != nil && m != nil:
		ids := s.members()
		n.Host.TransferLeader(changing, ids[s.rnd.Intn(len(ids))])
	case k < 983:
		s.c.Net.Heal()
	case k < 988:
		s.c.Net.Cut(n.ID, s.someNode().ID)
	case k < 990:
		s.c.Net.Isolate(n.ID)
	case k < 994 && n.Host != nil:
		s.c.Crash(n.ID)
	case n.Host == nil:
		if err := s.c.Start(n.ID); err != nil {
			s.failf("start %v: %w", n.ID, err)
		}
	}
}

func (s *changeSim) tickSome() {
	s.c.Clock.Advance(100 * time.Millisecond)
	for _, n := range s.c.Nodes {
		if n.Host != nil && s.rnd.Intn(10) > 0 {
			n.Host.Tick()
		}
	}
}

// newest is the newest descriptor that anybody has applied.
func (s *changeSim) newest() simtest.Places {
	places, at := simtest.Places{1: 1, 2: 2, 3: 3}, uint64(0)
	for _, n := range s.c.Nodes {
		if m := n.Machines[changing]; m != nil && m.State.Index > at && m.State.Places != nil {
			places, at = m.State.Places, m.State.Index
		}
	}
	return places
}

func (s *changeSim) members() (ids []shard.ReplicaID) {
	for id := range s.newest() {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// change proposes the next step, if the node leads; else it gives its replica up, if that is no member any more.
func (s *changeSim) change(n *simtest.Node) {
	st, ok := n.Host.Status(changing)
	if !ok {
		return
	}
	if !st.IsLeader {
		s.giveUp(n)
		return
	}
	conf := st.Conf
	c, ok := s.step(conf.State, st)
	if !ok {
		return
	}
	c.From, c.Context = conf.Index, s.describe(conf.State, c)
	s.changes++
	if err := n.Host.ChangeConfig(changing, st.Term, c, func(error) { s.changes-- }); err != nil {
		s.changes--
	}
}

// giveUp takes a replica off that the newest descriptor does not name.
func (s *changeSim) giveUp(n *simtest.Node) {
	id := n.Replica(changing)
	if s.newest()[id] != 0 || n.Lost(changing) || s.rnd.Intn(4) > 0 {
		return
	}
	if err := s.c.Leave(n.ID, changing); err != nil {
		s.failf("node %v gives replica %d up: %w", n.ID, id, err)
	}
	s.removed++
}

// step says what may come next.
func (s *changeSim) step(cs *raftpb.ConfState, st raftgroup.Status) (c raftgroup.ConfChange, ok bool) {
	voters, learners := cs.GetVoters(), cs.GetLearners()
	switch {
	case len(cs.GetVotersOutgoing()) > 0:
		c.Kind = raftgroup.LeaveJoint
	case len(learners) > 0:
		id := shard.ReplicaID(learners[0])
		if !s.caughtUp(id, st.Commit) || s.rnd.Intn(10) == 0 {
			return raftgroup.ConfChange{Kind: raftgroup.RemoveLearner, Out: id}, s.rnd.Intn(6) == 0
		}
		c.Kind, c.In = raftgroup.EnterJoint, id
		if len(voters) > 3 || len(voters) == 3 && s.rnd.Intn(4) > 0 {
			c.Out = shard.ReplicaID(voters[s.rnd.Intn(len(voters))])
		}
	case len(voters) > 3 && s.rnd.Intn(3) == 0:
		c.Kind, c.Out = raftgroup.EnterJoint, shard.ReplicaID(voters[s.rnd.Intn(len(voters))])
	default:
		return s.join()
	}
	return c, true
}

// join makes a node hold a new replica, which is to be added.
func (s *changeSim) join() (raftgroup.ConfChange, bool) {
	n := s.someNode()
	if n.Host == nil || n.Replica(changing) != 0 {
		return raftgroup.ConfChange{}, false
	}
	id := shard.ReplicaID(len(s.where) + 1)
	s.where[id] = n.ID
	err := s.c.Join(n.ID, changing, id, s.rnd.Intn(2) == 0)
	if err != nil {
		return raftgroup.ConfChange{}, false // the replica before is being taken off
	}
	return raftgroup.ConfChange{Kind: raftgroup.AddLearner, In: id}, true
}

// caughtUp reports whether a replica lives and has nearly everything.
func (s *changeSim) caughtUp(id shard.ReplicaID, commit uint64) bool {
	n := s.c.Node(s.where[id])
	return n.Host != nil && n.Replica(changing) == id && n.Machines[changing].State.Index+10 > commit
}

// describe is the descriptor after a step.
func (s *changeSim) describe(cs *raftpb.ConfState, c raftgroup.ConfChange) []byte {
	places := simtest.Places{}
	for _, id := range slices.Concat(cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing()) {
		places[shard.ReplicaID(id)] = s.where[shard.ReplicaID(id)]
	}
	switch c.Kind {
	case raftgroup.LeaveJoint:
		for _, id := range cs.GetVotersOutgoing() {
			if !slices.Contains(cs.GetVoters(), id) {
				delete(places, shard.ReplicaID(id))
			}
		}
	case raftgroup.RemoveLearner:
		delete(places, c.Out)
	default:
		if c.In != 0 {
			places[c.In] = s.where[c.In]
		}
	}
	b, err := json.Marshal(places)
	if err != nil {
		panic(err)
	}
	return b
}

// recover ends all faults: the members must come back, with everything that anybody applied, and their machines
// must name the members that Raft has.
func (s *changeSim) recover() {
	s.c.Net.Heal()
	for _, n := range s.c.Nodes {
		if n.Host == nil {
			if err := s.c.Start(n.ID); err != nil {
				s.failf("start %v: %w", n.ID, err)
				return
			}
		}
	}
	s.c.Tick(80)
	lead, term := s.c.Leader(changing)
	if lead == 0 {
		s.failf("no leader after all faults ended: %s", s.describeAll())
		return
	}
	h := s.c.Node(lead).Host
	if err := h.Propose(changing, term, []byte("last")); err != nil {
		s.failf("propose at the end: %w", err)
	}
	s.c.Tick(20)
	s.check()
	st, _ := h.Status(changing)
	conf := st.Conf
	members := s.newest()
	for id, node := range members {
		n := s.c.Node(node)
		if n.Replica(changing) != id {
			continue // a learner that was given up before it was added
		}
		m := n.Machines[changing]
		if !slices.Equal(m.State.Entries, s.history[changing]) {
			s.failf("replica %d has %d entries, want %d: %s", id, len(m.State.Entries), len(s.history[changing]), s.describeAll())
			return
		}
	}
	for _, id := range slices.Concat(conf.State.GetVoters(), conf.State.GetLearners(), conf.State.GetVotersOutgoing()) {
		if members[shard.ReplicaID(id)] == 0 {
			s.failf("replica %d is in the configuration and not in the descriptor: %s", id, s.describeAll())
		}
	}
}

func (s *changeSim) describeAll() string {
	out := fmt.Sprintf("newest %v", s.newest())
	for _, n := range s.c.Nodes {
		if n.Host == nil || n.Replica(changing) == 0 {
			continue
		}
		st, _ := n.Host.Status(changing)
		conf := st.Conf
		st.Conf = raftgroup.Conf{}
		out += fmt.Sprintf("\nnode %v replica %d: %+v at %d: %v%s", n.ID, n.Replica(changing), st, conf.Index, conf.State.GetVoters(), confSuffix(conf.State))
	}
	return out
}
