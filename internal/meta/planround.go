package meta

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

const (
	// nodeAskedMax bounds one question to a node, and silentAskedMax one to a node that did not answer the last time.
	nodeAskedMax   = 10 * time.Second
	silentAskedMax = time.Second
	// nodesAtOnce is how many nodes are asked at a time.
	nodesAtOnce = 16
)

// planRound is one look at the cluster, and what comes of it.
type planRound struct {
	m       *Meta
	ctx     context.Context
	heard   *heard // what is known; nil: nothing
	asks    bool   // nodes are asked first
	worked  time.Duration
	blocked int // ops that are due, and may not begin
	begun   int
	untold  bool // a part of a range has yet to tell of itself, which may call for more
}

// run is the round.
func (r *planRound) run() {
	m := r.m
	in, ours := r.look()
	if !ours {
		return
	}
	began := m.cfg.Now()
	limits := in.limits(&m.cfg.Placement, m.cfg.Placement.Mode)
	ops, untold := in.plan(limits)
	r.worked, r.untold = m.cfg.Now().Sub(began), untold
	for i := range ops {
		switch {
		case !ops[i].Due() && ops[i].Rule == placement.RuleMerge: // small ranges that wait harm nobody
		case !ops[i].Due():
			r.blocked++
		case r.act(&ops[i], in):
			r.begun++
		}
	}
	if m.cfg.Placement.Group {
		if op := in.groupOp(m.cfg.Node, limits); op != nil && r.act(op, in) {
			r.begun++
		}
	}
	m.mu.Lock()
	m.planner.ended(r)
	m.mu.unlock()
}

// look asks the nodes if it is time to, and takes together what is known; false: the leadership is over.
func (r *planRound) look() (in *planInput, ours bool) {
	m := r.m
	h := r.heard
	var moved []shard.RangeID
	if r.asks {
		m.mu.Lock()
		ranges, members := m.state.Map(), m.state.Members()
		m.mu.unlock()
		h, moved = m.cfg.Placement.ask(r.ctx, r.heard, holders(members, ranges), m.cfg.Now, m.cfg.Wall)
	}
	m.mu.Lock()
	defer m.mu.unlock()
	p := &m.planner
	if p.round != r {
		return nil, false
	}
	p.told(h, moved)
	return p.input(h), true
}

// ask asks nodes once, and makes what they tell to what was known. Who does not answer is silent.
func (c *Placement) ask(ctx context.Context, was *heard, nodes []shard.NodeID, now, wall func() time.Time) (*heard, []shard.RangeID) {
	var mu sync.Mutex
	told := make(map[shard.NodeID]*pb.NodeStatusResponse, len(nodes))
	var g errgroup.Group
	g.SetLimit(nodesAtOnce)
	for _, node := range nodes {
		limit := nodeAskedMax
		if was != nil && was.pulses[node].liveness != placement.Up {
			limit = silentAskedMax
		}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			resp, err := c.Nodes.Call(ctx, node, &pb.PeerRequest{NodeStatus: &pb.NodeStatusRequest{Ranges: true, Led: true}})
			if err == nil && resp.NodeStatus != nil {
				mu.Lock()
				told[node] = resp.NodeStatus
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	return was.hear(nodes, told, c, now(), secondsOf(wall().UnixMilli()))
}

// act begins one op, and says whether it has tried to.
func (r *planRound) act(op *placement.Op, in *planInput) bool {
	m := r.m
	switch op.Kind {
	case placement.KindSplit:
		return r.split(op, in)
	case placement.KindMerge:
		return r.merge(op, in)
	case placement.KindMove:
		move := &pb.MoveOp{RangeId: uint64(op.Range), From: uint64(op.From), To: uint64(op.To), Generation: uint64(op.Generation), Reason: reasonOf(op)}
		r.begin(op, in, func() (*pb.MetaEntry, error) { return state.PlanMove(m.state, move, m.cfg.Wall().UnixMilli()) })
		return true
	}
	m.mu.Lock()
	defer m.mu.unlock()
	if m.planner.round != r {
		return false
	}
	switch op.Kind {
	case placement.KindTransfer:
		if op.Range == shard.MetaID {
			m.planner.handGroupOver(op)
			break
		}
		m.planner.transfer(handOver{id: op.Range, from: op.From, to: op.To, rule: op.Rule, why: reasonOf(op)})
	case placement.KindGiveUp:
		m.ops.giveUp(shard.OpID(op.Running), fmt.Errorf("%w: %s", shard.ErrUnavailable, op.Why))
	case placement.KindBackOff:
		m.planner.past.backOff(op.Range, op)
		m.mu.later(func() { m.cfg.Logger.Warn("a range is too busy, and cannot be cut", "range", op.Range, "why", op.Why) })
	default:
		return false
	}
	return true
}

// split finds the key to cut at, and begins the op there. It says whether it has tried to.
func (r *planRound) split(op *placement.Op, in *planInput) bool {
	m, key := r.m, op.Key
	if op.At == placement.CutAtEnd { // as good as behind the last key: what is between has only just come
		if end := in.heard.leaders[op.Range].status.GetLoad().GetEnd(); len(end) > 0 {
			key = append(slices.Clip(end), 0)
		}
	}
	if len(key) == 0 {
		told, ok := r.middle(op, in)
		if !ok {
			return false
		}
		key = told
	}
	if len(key) == 0 {
		m.mu.Lock()
		defer m.mu.unlock()
		if m.planner.round == r && m.planner.past.undivided(op.Range, in.now) {
			m.mu.later(func() {
				m.cfg.Logger.Warn("a range is too large, and no key parts it: one key has nearly all of it", "range", op.Range, "size", op.Why)
			})
		}
		return false
	}
	r.begin(op, in, func() (*pb.MetaEntry, error) {
		e, err := state.PlanSplit(m.state, &pb.SplitOp{Key: key, Reason: reasonOf(op)}, m.cfg.Wall().UnixMilli())
		if err == nil && (e.BeginOp.Op.RangeId != uint64(op.Range) || e.BeginOp.Op.Generation != uint64(op.Generation)) && !mutate.On(mutate.SizeMoved) {
			err = fmt.Errorf("%w: the range has changed", shard.ErrOpInWay)
		}
		return e, err
	})
	return true
}

// merge begins one, if both ranges are as they were planned for, and says whether it has tried to.
func (r *planRound) merge(op *placement.Op, in *planInput) bool {
	m := r.m
	right, there := in.ranges.Get(op.Right)
	if !there {
		return false
	}
	r.begin(op, in, func() (*pb.MetaEntry, error) {
		e, err := state.PlanMerge(m.state, right.Span.Start, reasonOf(op), m.cfg.Wall().UnixMilli())
		if err != nil {
			return nil, err
		}
		if o := e.BeginOp.Op; o.RangeId != uint64(op.Range) || o.Generation != uint64(op.Generation) || o.Child != uint64(op.Right) || o.ChildGeneration != uint64(op.RightGeneration) {
			return nil, fmt.Errorf("%w: the ranges have changed", shard.ErrOpInWay)
		}
		return e, nil
	})
	return true
}

// middle asks whoever may lead where half of a range's bytes lie before; false: nobody who does has answered, or the range has changed.
func (r *planRound) middle(op *placement.Op, in *planInput) (key []byte, ok bool) {
	d, _ := in.ranges.Get(op.Range)
	for _, rep := range d.Replicas {
		ctx, cancel := context.WithTimeout(r.ctx, nodeAskedMax)
		resp, err := r.m.cfg.Placement.Nodes.Call(ctx, rep.Node, &pb.PeerRequest{RangeStatus: &pb.RangeStatusRequest{RangeId: uint64(op.Range), Middle: true}})
		cancel()
		if err != nil || resp.RangeStatus == nil {
			continue // it does not lead
		}
		st := resp.RangeStatus
		return st.Middle, st.Descriptor_ != nil && st.Descriptor_.Generation == uint64(op.Generation) && !st.Untrimmed
	}
	return nil, false
}

// begin logs an op as BeginOp does. What is refused is tried again after a while.
func (r *planRound) begin(op *placement.Op, in *planInput, build func() (*pb.MetaEntry, error)) {
	m := r.m
	decided := make(chan error, 1)
	over := func(err error) { decided <- err } // once
	m.read(0, leaderRead{write: true, fail: over, run: func() {
		e, err := build()
		if err != nil {
			over(err)
			return
		}
		m.log.propose(e, func(res state.Result) { over(res.Err) })
	}})
	select {
	case err := <-decided:
		if err == nil {
			return
		}
		m.cfg.Logger.Info("what was planned has not begun", "plan", op.String(), "error", err)
		m.mu.Lock()
		if m.planner.round == r {
			m.planner.past.failed(op.Range, op.Kind, in.now)
		}
		m.mu.unlock()
	case <-r.ctx.Done():
	}
}
