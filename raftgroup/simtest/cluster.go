package simtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// Node is one node of a cluster: its disk and its machines outlive its host.
type Node struct {
	ID       shard.NodeID
	Host     *raftgroup.Host // nil while it is down
	Log      *MemLog
	Machines map[shard.RangeID]*Machine
	replicas map[shard.RangeID]raftgroup.Replica // that its host runs, or did
	boots    uint64
	paused   bool
	lost     map[shard.RangeID]int // groups that are lost, and how often their machines had installed a state
	again    []shard.RangeID       // groups to be added once more
	born     map[shard.RangeID]birth
	// Strangers are what the host has told of, in order.
	Strangers []raftgroup.Stranger
	// Fatal and GroupErrors are what the host reported.
	Fatal       error
	GroupErrors []string
}

// birth is a replica that gets its state once nothing of it, as it waited, is under way any more.
type birth struct{ leads, stopped bool }

// Cluster is a set of nodes that share groups. At first replica i of a group is on node i.
type Cluster struct {
	Clock  *Clock
	Net    *Net
	Nodes  []*Node
	groups []raftgroup.GroupConfig
	// Config changes the configuration of every host that is started.
	Config func(*raftgroup.Config)
	// First is the node whose replicas campaign at once.
	First shard.NodeID
	// Late are groups that a start leaves for later.
	Late []shard.RangeID
	// children are groups that begin by births.
	children map[shard.RangeID]bool
	cfg      raftgroup.Config // as the last host was started with
}

// NewCluster returns n nodes that are down.
func NewCluster(n int) *Cluster {
	c := &Cluster{Clock: NewClock(), Net: NewNet(), children: map[shard.RangeID]bool{}}
	for i := range n {
		c.Nodes = append(c.Nodes, &Node{
			ID: shard.NodeID(i + 1), Log: NewMemLog(), Machines: map[shard.RangeID]*Machine{}, lost: map[shard.RangeID]int{},
			replicas: map[shard.RangeID]raftgroup.Replica{}, born: map[shard.RangeID]birth{},
		})
	}
	return c
}

// AddGroup places a group on these nodes, by default on all; each gets it when it starts.
func (c *Cluster) AddGroup(cfg raftgroup.GroupConfig, on ...shard.NodeID) {
	cfg.Peers = map[shard.ReplicaID]shard.NodeID{}
	for _, n := range c.Nodes {
		if len(on) == 0 || slices.Contains(on, n.ID) {
			cfg.Peers[shard.ReplicaID(n.ID)] = n.ID
			n.Machines[cfg.ID] = &Machine{AutoFlush: true}
		}
	}
	c.groups = append(c.groups, cfg)
}

// AddChild places a group on these nodes, by default on all, that begins on each by a Birth.
func (c *Cluster) AddChild(cfg raftgroup.GroupConfig, on ...shard.NodeID) {
	c.AddGroup(cfg, on...)
	c.children[cfg.ID] = true
	for _, n := range c.Nodes {
		delete(n.Machines, cfg.ID)
	}
}

// Birth gives a node's replica of a child the state that it begins with, if it may have it. One that waits is stopped first,
// and StepAll goes on. leads says that the replica is the one to lead first.
func (c *Cluster) Birth(id shard.NodeID, group shard.RangeID, leads bool) error {
	n, h := c.Node(id), c.Node(id).Host
	if m := n.Machines[group]; m == nil || m.State.Index > 0 || slices.Contains(c.Late, group) {
		return c.bear(n, group, leads)
	}
	n.born[group] = birth{leads: leads}
	return h.StopGroup(group, func() {
		if n.Host == h {
			n.born[group] = birth{leads: leads, stopped: true}
		}
	})
}

// Born is what a child's state holds at first.
var Born = Applied{raftgroup.BirthPosition().Index, raftgroup.BirthPosition().Term, "born"}

func (c *Cluster) bear(n *Node, group shard.RangeID, leads bool) error {
	id := n.Replica(group)
	if id == 0 {
		id = shard.ReplicaID(n.ID)
	}
	if err := raftgroup.MayBeBorn(n.Log, group, id); err != nil {
		return err
	}
	m := &Machine{AutoFlush: true, State: MachineState{Index: Born.Index, Term: Born.Term, Entries: []Applied{Born}}}
	m.Flush()
	n.Machines[group] = m
	n.replicas[group] = raftgroup.Replica{Group: group, ID: id, State: raftgroup.ReplicaPresent}
	g := c.group(group)
	g.Replica, g.CampaignNow, g.Born = id, leads, true
	g.SM, g.Observer, g.Members = m, m, m.Members
	return n.Host.AddGroup(g)
}

func (c *Cluster) group(id shard.RangeID) raftgroup.GroupConfig {
	return c.groups[slices.IndexFunc(c.groups, func(g raftgroup.GroupConfig) bool { return g.ID == id })]
}

// Join makes a node hold a replica of a group that waits for a leader to add it. One that is stateless takes a state
// and does nothing else: StepAll, or Revive, adds it anew when that has come.
func (c *Cluster) Join(id shard.NodeID, group shard.RangeID, replica shard.ReplicaID, stateless bool) error {
	n := c.Node(id)
	if m := n.Machines[group]; m != nil {
		return fmt.Errorf("simtest: node %v has a replica of %v", id, group)
	}
	n.Machines[group] = &Machine{AutoFlush: true}
	n.replicas[group] = raftgroup.Replica{Group: group, ID: replica, State: raftgroup.ReplicaWaiting}
	g := c.group(group)
	g.Lost = stateless
	err := c.add(n, g)
	if err != nil {
		n.forget(group)
	}
	return err
}

// Leave makes a node give its replica up. Its machine goes when that is written down.
func (c *Cluster) Leave(id shard.NodeID, group shard.RangeID) error {
	n, h := c.Node(id), c.Node(id).Host
	return h.RemoveGroup(group, func() {
		if n.Host == h {
			n.forget(group)
		}
	})
}

func (n *Node) forget(group shard.RangeID) {
	delete(n.Machines, group)
	delete(n.replicas, group)
	delete(n.lost, group)
}

// Replica returns the id of the node's replica, 0: it has none.
func (n *Node) Replica(group shard.RangeID) shard.ReplicaID { return n.replicas[group].ID }

// Start starts a node.
func (c *Cluster) Start(id shard.NodeID) error {
	n := c.Node(id)
	n.boots++
	cfg := raftgroup.Config{
		Node: id, Log: n.Log, Sender: c.Net.Sender(id), Now: c.Clock.Now,
		Boot:         uint64(id)<<32 | n.boots,
		OnFatal:      func(err error) { n.Fatal = err },
		OnStranger:   func(s raftgroup.Stranger) { n.Strangers = append(n.Strangers, s) },
		OnGroupError: func(g shard.RangeID, err error) { n.GroupErrors = append(n.GroupErrors, fmt.Sprintf("%v: %v", g, err)) },
	}
	if c.Config != nil {
		c.Config(&cfg)
	}
	h, err := raftgroup.NewHost(cfg)
	if err != nil {
		return err
	}
	c.cfg = cfg
	n.Host = h
	c.Net.Attach(id, h)
	held, err := n.Log.Replicas()
	if err != nil {
		return err
	}
	for _, g := range c.groups {
		n.open(g, held, c.children[g.ID])
		if n.Replica(g.ID) == 0 || slices.Contains(c.Late, g.ID) {
			continue
		}
		if err := c.add(n, g); err != nil {
			return err
		}
	}
	return nil
}

// open goes by what the log says is held; without a word of the group by where it was begun. A child is born again.
func (n *Node) open(g raftgroup.GroupConfig, held []raftgroup.Replica, child bool) {
	first := shard.ReplicaID(n.ID)
	i := slices.IndexFunc(held, func(r raftgroup.Replica) bool { return r.Group == g.ID })
	switch {
	case i >= 0 && held[i].State == raftgroup.ReplicaRemoved, i < 0 && (child || g.Peers[first] != n.ID):
		n.forget(g.ID)
	case i >= 0:
		n.replicas[g.ID] = held[i]
	default:
		n.replicas[g.ID] = raftgroup.Replica{Group: g.ID, ID: first, State: raftgroup.ReplicaPresent}
	}
}

// add starts a group on a node: as lost if its machine has less than its log was cut for.
func (c *Cluster) add(n *Node, g raftgroup.GroupConfig) error {
	m := n.Machines[g.ID]
	r := n.replicas[g.ID]
	g.Replica, g.Waiting, g.CampaignNow = r.ID, r.State == raftgroup.ReplicaWaiting, n.ID == c.First
	g.Peers = maps.Clone(g.Peers)
	g.Peers[r.ID] = n.ID
	g.SM, g.Observer, g.Members = m, m, m.Members
	delete(n.lost, g.ID)
	if g.Lost {
		n.lost[g.ID], g.Observer = m.Installed, nil
	}
	err := n.Host.AddGroup(g)
	if errors.Is(err, raftgroup.ErrStateBehind) {
		n.lost[g.ID] = m.Installed
		g.Lost, g.Observer = true, nil
		err = n.Host.AddGroup(g)
	}
	return err
}

// Lose makes a node's machine forget everything, and starts its group again.
func (c *Cluster) Lose(id shard.NodeID, group shard.RangeID) error {
	n := c.Node(id)
	n.Machines[group].Lose()
	return c.restart(n, group)
}

// Lost reports whether the group is waiting for a state on the node.
func (n *Node) Lost(group shard.RangeID) bool {
	_, lost := n.lost[group]
	return lost || slices.Contains(n.again, group)
}

// restart stops a group; StepAll adds it again when nothing of it is under way any more.
func (c *Cluster) restart(n *Node, group shard.RangeID) error {
	h := n.Host
	delete(n.lost, group)
	return h.StopGroup(group, func() {
		if n.Host == h {
			n.again = append(n.again, group)
		}
	})
}

// Revive restarts the groups whose state has come, and adds those that have been stopped.
func (c *Cluster) Revive(n *Node) (did bool) {
	if n.Host == nil || n.paused {
		return false
	}
	for _, g := range c.groups {
		if b := n.born[g.ID]; b.stopped {
			did = true
			delete(n.born, g.ID)
			if err := c.bear(n, g.ID, b.leads); err != nil {
				n.GroupErrors = append(n.GroupErrors, err.Error())
			}
		}
		if installed, lost := n.lost[g.ID]; lost && n.Machines[g.ID].Installed > installed {
			did = true
			if err := c.restart(n, g.ID); err != nil {
				n.GroupErrors = append(n.GroupErrors, err.Error())
			}
		}
		if i := slices.Index(n.again, g.ID); i >= 0 {
			did = true
			n.again = slices.Delete(n.again, i, i+1)
			if err := c.add(n, g); err != nil {
				n.GroupErrors = append(n.GroupErrors, err.Error())
			}
		}
	}
	return did
}

// StartAll starts every node.
func (c *Cluster) StartAll() error {
	for _, n := range c.Nodes {
		if err := c.Start(n.ID); err != nil {
			return err
		}
	}
	return nil
}

// Crash takes a node down. What was not durable is lost.
func (c *Cluster) Crash(id shard.NodeID) {
	n := c.Node(id)
	n.Host, n.again = nil, nil
	clear(n.lost)
	clear(n.born)
	c.Net.Attach(id, nil)
	n.Log.Crash()
	for _, m := range n.Machines {
		m.Crash()
	}
}

// Pause stops a node's process, and lets it go on. What is sent to it meanwhile waits.
func (c *Cluster) Pause(id shard.NodeID, paused bool) {
	c.Node(id).paused = paused
	c.Net.Held[id] = paused
}

// Node returns a node.
func (c *Cluster) Node(id shard.NodeID) *Node { return c.Nodes[id-1] }

// Settle runs everything that can run without the clock.
func (c *Cluster) Settle() {
	for c.StepAll() || c.Net.Deliver() {
	}
}

// StepAll runs every host until it has nothing to do. It reports whether any had.
func (c *Cluster) StepAll() bool {
	did := false
	for _, n := range c.Nodes {
		for n.Host != nil && !n.paused && n.Fatal == nil && n.Host.Step() {
			did = true
		}
		if c.Revive(n) {
			did = true
		}
	}
	return did
}

// Tick advances the clock by n ticks, and settles after each.
func (c *Cluster) Tick(n int) {
	for range n {
		c.Clock.Advance(c.tickInterval())
		for _, node := range c.Nodes {
			if node.Host != nil && !node.paused {
				node.Host.Tick()
			}
		}
		c.Settle()
	}
}

func (c *Cluster) tickInterval() time.Duration {
	if c.cfg.TickInterval == 0 {
		return 100 * time.Millisecond
	}
	return c.cfg.TickInterval
}

// Leader returns the node that leads a group in the highest term, 0 if none does.
func (c *Cluster) Leader(id shard.RangeID) (shard.NodeID, uint64) {
	var node shard.NodeID
	var term uint64
	for _, n := range c.Nodes {
		if n.Host == nil {
			continue
		}
		if st, ok := n.Host.Status(id); ok && st.IsLeader && st.Term > term {
			node, term = n.ID, st.Term
		}
	}
	return node, term
}

// Data returns the data that a node's machine has applied.
func (n *Node) Data(id shard.RangeID) []string {
	if n.Machines[id] == nil {
		return nil
	}
	var out []string
	for _, e := range n.Machines[id].State.Entries {
		out = append(out, e.Data)
	}
	return slices.Clip(out)
}
