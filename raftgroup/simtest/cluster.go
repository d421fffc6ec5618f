package simtest

import (
	"fmt"
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
	boots    uint64
	paused   bool
	// Fatal and GroupErrors are what the host reported.
	Fatal       error
	GroupErrors []string
}

// Cluster is a set of nodes that share all groups: replica i of every group is on node i.
type Cluster struct {
	Clock  *Clock
	Net    *Net
	Nodes  []*Node
	groups []raftgroup.GroupConfig
	// Config changes the configuration of every host that is started.
	Config func(*raftgroup.Config)
	// First is the node whose replicas campaign at once.
	First shard.NodeID
	cfg   raftgroup.Config // as the last host was started with
}

// NewCluster returns n nodes that are down.
func NewCluster(n int) *Cluster {
	c := &Cluster{Clock: NewClock(), Net: NewNet()}
	for i := range n {
		c.Nodes = append(c.Nodes, &Node{
			ID: shard.NodeID(i + 1), Log: NewMemLog(), Machines: map[shard.RangeID]*Machine{},
		})
	}
	return c
}

// AddGroup places a group on all nodes; each gets it when it starts.
func (c *Cluster) AddGroup(cfg raftgroup.GroupConfig) {
	cfg.Peers = map[shard.ReplicaID]shard.NodeID{}
	for _, n := range c.Nodes {
		cfg.Peers[shard.ReplicaID(n.ID)] = n.ID
		n.Machines[cfg.ID] = &Machine{AutoFlush: true}
	}
	c.groups = append(c.groups, cfg)
}

// Start starts a node.
func (c *Cluster) Start(id shard.NodeID) error {
	n := c.Node(id)
	n.boots++
	cfg := raftgroup.Config{
		Node: id, Log: n.Log, Sender: c.Net.Sender(id), Now: c.Clock.Now,
		Boot:         uint64(id)<<32 | n.boots,
		OnFatal:      func(err error) { n.Fatal = err },
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
	for _, g := range c.groups {
		g.Replica, g.CampaignNow = shard.ReplicaID(id), id == c.First
		g.SM, g.Observer = n.Machines[g.ID], n.Machines[g.ID]
		if err := h.AddGroup(g); err != nil {
			return err
		}
	}
	return nil
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
	n.Host = nil
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
	var out []string
	for _, e := range n.Machines[id].State.Entries {
		out = append(out, e.Data)
	}
	return slices.Clip(out)
}
