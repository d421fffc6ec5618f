package raftgroup

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// members is who takes part in a group, as Raft's configuration has it. Anybody may read it.
type members struct {
	index uint64 // of the last change that is in it, or that is being written; the step worker's
	now   atomic.Pointer[configuration]
	ahead atomic.Pointer[Conf] // as of what the state machine has been given; the apply lane's
	mu    struct {
		sync.Mutex // held by whoever replaces now
		left       bool
	}
}

// placesMax bounds the replicas of a group whose node is known: of those that nobody has named more than that are
// not answered.
const placesMax = 64

// latest is the newest configuration that anything here knows of: a state that is written now is of it or older.
func (m *members) latest() Conf {
	now := m.conf().Conf
	if a := m.ahead.Load(); a != nil && a.Index > now.Index {
		return *a
	}
	return now
}

// place notes where the replicas live, nil: as before.
func (m *members) place(g *group, places map[shard.ReplicaID]shard.NodeID) {
	if places == nil {
		places = m.conf().places
	} else if places[g.cfg.Replica] == 0 { // it has been removed
		places = maps.Clone(places)
		places[g.cfg.Replica] = g.h.cfg.Node
	}
	m.set(g.h.nodes, g.configuration(g.store.state.Conf, places))
}

// set puts a configuration in the place of the one before.
func (m *members) set(n *nodes, c *configuration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setLocked(n, c)
}

func (m *members) setLocked(n *nodes, c *configuration) {
	before := m.now.Swap(c)
	if m.mu.left || before == nil || maps.Equal(before.places, c.places) {
		return
	}
	n.count(c.places, 1)
	n.count(before.places, -1)
}

// learn notes where a replica lives that has spoken from a node and that nobody has named: whoever leads a group
// later than this replica knows may be a stranger to it. It reports whether that is so.
func (m *members) learn(g *group, id shard.ReplicaID, node shard.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.conf()
	if at := c.nodeOf(id); at != 0 || m.mu.left || len(c.places) >= placesMax || id == 0 {
		return at == node
	}
	places := maps.Clone(c.places)
	places[id] = node
	m.setLocked(g.h.nodes, newConfiguration(&g.cfg, g.h.cfg.Node, c.Conf, c.voters, places))
	return true
}

// leave is for a group that is taken off: its nodes are not counted any more.
func (m *members) leave(n *nodes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.mu.left {
		m.mu.left = true
		n.count(m.conf().places, -1)
	}
}

// configuration is a group's configuration at one moment, with what follows from it. It is immutable.
type configuration struct {
	Conf
	voters quorum.JointConfig
	ring   []voter // the voters from the node behind this one on; see newConfiguration
	others []voter // all replicas but the own one, in the order of their ids
	self   shard.ReplicaID
	group  shard.RangeID
	places map[shard.ReplicaID]shard.NodeID // of all replicas that are known, members or not
}

// voter is a replica whose node is known.
type voter struct {
	id   uint64
	node shard.NodeID
}

// newConfiguration is the configuration of a replica that lives on a node. In its ring the voters come from
// the node behind that one on, so that nodes share the work of answering, and the questions of all groups
// between two nodes travel together.
func newConfiguration(cfg *GroupConfig, node shard.NodeID, conf Conf, voters quorum.JointConfig, places map[shard.ReplicaID]shard.NodeID) *configuration {
	c := &configuration{Conf: conf, voters: voters, self: cfg.Replica, group: cfg.ID, places: places}
	for id := range voters.IDs() {
		if n := c.nodeOf(shard.ReplicaID(id)); n != 0 {
			c.ring = append(c.ring, voter{id, n})
		}
	}
	before := func(v voter) int {
		if v.node <= node {
			return 1
		}
		return 0
	}
	slices.SortFunc(c.ring, func(a, b voter) int {
		return cmp.Or(cmp.Compare(before(a), before(b)), cmp.Compare(a.node, b.node), cmp.Compare(a.id, b.id))
	})
	for _, id := range replicasOf(conf.State) {
		if n := c.nodeOf(shard.ReplicaID(id)); n != 0 && shard.ReplicaID(id) != cfg.Replica {
			c.others = append(c.others, voter{id, n})
		}
	}
	return c
}

// replicasOf returns the ids of all replicas in a configuration, voters or not.
func replicasOf(cs *raftpb.ConfState) []uint64 {
	ids := slices.Concat(cs.GetVoters(), cs.GetVotersOutgoing(), cs.GetLearners(), cs.GetLearnersNext())
	slices.Sort(ids)
	return slices.Compact(ids)
}

// nodeOf returns where a replica lives, 0 if that is not known. A replica that is no member, or none yet as
// far as this one knows, has a place, too.
func (c *configuration) nodeOf(id shard.ReplicaID) shard.NodeID { return c.places[id] }

// on reports whether another replica lives on a node.
func (c *configuration) on(node shard.NodeID) bool {
	return slices.ContainsFunc(c.others, func(v voter) bool { return v.node == node })
}

// votersAlive reports whether voters on nodes for which alive is true can decide.
func (c *configuration) votersAlive(alive func(shard.NodeID) bool) bool {
	votes := map[uint64]bool{}
	for id := range c.voters.IDs() {
		votes[id] = alive(c.nodeOf(shard.ReplicaID(id)))
	}
	return c.voters.VoteResult(votes) == quorum.VoteWon
}

// campaignRank is how many of the voters that are left campaign before this one. The group's id turns
// the order of their nodes, so that a dead node's leaderships spread over all others. It is not that of
// the replicas: who cuts ranges turns that, too.
func (c *configuration) campaignRank(gone shard.NodeID) int {
	var left []shard.ReplicaID
	for id := range c.voters.IDs() {
		if r := shard.ReplicaID(id); c.nodeOf(r) != gone {
			left = append(left, r)
		}
	}
	slices.SortFunc(left, func(a, b shard.ReplicaID) int { return cmp.Compare(c.nodeOf(a), c.nodeOf(b)) })
	i := slices.Index(left, c.self)
	if i < 0 {
		return len(left) // a learner; Raft refuses to let it campaign
	}
	return (i + int(uint64(c.group)%uint64(len(left)))) % len(left)
}

// campaignRound is how many ticks lie between two turns of this voter. No two voters of a group have the same: those
// that campaign at the same time, because they have lost the leader at different ones, do not do so again.
func (c *configuration) campaignRound() int {
	return campaignEvery*len(c.voters.IDs()) + c.campaignRank(0)
}

// conf returns the configuration as it stands.
func (m *members) conf() *configuration { return m.now.Load() }

// nodeOf returns where a replica lives, 0 if that is not known.
func (m *members) nodeOf(id shard.ReplicaID) shard.NodeID { return m.conf().nodeOf(id) }

// majority reports whether these voters can decide.
func majority(voters quorum.JointConfig, yes []uint64) bool {
	if mutate.On(mutate.OneHalf) && len(voters[1]) > 0 {
		voters[0] = nil
	}
	for _, half := range voters {
		n := 0
		for _, id := range yes {
			if _, ok := half[id]; ok {
				n++
			}
		}
		if len(half) > 0 && n <= len(half)/2 {
			return false
		}
	}
	return true
}
