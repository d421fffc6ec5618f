package meta

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// nodes are the three members of a cluster in this process, each with a replica of the meta group and a
// client, at one log. The first leads.
type nodes struct {
	t       *testing.T
	envs    [3]*env
	clients [3]*metaclient.Client
	log     []*pb.MetaEntry // committed
	failed  [3]error        // of Apply: that node has stopped
}

// newFormat is what these tests write once everybody can read it: raising an alarm.
var newFormat = clusterversion.Settings

func newNodes(t *testing.T, formats ...clusterversion.Version) *nodes {
	n := &nodes{t: t}
	for i, v := range formats {
		n.envs[i] = newEnv(t, func(c *Config) { c.Node, c.Formats = shard.NodeID(i+1), v })
		n.restart(i, v)
	}
	leader := n.envs[0]
	leader.h.term = 6
	leader.m.LeaderChanged(raftgroup.Leadership{Term: 6, Leader: 1, IsLeader: true})
	n.apply(raftgroup.Entry{Term: 6})
	leader.m.OwnTermApplied(6)
	leader.leased()
	n.settle()
	return n
}

// restart gives a node a client of a build that speaks v.
func (n *nodes) restart(i int, v clusterversion.Version) {
	if n.clients[i] != nil {
		n.clients[i].Close()
	}
	n.clients[i] = metaclient.New(metaclient.Config{Self: shard.NodeID(i + 1), Calls: (*nodesCaller)(n), Meta: n.envs[i].m.cfg.Desc, Formats: v, Now: n.envs[i].now})
	n.t.Cleanup(n.clients[i].Close)
}

func (n *nodes) apply(ent raftgroup.Entry) {
	n.envs[0].h.index++
	ent.Index = n.envs[0].h.index
	if ent.Data != nil {
		var e pb.MetaEntry
		if err := e.UnmarshalVT(ent.Data); err != nil {
			n.t.Fatal(err)
		}
		n.log = append(n.log, &e)
	}
	for i, e := range n.envs {
		if n.failed[i] == nil {
			n.failed[i] = e.m.Apply([]raftgroup.Entry{ent})
		}
	}
}

// settle commits at every node what the leader has proposed.
func (n *nodes) settle() {
	h := n.envs[0].h
	for {
		h.mu.Lock()
		log := h.log
		h.log = nil
		h.mu.Unlock()
		for _, ent := range log {
			n.apply(ent)
		}
		if !n.envs[0].confirm(true) && len(log) == 0 {
			return
		}
	}
}

// publish announces what a node speaks, and lets the leader look at it.
func (n *nodes) publish(i int) error {
	err := n.clients[i].Publish(n.t.Context(), shard.NodeID(i+1), "", []string{"http://node"})
	for range 2 {
		n.envs[0].m.Tick()
		n.settle()
	}
	for _, c := range n.clients {
		if err := c.Refresh(n.t.Context()); err != nil {
			n.t.Fatal(err)
		}
	}
	return err
}

// write writes in the new format from a node, if it may.
func (n *nodes) write(i int) bool {
	if !n.clients[i].Active(newFormat) {
		return false
	}
	if _, err := n.clients[i].Alarm(n.t.Context(), pb.AlarmRaise, shard.NodeID(i+1), 1); err != nil {
		n.t.Fatal(err)
	}
	return true
}

func (n *nodes) written() (count int) {
	for _, e := range n.log {
		if e.Alarm != nil {
			count++
		}
	}
	return count
}

// nodesCaller asks the leader.
type nodesCaller nodes

func (c *nodesCaller) CallFunc(ctx context.Context, _ shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	n := (*nodes)(c)
	a := n.envs[0].ask(req)
	n.settle()
	cb(a.resp, a.err)
}

// A node of an older build among newer ones keeps running: nothing new is written while it is there. Once it
// has been replaced the cluster's version rises, and everybody may write it.
func TestNothingNewIsWrittenWhileAnOlderNodeIsThere(t *testing.T) {
	n := newNodes(t, 3, 3, 1)
	for i := range n.clients {
		if err := n.publish(i); err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
	}
	for i := range n.clients {
		if n.write(i) || n.clients[i].View().Version != 1 {
			t.Errorf("node %d writes what node 2 cannot read, at version %d", i, n.clients[i].View().Version)
		}
	}
	if n.written() != 0 || n.failed[2] != nil {
		t.Errorf("%d entries; the older node: %v", n.written(), n.failed[2])
	}
	if _, err := n.clients[2].Grant(t.Context(), 7, 60); err != nil { // it goes on
		t.Fatal(err)
	}
	if _, ok := n.envs[2].m.state.Lease(7); !ok || n.failed[2] != nil {
		t.Errorf("the older node has not applied: %v", n.failed[2])
	}

	n.envs[2].m.formats = 3 // its binary is replaced
	n.restart(2, 3)
	if err := n.publish(2); err != nil {
		t.Fatal(err)
	}
	for i := range n.clients {
		if !n.write(i) {
			t.Errorf("node %d does not write the new format, at version %d", i, n.clients[i].View().Version)
		}
	}
	if n.written() != 3 || n.failed != [3]error{} {
		t.Errorf("%d entries, %v", n.written(), n.failed)
	}
	n.restart(1, 1) // and cannot go back
	if err := n.publish(1); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), clusterversion.ErrTooNew.Error()) {
		t.Errorf("a build that does not speak the cluster's version: %v", err)
	}
	if n.clients[0].View().Version != 3 {
		t.Errorf("the version fell to %d", n.clients[0].View().Version)
	}
}

// A replica stops at a version that it does not speak, however that reaches it, and says so.
func TestAReplicaStopsAtAVersionAboveItsOwn(t *testing.T) {
	n := newNodes(t, 3, 3, 3)
	n.envs[2].m.formats = 1 // an old binary that nobody has announced
	for i := range n.clients {
		if err := n.publish(i); err != nil {
			t.Fatal(err)
		}
	}
	if !errors.Is(n.failed[2], clusterversion.ErrTooNew) || n.failed[0] != nil || n.failed[1] != nil {
		t.Errorf("at the entry: %v", n.failed)
	}
	var snap strings.Builder
	if err := n.envs[0].m.SnapshotTo(&snap); err != nil {
		t.Fatal(err)
	}
	if _, err := n.envs[2].m.Receive(strings.NewReader(snap.String())); !errors.Is(err, clusterversion.ErrTooNew) {
		t.Errorf("at a snapshot: %v", err)
	}
	e := n.envs[1]
	if err := e.m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Node: 2, Host: e.h, Ranges: e.ranges, Dir: e.dir, Desc: e.m.cfg.Desc, Formats: 1, TickInterval: -1}); !errors.Is(err, clusterversion.ErrTooNew) {
		t.Errorf("at the start: %v", err)
	}
	m, err := Open(Config{Node: 2, Host: e.h, Ranges: e.ranges, Dir: e.dir, Desc: e.m.cfg.Desc, Formats: 4, TickInterval: -1})
	if err != nil || m.state.ClusterVersion() != 3 {
		t.Fatalf("a newer build: %v", err)
	}
	m.Close()
}

// The version rises by itself, and only once everybody has announced more: who has said nothing speaks the
// first.
func TestTheVersionRisesOnceAllHaveAnnounced(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Formats = 3 })
	e.lead(6)
	for i, formats := range []uint32{3, 2, 3} {
		if got := e.m.state.ClusterVersion(); got != 1 {
			t.Errorf("version %d after %d members", got, i)
		}
		e.must(&pb.PeerRequest{MemberAttrs: &pb.MemberAttrsRequest{Id: uint64(i + 1), Formats: formats}})
	}
	// Without a tick: a client that was told by all nodes that they are ready may use what their release brings.
	if got := e.m.state.ClusterVersion(); got != 2 {
		t.Errorf("version %d, announced are 3, 2 and 3", got)
	}
	logged := len(e.seen)
	e.advance(time.Second)
	if e.settle(); len(e.seen) != logged {
		t.Errorf("%d entries for a version that stands", len(e.seen)-logged)
	}
}
