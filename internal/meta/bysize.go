package meta

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

const (
	// sizesEvery is the pause between two rounds, and sizesAgain the one while splits are under way: what they leave may be too large as well.
	sizesEvery = 10 * time.Second
	sizesAgain = time.Second
	// sizesAsked bounds one question to a node.
	sizesAsked = 5 * time.Second
	// sizesAtOnce is how many nodes are asked at a time.
	sizesAtOnce = 16
	// sizeOpsMax is how many ops may be under way, somebody else's counted, for another split by size to begin.
	sizeOpsMax = 4
	// sizeBackoff is how long a range is left alone whose op was given up, or which no key parts.
	sizeBackoff = 10 * time.Minute
	// replicasMax is how many replicas of a range a snapshot has room for.
	replicasMax = 8
	// wholeMax bounds the ranges that are remembered because no key parts them. Others are asked again in each round.
	wholeMax = 1024
)

// Nodes asks nodes.
type Nodes interface {
	// Call returns a node's answer to req. It blocks until ctx ends at the longest.
	Call(ctx context.Context, node shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error)
}

// bySize has ranges cut that have become too large: on the leader it asks every member what ranges it has, and begins the
// splits that placement.SplitsBySize plans from that. Sizes are all that it knows and all that it acts on: it merges and moves
// nothing, hands no lead over, and cuts nothing for its load. What it begins is an op like anybody's, which is driven to its end
// by whoever leads. It remembers nothing that the next leader would need.
//
// Its methods are events, called with the lock held; a round has a goroutine of its own.
type bySize struct {
	m      *Meta
	due    time.Time  // of the next round
	round  *sizeRound // under way; nil: none
	cancel context.CancelFunc
	// whole are ranges that no key parts, and when they are asked again.
	whole map[shard.RangeID]placement.Seconds
}

// sizeRound is one look at all ranges, of the moment in which it began.
type sizeRound struct {
	m        *Meta
	ctx      context.Context
	now      placement.Seconds
	ranges   *shard.Map
	members  []shard.Member
	ops      []shard.Op // under way, and the last that are over
	backoffs map[shard.RangeID]placement.Seconds
}

func newBySize(m *Meta) bySize {
	return bySize{m: m, whole: make(map[shard.RangeID]placement.Seconds)}
}

// tick begins a round when it is due.
func (b *bySize) tick(now time.Time) {
	m := b.m
	if m.cfg.SplitBytes <= 0 || b.round != nil || now.Before(b.due) || !m.state.ClusterVersion().Active(clusterversion.Splits) {
		return
	}
	r := &sizeRound{m: m, now: secondsOf(m.cfg.Wall().UnixMilli()), ranges: m.state.Map(), members: m.state.Members(), ops: m.state.Ops(),
		backoffs: make(map[shard.RangeID]placement.Seconds)}
	for id, until := range b.whole {
		if _, there := r.ranges.Get(id); !there {
			delete(b.whole, id)
			continue
		}
		r.backoffs[id] = until
	}
	r.ctx, b.cancel = context.WithCancel(m.ctx)
	b.round = r
	m.wg.Go(r.run)
}

// ended is told that a round is over. more says that splits are under way.
func (b *bySize) ended(r *sizeRound, more bool) {
	if b.round != r {
		return // of an earlier leadership
	}
	b.cancel()
	pause := sizesEvery
	if more {
		pause = sizesAgain
	}
	b.round, b.due = nil, b.m.cfg.Now().Add(pause)
}

// undivided is told that no key parts a range that is too large. That is said once.
func (b *bySize) undivided(id shard.RangeID, why string, now placement.Seconds) {
	_, said := b.whole[id]
	if !said && len(b.whole) >= wholeMax {
		return
	}
	b.whole[id] = now + placement.Seconds(sizeBackoff/time.Second)
	if !said {
		b.m.mu.later(func() {
			b.m.cfg.Logger.Warn("a range is too large, and no key parts it: one key has nearly all of it", "range", id, "size", why)
		})
	}
}

// stepDown ends the round under way. The next leader looks for itself.
func (b *bySize) stepDown() {
	clear(b.whole)
	b.due = time.Time{}
	if b.round != nil {
		b.cancel()
		b.round = nil
	}
}

// run is the round.
func (r *sizeRound) run() {
	limits := placement.DefaultLimits()
	limits.Split.Bytes, limits.Split.HardBytes = float32(r.m.cfg.SplitBytes), 2*float32(r.m.cfg.SplitBytes)
	limits.Pace.Ops, limits.Pace.OpsPerNode = sizeOpsMax, sizeOpsMax
	snapshot := r.snapshot(r.statuses())
	more := len(snapshot.Running) > 0
	for _, op := range placement.SplitsBySize(snapshot, limits, r.now) {
		if op.Due() && r.split(op) {
			more = true
		}
	}
	r.m.mu.Lock()
	r.m.sizes.ended(r, more)
	r.m.mu.unlock()
}

// statuses asks every member once; who does not answer is left out.
func (r *sizeRound) statuses() map[shard.NodeID]*pb.NodeStatusResponse {
	var mu sync.Mutex
	out := make(map[shard.NodeID]*pb.NodeStatusResponse, len(r.members))
	var g errgroup.Group
	g.SetLimit(sizesAtOnce)
	for _, member := range r.members {
		g.Go(func() error {
			resp, err := r.ask(member.ID, &pb.PeerRequest{NodeStatus: &pb.NodeStatusRequest{Ranges: true}})
			if err == nil && resp.NodeStatus != nil {
				mu.Lock()
				out[member.ID] = resp.NodeStatus
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	return out
}

func (r *sizeRound) ask(node shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	ctx, cancel := context.WithTimeout(r.ctx, sizesAsked)
	defer cancel()
	return r.m.cfg.Nodes.Call(ctx, node, req)
}

// snapshot is what the members have told, for the rule. Loads, disks and processors are not known: they are 0, and the rule does not
// look at them.
func (r *sizeRound) snapshot(told map[shard.NodeID]*pb.NodeStatusResponse) *placement.Snapshot {
	s := &placement.Snapshot{Round: uint64(r.now)}
	places := make(map[shard.NodeID]int16, len(r.members))
	for _, m := range r.members {
		n := placement.Node{ID: m.ID, Liveness: placement.Suspect, Learner: m.Learner}
		if told[m.ID] != nil {
			n.Liveness = placement.Up
		}
		places[m.ID] = int16(len(s.Nodes))
		s.Nodes = append(s.Nodes, n)
	}
	for d := range r.ranges.All() {
		s.Ranges.Width = min(max(s.Ranges.Width, len(d.Replicas)), replicasMax)
	}
	s.ReplicationFactor = s.Ranges.Width
	at := make(map[shard.RangeID]int32, r.ranges.Len())
	byLeader := leaders(told)
	for d := range r.ranges.All() {
		at[d.ID] = int32(s.Ranges.Len())
		addRange(&s.Ranges, d, byLeader[d.ID], places)
	}
	for _, op := range r.ops {
		i, there := at[op.Range]
		switch {
		case !there:
		case op.Outcome() == shard.OpUnderWay:
			s.Running = append(s.Running, placement.Running{ID: uint64(op.ID), Kind: placement.KindSplit, Range: i, Right: placement.None,
				From: placement.None, To: placement.None, Leader: placement.None, Begun: true})
		case op.Outcome() == shard.OpGivenUp:
			until := secondsOf(op.Ended) + placement.Seconds(sizeBackoff/time.Second)
			r.backoffs[op.Range] = max(r.backoffs[op.Range], until)
		}
	}
	for id, until := range r.backoffs {
		s.Backoffs = append(s.Backoffs, placement.Backoff{Range: at[id], Until: until})
	}
	slices.SortFunc(s.Backoffs, func(a, b placement.Backoff) int { return int(a.Range - b.Range) })
	return s
}

// led is what the leader of a range has told of it.
type led struct {
	node   shard.NodeID
	status *pb.RangeStatusResponse
}

// leaders picks the words of leaders: what others have may be behind, or lost. Of two that lead, the later term counts.
func leaders(told map[shard.NodeID]*pb.NodeStatusResponse) map[shard.RangeID]led {
	out := make(map[shard.RangeID]led)
	for node, resp := range told {
		for _, st := range resp.Ranges {
			d := pb.ToDescriptor(st.Descriptor_)
			if d.NodeOf(shard.ReplicaID(st.Leader)) != node && !mutate.On(mutate.SizeOfFollower) {
				continue
			}
			if was, twice := out[d.ID]; !twice || was.status.Term < st.Term {
				out[d.ID] = led{node, st}
			}
		}
	}
	return out
}

// addRange appends a range as the map has it, with its size if its leader has told that of the same generation.
func addRange(r *placement.Ranges, d shard.Descriptor, l led, places map[shard.NodeID]int16) {
	known := l.status != nil && (l.status.Descriptor_.Generation == uint64(d.Generation) || mutate.On(mutate.SizeOldMap))
	bytes, flags, leader := float32(0), placement.LoadUnknown, int8(placement.None)
	if known {
		bytes = float32(l.status.SizeInUse)
		if l.status.Untrimmed && !mutate.On(mutate.SizeUntrimmed) {
			flags |= placement.Untrimmed
		}
	}
	row := make([]int16, 0, r.Width)
	for _, rep := range d.Replicas {
		n, member := places[rep.Node]
		if !member || len(row) == r.Width {
			continue
		}
		if known && rep.Node == l.node {
			leader = int8(len(row))
		}
		row = append(row, n)
	}
	for len(row) < r.Width {
		row = append(row, placement.None)
	}
	r.IDs, r.Generations = append(r.IDs, d.ID), append(r.Generations, d.Generation)
	r.Keys = append(r.Keys, d.Span.Start...)
	r.KeyEnds = append(r.KeyEnds, uint32(len(r.Keys)))
	r.Replicas, r.Leaders, r.Flags = append(r.Replicas, row...), append(r.Leaders, leader), append(r.Flags, flags)
	r.Bytes, r.CPU = append(r.Bytes, bytes), append(r.CPU, 0)
	r.Peak.CPU, r.Peak.Writes = append(r.Peak.CPU, 0), append(r.Peak.Writes, 0)
	r.At.Moved, r.At.Led, r.At.Cut, r.At.Sticky = append(r.At.Moved, 0), append(r.At.Led, 0), append(r.At.Cut, 0), append(r.At.Sticky, 0)
}

// split asks a range's leader for its middle, and begins the op there. It says whether it has tried to.
func (r *sizeRound) split(op placement.Op) bool {
	key, ok := r.middle(op)
	if !ok {
		return false
	}
	if len(key) == 0 {
		r.m.mu.Lock()
		if r.m.sizes.round == r {
			r.m.sizes.undivided(op.Range, op.Why, r.now)
		}
		r.m.mu.unlock()
		return false
	}
	if err := r.begin(op, key); err != nil {
		r.m.cfg.Logger.Info("a split by size has not begun", "range", op.Range, "error", err)
	}
	return true
}

// middle asks whoever may lead; false: nobody who does has answered, or the range has changed.
func (r *sizeRound) middle(op placement.Op) (key []byte, ok bool) {
	d, _ := r.ranges.Get(op.Range)
	for _, rep := range d.Replicas {
		resp, err := r.ask(rep.Node, &pb.PeerRequest{RangeStatus: &pb.RangeStatusRequest{RangeId: uint64(op.Range), Middle: true}})
		if err != nil || resp.RangeStatus == nil {
			continue // it does not lead
		}
		st := resp.RangeStatus
		return st.Middle, st.Descriptor_ != nil && st.Descriptor_.Generation == uint64(op.Generation) && !st.Untrimmed
	}
	return nil, false
}

// begin logs the op as BeginOp does, unless the key is in another range by now, and says why that was refused.
func (r *sizeRound) begin(op placement.Op, key []byte) error {
	m := r.m
	decided := make(chan error, 1)
	over := func(err error) { decided <- err } // once
	m.read(0, leaderRead{write: true, fail: over, run: func() {
		e, err := state.PlanSplit(m.state, key, "by size: "+op.Why, m.cfg.Wall().UnixMilli())
		if err == nil && (e.BeginOp.Op.RangeId != uint64(op.Range) || e.BeginOp.Op.Generation != uint64(op.Generation)) && !mutate.On(mutate.SizeMoved) {
			err = fmt.Errorf("%w: the range has changed", shard.ErrOpInWay)
		}
		if err != nil {
			over(err)
			return
		}
		m.log.propose(e, func(res state.Result) { over(res.Err) })
	}})
	select {
	case err := <-decided:
		return err
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// sizesEpoch is where the seconds of snapshots begin, in Unix time: 2020.
const sizesEpoch = 1_577_836_800

// secondsOf turns Unix time in milliseconds into a time of a snapshot.
func secondsOf(ms int64) placement.Seconds { return placement.Seconds(ms/1000 - sizesEpoch) }
