package meta

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// sizedNodes are three nodes, which lead what leaderOf says.
type sizedNodes struct {
	mu      sync.Mutex
	truth   func() *shard.Map
	size    map[shard.RangeID]int64 // at the leader
	edit    func(node shard.NodeID, st *pb.RangeStatusResponse)
	middle  map[shard.RangeID]string
	silent  map[shard.NodeID]bool
	status  int // rounds that have asked node 1
	middles []shard.RangeID
	onAsk   func() // before a middle is told
}

// Call implements Nodes.
func (n *sizedNodes) Call(_ context.Context, node shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.silent[node] {
		return nil, shard.ErrUnavailable
	}
	if req.Transfer != nil {
		return nil, shard.ErrTimeout
	}
	if req.NodeStatus != nil {
		if node == 1 {
			n.status++
		}
		resp := &pb.NodeStatusResponse{NodeId: uint64(node)}
		for d := range n.truth().All() {
			resp.Ranges = append(resp.Ranges, n.statusOf(node, d))
		}
		return &pb.PeerResponse{NodeStatus: resp}, nil
	}
	d, ok := n.truth().Get(shard.RangeID(req.RangeStatus.RangeId))
	if !ok || node != leaderOf(d.ID) || !req.RangeStatus.Middle {
		return nil, &shard.NotLeaderError{Range: d.ID}
	}
	n.middles = append(n.middles, d.ID)
	st := n.statusOf(node, d)
	st.Middle = []byte(n.middle[d.ID])
	if n.onAsk != nil {
		n.onAsk()
	}
	return &pb.PeerResponse{RangeStatus: st}, nil
}

func (n *sizedNodes) statusOf(node shard.NodeID, d shard.Descriptor) *pb.RangeStatusResponse {
	leader, _ := d.ReplicaOn(leaderOf(d.ID))
	st := &pb.RangeStatusResponse{Descriptor_: pb.FromDescriptor(d), Leader: uint64(leader.ID), Term: 6, SizeInUse: n.size[d.ID]}
	if n.edit != nil {
		n.edit(node, st)
	}
	return st
}

// splitBackoffTime is splitBackoff.
const splitBackoffTime = time.Duration(splitBackoff) * time.Second

// leaderOf spreads the leads, so that there is nothing to even out.
func leaderOf(id shard.RangeID) shard.NodeID { return shard.NodeID(id%3 + 1) }

// sizesEnv is a leader that cuts what has more than a MiB, of two ranges, r2 and r3.
type sizesEnv struct {
	*opsEnv
	n    *sizedNodes
	wall time.Time
}

func newSizesEnv(t *testing.T) *sizesEnv {
	e := &sizesEnv{n: &sizedNodes{size: map[shard.RangeID]int64{}, middle: map[shard.RangeID]string{}, silent: map[shard.NodeID]bool{}}}
	e.n.truth = func() *shard.Map {
		e.s.mu.Lock()
		defer e.s.mu.Unlock()
		return e.s.truth
	}
	e.opsEnv = newOpsEnvWith(t, 2, func(c *Config) { c.Placement = Placement{SplitBytes: 1 << 20, Nodes: e.n} })
	e.wall = e.m.cfg.Wall()
	return e
}

// rest waits until no round is under way, and no range is being cut.
func (e *sizesEnv) rest() {
	e.t.Helper()
	e.until("the round is over", func() bool {
		e.m.mu.Lock()
		defer e.m.mu.Unlock()
		return e.m.planner.round == nil && len(e.m.ops.open) == 0 && e.m.ops.running == 0 && len(e.m.planner.handing) == 0
	})
}

// look lets the time of the next round come, waits for all that comes of it, and returns the ops that have been begun so far, as far as they are
// remembered.
func (e *sizesEnv) look() []shard.Op {
	e.t.Helper()
	e.advance(planEvery)
	e.leased()
	e.rest()
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	return e.m.state.Ops()
}

// TestBySize: a range is cut in its middle once its leader says that it is too large, with a reason; the others are left alone.
func TestBySize(t *testing.T) {
	e := newSizesEnv(t)
	e.n.size[2], e.n.size[3] = 1<<20-1, 1<<20-1
	if ops := e.look(); len(ops) != 0 {
		t.Fatalf("%+v", ops)
	}
	e.n.size[2], e.n.middle[2] = 3<<20, "k"
	ops := e.look()
	if len(ops) != 1 || ops[0].Outcome() != shard.OpDone || ops[0].Range != 2 || string(ops[0].Key) != "k" || ops[0].Reason != "by size: 3 MiB in use, cut from 1 on" {
		t.Fatalf("%+v", ops)
	}
	e.same()
}

// TestBySizePaces: a round comes every ten seconds, and sooner while something is under way.
func TestBySizePaces(t *testing.T) {
	e := newSizesEnv(t)
	e.look()
	was := e.n.status
	e.advance(planEvery - time.Millisecond)
	e.rest()
	if e.n.status != was {
		t.Errorf("a round too early")
	}
	e.n.size[2], e.n.middle[2] = 3<<20, "k"
	e.look()
	was = e.n.status
	e.advance(planAgain)
	e.rest()
	if e.n.status != was+1 {
		t.Errorf("%d rounds behind one that has begun something", e.n.status-was)
	}
}

// TestBySizeBelieves: only what the leader of the present generation says of a file without remains counts.
func TestBySizeBelieves(t *testing.T) {
	large := func(st *pb.RangeStatusResponse) { st.SizeInUse = 3 << 20 }
	for name, edit := range map[string]func(node shard.NodeID, st *pb.RangeStatusResponse){
		"a follower": func(node shard.NodeID, st *pb.RangeStatusResponse) {
			if node != leaderOf(shard.RangeID(st.Descriptor_.RangeId)) {
				large(st)
				st.Term++
			}
		},
		"an earlier generation": func(_ shard.NodeID, st *pb.RangeStatusResponse) { large(st); st.Descriptor_.Generation-- },
		"what is not trimmed":   func(_ shard.NodeID, st *pb.RangeStatusResponse) { large(st); st.Untrimmed = true },
	} {
		t.Run(name, func(t *testing.T) {
			e := newSizesEnv(t)
			e.n.middle[2], e.n.middle[3] = "k", "\xf0"
			e.n.edit = edit
			if ops := e.look(); len(ops) != 0 || len(e.n.middles) != 0 {
				t.Errorf("%+v, asked for the middle of %v", ops, e.n.middles)
			}
		})
	}
	t.Run("a minority", func(t *testing.T) {
		e := newSizesEnv(t)
		e.n.middle[2], e.n.size[2] = "k", 3<<20
		e.n.silent[1], e.n.silent[2] = true, true
		if ops := e.look(); len(ops) != 0 {
			t.Errorf("%+v", ops)
		}
		e.n.silent[2] = false
		if ops := e.look(); len(ops) != 1 {
			t.Errorf("%+v", ops)
		}
	})
}

// TestBySizeIsNotRepeated: a range whose op was given up is left alone for ten minutes.
func TestBySizeIsNotRepeated(t *testing.T) {
	e := newSizesEnv(t)
	e.s.before = func(req *pb.ChangeRequest) (error, bool) {
		if req.GiveUp {
			return nil, false
		}
		return shard.ErrNoSpace, false
	}
	e.n.size[2], e.n.middle[2] = 3<<20, "k"
	if ops := e.look(); len(ops) != 1 || ops[0].Outcome() != shard.OpGivenUp {
		t.Fatalf("%+v", ops)
	}
	e.setWall(e.wall.Add(splitBackoffTime - time.Second))
	if ops := e.look(); len(ops) != 1 {
		t.Fatalf("again: %+v", ops)
	}
	e.setWall(e.wall.Add(splitBackoffTime))
	if ops := e.look(); len(ops) != 2 {
		t.Fatalf("not again: %+v", ops)
	}
}

func (e *sizesEnv) setWall(wall time.Time) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	e.m.cfg.Wall = func() time.Time { return wall }
}

// TestBySizeOneKey: what no key parts is left alone, is asked again after a while, and it is said once.
func TestBySizeOneKey(t *testing.T) {
	e := newSizesEnv(t)
	e.n.size[2] = 3 << 20
	for i := range 3 {
		if ops := e.look(); len(ops) != 0 {
			t.Fatalf("%+v", ops)
		}
		if i == 1 {
			e.setWall(e.wall.Add(splitBackoffTime))
		}
	}
	if len(e.n.middles) != 2 {
		t.Errorf("asked %d times", len(e.n.middles))
	}
	if n := strings.Count(e.logs.String(), "no key parts it"); n != 1 {
		t.Errorf("said %d times in\n%s", n, e.logs)
	}
}

// TestBySizeOfWhatHasChanged: a range that is cut by hand in the meantime is not cut again for a size that it does not have any more.
func TestBySizeOfWhatHasChanged(t *testing.T) {
	e := newSizesEnv(t)
	e.n.size[2], e.n.middle[2] = 3<<20, "k"
	asked := false
	e.n.onAsk = func() {
		if asked {
			return
		}
		asked = true
		d, _ := e.s.truth.Get(2)
		d.Generation++
		e.m.mu.Lock()
		defer e.m.mu.Unlock()
		if err := e.m.state.ApplyRanges(d); err != nil {
			t.Error(err)
		}
	}
	if ops := e.look(); len(ops) != 0 || !asked {
		t.Errorf("%+v", ops)
	}
	if !strings.Contains(e.logs.String(), "the range has changed") {
		t.Errorf("logged\n%s", e.logs)
	}
}

// TestBySizeIsOff: where nothing is wanted, nobody is asked anything.
func TestBySizeIsOff(t *testing.T) {
	e := newSizesEnv(t)
	e.m.cfg.Placement.Mode = placement.ModeOff
	was := e.n.status
	e.n.size[2], e.n.middle[2] = 3<<20, "k"
	if ops := e.look(); len(ops) != 0 || e.n.status != was {
		t.Errorf("%+v", ops)
	}
}

// TestBySizeFew: a node takes part in four ops at most.
func TestBySizeFew(t *testing.T) {
	e := newSizesEnv(t)
	for i := range 6 { // more ranges
		e.must(splitReq(fmt.Sprintf("\xff%d", i)))
		e.rest()
	}
	e.n.mu.Lock()
	for d := range e.n.truth().All() {
		e.n.size[d.ID], e.n.middle[d.ID] = 3<<20, string(d.Span.Start)+"!"
	}
	e.n.mu.Unlock()
	held := make(chan struct{})
	e.s.mu.Lock()
	e.s.held = held
	e.s.mu.Unlock()
	under := func(n int) func() bool {
		return func() bool {
			e.m.mu.Lock()
			defer e.m.mu.Unlock()
			return e.m.planner.round == nil && len(e.m.state.OpsUnderWay()) == n
		}
	}
	e.advance(planEvery)
	e.leased()
	e.until("four are under way", under(4))
	e.advance(planAgain)
	e.leased()
	e.until("four are under way still", under(4))
	close(held)
	e.rest()
}

// TestBySizeEndsWithTheLeadership: a round of somebody who leads no more begins nothing.
func TestBySizeEndsWithTheLeadership(t *testing.T) {
	e := newSizesEnv(t)
	e.n.size[2], e.n.middle[2] = 3<<20, "k"
	e.n.onAsk = func() { e.depose(9, 2) }
	e.advance(planEvery)
	e.until("the middle was asked for", func() bool {
		e.n.mu.Lock()
		defer e.n.mu.Unlock()
		return len(e.n.middles) > 0
	})
	e.m.wg.Wait()
	e.settle()
	if ops := e.m.state.Ops(); len(ops) != 0 {
		t.Errorf("%+v", ops)
	}
}
