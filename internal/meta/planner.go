package meta

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

const (
	// planEvery is the pause between two rounds, and planAgain the one while something is under way or has changed: what that leaves may call for
	// more. Nodes are asked as often, and no more often.
	planEvery = 10 * time.Second
	planAgain = time.Second
	// planSoon is the pause behind a lead that was handed over, and behind a replica that has left a member which was removed: then the next does, on
	// what nodes have told before.
	planSoon = 100 * time.Millisecond
	// planShare is how many times as long as a round's own work the pause behind it is at least.
	planShare = 10
	// splitPerMerge is how many times as large as two ranges that are merged a range must be to be split.
	splitPerMerge = 4
	// planOpsMax is how many ops there may be for the planner to begin another one. Some room is left for people.
	planOpsMax = 48
)

// Nodes asks nodes.
type Nodes interface {
	// Call returns a node's answer to req. It blocks until ctx ends at the longest.
	Call(ctx context.Context, node shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error)
}

// Placement says what the planner may do, and what it needs for that.
type Placement struct {
	// Mode is how much it does by itself.
	Mode placement.Mode
	// SplitBytes is the size in use from which on a range is cut in two; 0: none is for its size.
	SplitBytes int64
	// ReplicationFactor is how many replicas a range should have. Default 3.
	ReplicationFactor int
	// DeadAfter is how long a node is silent before its replicas are replaced. Default 5 min.
	DeadAfter time.Duration
	// MergeAfter is how long nothing was done to two small neighbours before they are merged. Default 10 min.
	MergeAfter time.Duration
	// Group lets it move the replicas of the meta group as well.
	Group bool
	// Nodes asks nodes. nil: there is no planner.
	Nodes Nodes
	// Alive is whether a node that does not answer may live all the same, as gossip has it: a hint. Default: it may.
	Alive func(shard.NodeID) bool
}

func (c *Placement) setDefaults() {
	if c.ReplicationFactor <= 0 {
		c.ReplicationFactor = 3
	}
	if c.DeadAfter <= 0 {
		c.DeadAfter = time.Duration(placement.DefaultLimits().Pace.DeadAfter) * time.Second
	}
	if c.MergeAfter <= 0 {
		c.MergeAfter = time.Duration(placement.DefaultLimits().Merge.Cooldown) * time.Second
	}
	if c.Alive == nil {
		c.Alive = func(shard.NodeID) bool { return true }
	}
}

// limits are those of a plan in a mode, in which nothing is merged.
func (c *Placement) limits(mode placement.Mode) placement.Limits {
	l := placement.DefaultLimits()
	l.Mode = mode
	l.Split.Bytes, l.Split.HardBytes = math.MaxFloat32, math.MaxFloat32
	if c.SplitBytes > 0 {
		l.Split.Bytes, l.Split.HardBytes = float32(c.SplitBytes), 2*float32(c.SplitBytes)
		l.Merge.Bytes = min(l.Merge.Bytes, l.Split.Bytes/splitPerMerge)
	}
	l.Merge.RangesMin = math.MaxInt
	l.Merge.Cooldown = placement.Seconds(c.MergeAfter / time.Second)
	l.Pace.Ops = planOpsMax
	l.Pace.DeadAfter = placement.Seconds(c.DeadAfter / time.Second)
	if mutate.On(mutate.PlannerAnyAge) {
		l.Pace.DeadAfter = 0
	}
	return l
}

// planner has placement.Plan's ops carried out: on the leader it asks every member what it leads, and begins what is planned from that.
// What it begins is an op like anybody's, which is driven to its end by whoever leads; only that a lead is handed over
// is asked of the range's leader. It remembers nothing that the next leader would need: what was done lately is in the state, and a
// node is as long silent as this leader has heard nothing.
//
// Its methods are events, called with the lock held; a round has a goroutine of its own.
type planner struct {
	m       *Meta
	ctx     context.Context // of this leadership's rounds; nil before the first
	cancel  context.CancelFunc
	due     time.Time  // of the next round
	wish    time.Time  // when the one behind that which is under way should be; zero: when it likes
	round   *planRound // under way; nil: none
	version uint64     // of the map that the last round has seen
	heard   *heard     // last; nil: nothing yet
	past    past
	layout  *planLayout
	handing map[shard.RangeID]handOver // under way
	leads   map[shard.RangeID]led      // of those that were handed over, until their nodes tell
	stats   planStats
	dry     chan struct{} // holds one while somebody is told what would be done
}

func newPlanner(m *Meta) planner {
	return planner{m: m, past: make(past), layout: &planLayout{}, handing: make(map[shard.RangeID]handOver), leads: make(map[shard.RangeID]led), dry: make(chan struct{}, 1)}
}

// inherited learns from the state, at the beginning of a leadership, what was done lately.
func (p *planner) inherited(ops []shard.Op) {
	slices.SortFunc(ops, func(a, b shard.Op) int { return int(a.Ended - b.Ended) })
	for i := range ops {
		if ops[i].Outcome() != shard.OpUnderWay {
			p.past.ended(&ops[i])
		}
	}
}

// logged is told that an op is over. What it leaves may call for more.
func (p *planner) logged(op shard.Op) {
	p.past.ended(&op)
	pause := planAgain
	if m, there := p.m.state.Member(op.From.Node); there && m.State == shard.MemberLeaving { // somebody may wait for its last
		pause = max(planSoon, planShare*p.stats.worked)
	}
	p.hurry(pause)
}

// hurry lets the next round come after a pause at the latest.
func (p *planner) hurry(pause time.Duration) {
	at := p.m.cfg.Now().Add(pause)
	switch {
	case p.round == nil && at.Before(p.due):
		p.due = at
	case p.round != nil && (p.wish.IsZero() || at.Before(p.wish)):
		p.wish = at
	}
}

// tick begins a round when it is due.
func (p *planner) tick(now time.Time) {
	m := p.m
	if m.cfg.Placement.Nodes == nil || p.round != nil || !m.state.ClusterVersion().Active(clusterversion.Splits) {
		return
	}
	if v := m.state.Map().Version(); v != p.version {
		p.version = v
		p.hurry(planAgain)
	}
	if now.Before(p.due) || !p.hasWork() {
		return
	}
	if p.ctx == nil {
		p.ctx, p.cancel = context.WithCancel(m.ctx)
	}
	p.round = &planRound{m: m, ctx: p.ctx, heard: p.heard, asks: p.heard == nil || now.Sub(p.heard.at) >= planAgain || mutate.On(mutate.PlannerFast)}
	m.wg.Go(p.round.run)
}

// hasWork tells whether a round could begin anything.
func (p *planner) hasWork() bool {
	s := p.m.state
	group := s.Meta()
	return p.m.cfg.Placement.Mode != placement.ModeOff || slices.ContainsFunc(s.Members(), leaves) || slices.ContainsFunc(group.Replicas, func(r shard.Replica) bool {
		m, there := s.Member(r.Node)
		return r.Role == shard.Learner && there && !m.Learner // somebody has promoted it
	})
}

// input is what the next snapshot is made from.
func (p *planner) input(h *heard) *planInput {
	m := p.m
	in := &planInput{
		now: p.now(), ranges: m.state.Map(), members: m.state.Members(), ops: m.state.OpsUnderWay(), heard: h,
		factor: m.cfg.Placement.ReplicationFactor, past: p.past.recent(p.now()), borders: m.state.Borders(), layout: p.layout, group: m.state.Meta(), leads: make(map[shard.RangeID]led, len(p.leads)),
	}
	if since := p.layout.version.Load(); since != 0 {
		if changed, known := state.ChangedSince(m.state, since); known {
			in.since, in.changed = since, changed
		}
	}
	if m.state.ClusterVersion().Active(clusterversion.Merges) {
		in.first = m.state.FirstRanges()
	}
	for _, o := range p.handing {
		in.handing = append(in.handing, o)
	}
	for id, l := range p.leads {
		if was, told := h.leaders[id]; told && l.term <= was.term {
			delete(p.leads, id)
			continue
		}
		in.leads[id] = l
	}
	return in
}

func (p *planner) now() placement.Seconds { return secondsOf(p.m.cfg.Wall().UnixMilli()) }

// told takes in what nodes have answered, and how leads have changed since they were asked before.
func (p *planner) told(h *heard, moved []shard.RangeID) {
	p.heard = h
	for _, id := range moved {
		if l, ours := p.leads[id]; (!ours || l.node != h.leaders[id].node) && !mutate.On(mutate.PlannerUndoes) {
			p.past.led(id, h.now)
		}
	}
}

// ended is told that a round is over.
func (p *planner) ended(r *planRound) {
	if p.round != r {
		return // of an earlier leadership
	}
	p.round = nil
	now := p.m.cfg.Now()
	pause := planEvery
	if r.begun > 0 || r.untold || len(p.handing) > 0 || len(p.m.state.OpsUnderWay()) > 0 {
		pause = planAgain
	}
	p.due = now.Add(max(pause, planShare*r.worked))
	if at := now.Add(planShare * r.worked); !p.wish.IsZero() && p.wish.Before(p.due) {
		p.due = p.wish
		if p.due.Before(at) {
			p.due = at
		}
	}
	p.wish = time.Time{}
	p.stats.rounds++
	p.stats.last, p.stats.worked, p.stats.blocked = now, r.worked, r.blocked
}

// handOver is a lead that is being handed over.
type handOver struct {
	id       shard.RangeID
	from, to shard.NodeID
	rule     placement.Rule
	why      string
}

// handOverMax bounds one attempt to hand a lead over: the range is drained first.
const handOverMax = 5 * time.Second

// transfer asks a range's leader to hand over. The round goes on meanwhile; the next ones count it as done.
func (p *planner) transfer(o handOver) {
	if _, twice := p.handing[o.id]; twice {
		return
	}
	p.handing[o.id] = o
	ctx, m := p.ctx, p.m
	m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, handOverMax)
		resp, err := m.cfg.Placement.Nodes.Call(ctx, o.from, &pb.PeerRequest{Transfer: &pb.TransferRequest{RangeId: uint64(o.id), Node: uint64(o.to)}})
		cancel()
		if err == nil && resp.Transfer == nil {
			err = fmt.Errorf("%w: an answer without a leader", shard.ErrCorrupt)
		}
		m.mu.Lock()
		defer m.mu.unlock()
		if p.handing[o.id] == o && p.ctx != nil { // still this leadership's
			p.transferred(o, resp.GetTransfer(), err)
		}
	})
}

func (p *planner) transferred(o handOver, resp *pb.TransferResponse, err error) {
	delete(p.handing, o.id)
	p.past.led(o.id, p.now())
	log := p.m.cfg.Logger
	if err != nil {
		p.stats.notHanded++
		p.past.failed(o.id, placement.KindTransfer, p.now())
		p.m.mu.later(func() {
			log.Info("a lead was not handed over", "range", o.id, "from", o.from.String(), "to", o.to.String(), "why", o.why, "error", err)
		})
		p.hurry(planAgain)
		return
	}
	p.stats.handed++
	p.past.worked(o.id, placement.KindTransfer)
	p.leads[o.id] = led{node: shard.NodeID(resp.LeaderNode), term: resp.Term}
	stood := time.Duration(resp.StoodUs) * time.Microsecond
	p.m.mu.later(func() {
		log.Info("a lead was handed over", "range", o.id, "from", o.from.String(), "to", o.to.String(), "why", o.why, "stood", stood)
	})
	p.hurry(max(planSoon, planShare*p.stats.worked))
}

// stepDown ends the round under way, and what it has asked for. The next leader looks for itself.
func (p *planner) stepDown() {
	if p.cancel != nil {
		p.cancel()
	}
	clear(p.past)
	clear(p.handing)
	clear(p.leads)
	p.layout = &planLayout{}
	p.ctx, p.cancel, p.round, p.heard, p.due, p.wish = nil, nil, nil, nil, time.Time{}, time.Time{}
	p.stats.last = time.Time{}
}

// planStats counts what the planner has done, since the process began.
type planStats struct {
	rounds, handed, notHanded uint64
	last                      time.Time     // when the last round of this leadership ended
	worked                    time.Duration // that it took, questions to nodes not counted
	blocked                   int           // ops that were due in it, and could not begin
}

// PlanStats tells of the planner, where it runs: on the meta group's leader.
type PlanStats struct {
	Rounds            uint64        // since the process began
	Worked            time.Duration // of the last round, questions to nodes not counted
	Age               time.Duration // since the last round of this leadership; 0: there was none
	Blocked           int           // ops that were due in it and could not begin
	Unsplittable      int           // ranges that are too large or too busy, and that nothing parts
	HandedOver        uint64        // leads, since the process began
	NotHandedOver     uint64        // those that were tried in vain
	HandingOver       int           // leads, now
	SilentNodes, Dead int           // nodes that do not answer, and those of them whose replicas are being replaced
}

// StatsOfPlans returns them; of a nil Meta there are none.
func StatsOfPlans(m *Meta) (st PlanStats) {
	if m == nil {
		return st
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.planner
	st = PlanStats{Rounds: p.stats.rounds, Worked: p.stats.worked, Blocked: p.stats.blocked, HandedOver: p.stats.handed, NotHandedOver: p.stats.notHanded,
		HandingOver: len(p.handing)}
	if p.stats.last.IsZero() {
		st.Blocked, st.Worked = 0, 0
		return st
	}
	st.Age = m.cfg.Now().Sub(p.stats.last)
	st.Unsplittable = p.past.unsplittable(p.now())
	if p.heard != nil {
		for _, pulse := range p.heard.pulses {
			if pulse.liveness != placement.Up {
				st.SilentNodes++
				if p.now()-pulse.since >= m.cfg.Placement.limits(placement.ModeOn).Pace.DeadAfter {
					st.Dead++
				}
			}
		}
	}
	return st
}
