package raftgroup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Host runs the replicas that this node has of any number of groups. All methods may be called
// from any goroutine, except Step, which needs Workers = 0 and one caller.
type Host struct {
	leaderMoves

	cfg     Config
	steps   *runQueue // groups to step, and the prover
	applies *runQueue
	writer  *logWriter
	prover  *prover
	tokens  snapshotTokens
	intake  intake
	// strangers are groups that are not here and that others take to be.
	strangers strangers

	nodes   *nodes
	groups  shard.Table[*group]
	ticking tickList

	mu struct {
		sync.Mutex
		closed      bool
		unreachable []shard.NodeID
		lastTick    time.Time
		fatal       error
	}
	clock  clock
	failed chan struct{} // closed by the first fatal error
	wg     sync.WaitGroup
}

// clock is how Raft's time passes.
type clock struct {
	ticks atomic.Uint64
	late  atomic.Uint64 // heartbeats of leaders
}

// NewHost returns a host without groups.
func NewHost(cfg Config) (*Host, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, steps: newRunQueue(), applies: newRunQueue(), failed: make(chan struct{})}
	h.leaderMoves = leaderMoves{h}
	h.intake.limit = int64(cfg.MaxUnwrittenBytes)
	h.writer = newLogWriter(h)
	h.prover = newProver(h)
	h.nodes = newNodes(&h.cfg)
	h.mu.lastTick = cfg.Now()
	return h, nil
}

// AddGroup starts a group. It comes back with what the log and the state machine hold.
func (h *Host) AddGroup(cfg GroupConfig) error {
	if cfg.ID == 0 || cfg.Replica == 0 || cfg.SM == nil {
		return fmt.Errorf("raftgroup: incomplete configuration of %v", cfg.ID)
	}
	if (!cfg.Waiting && !cfg.Lost || len(cfg.Peers) > 0) && cfg.Peers[cfg.Replica] != h.cfg.Node {
		return fmt.Errorf("raftgroup: replica %d of %v is not on this node", cfg.Replica, cfg.ID)
	}
	if h.group(cfg.ID) != nil {
		return fmt.Errorf("raftgroup: %v is here already", cfg.ID)
	}
	g, err := newGroup(h, cfg)
	if err != nil {
		return err
	}
	h.nodes.count(g.members.conf().places, 1)
	h.groups.Put(cfg.ID, g)
	h.ticking.add(g)
	g.box.call(g.start)
	return nil
}

func (h *Host) group(id shard.RangeID) *group {
	g, _ := h.groups.Get(id) // nil where there is none
	return g
}

// eachGroup visits the groups in the order of their ids.
func (h *Host) eachGroup(fn func(*group)) {
	all := h.groups.Values()
	slices.SortFunc(all, func(a, b *group) int { return cmp.Compare(a.cfg.ID, b.cfg.ID) })
	for _, g := range all {
		fn(g)
	}
}

// ProposeFunc appends data to the group's log if this replica still leads term when the group's
// worker comes to it; the order of calls is the order in the log. It never blocks. An error
// means that it certainly was not appended, and dropped is not called. Otherwise dropped is
// called, on a worker, if it certainly was not appended after all. If neither happens, the entry
// is in the leader's log: it is applied, or its fate is open until the leadership has ended.
func (h *Host) ProposeFunc(id shard.RangeID, term uint64, data []byte, dropped func(error)) error {
	g := h.group(id)
	if g == nil {
		return shard.ErrUnavailable
	}
	if len(data) == 0 {
		return fmt.Errorf("%w: empty proposal", shard.ErrInvalid)
	}
	if g.pub.leadTerm.Load() != term || term == 0 {
		return g.notLeader()
	}
	return g.box.propose(proposal{term: term, data: data, dropped: dropped})
}

// TransferLeader asks the leader, if it is this replica, to hand over to another one. The term
// in which that begins has no lease any more, whatever becomes of it.
func (h *Host) TransferLeader(id shard.RangeID, to shard.ReplicaID) {
	if g := h.group(id); g != nil && to != g.cfg.Replica {
		if g.members.nodeOf(to) != 0 {
			g.box.call(func() { g.transfer(to) })
		}
	}
}

// Campaign makes this replica campaign.
func (h *Host) Campaign(id shard.RangeID) {
	if g := h.group(id); g != nil {
		g.box.call(func() { _ = g.rn.Campaign() }) // refused while it cannot be elected
	}
}

// Status returns what this replica knows.
func (h *Host) Status(id shard.RangeID) (Status, bool) {
	g := h.group(id)
	if g == nil {
		return Status{}, false
	}
	return g.status(), true
}

// Stats is what a host counts, over all groups.
type Stats struct {
	// UnwrittenBytes are of entries that have come in and are not in the log yet.
	UnwrittenBytes uint64
	// MessagesDropped came from other nodes and found no room; BytesDropped were in them.
	MessagesDropped, BytesDropped uint64
	// LateHeartbeats are those of leaders that were due more than two ticks after the ones before.
	LateHeartbeats uint64
}

// Stats returns the counters.
func (h *Host) Stats() Stats {
	return Stats{
		UnwrittenBytes:  uint64(max(h.intake.bytes.Load(), 0)),
		MessagesDropped: h.intake.dropped.Load(),
		BytesDropped:    h.intake.forgotten.Load(),
		LateHeartbeats:  h.clock.late.Load(),
	}
}

// HandleFrame takes what another node has sent. It does not block.
func (h *Host) HandleFrame(from shard.NodeID, f *pb.RaftFrame) {
	h.noteFrame(from, f)
	for _, gm := range f.Messages {
		g := h.group(shard.RangeID(gm.Group))
		if g == nil {
			h.strangers.spokenTo(h, from, gm)
			continue
		}
		m, err := decodeMessage(gm.Message)
		if err != nil {
			h.cfg.Logger.Warn("dropped a malformed raft message", "group", gm.Group, "from", from, "error", err)
			continue
		}
		g.receive(from, m, len(gm.Message))
	}
	for _, hb := range f.Heartbeats {
		if g := h.group(shard.RangeID(hb.Group)); g != nil {
			g.receiveHeartbeat(from, hb)
		} else if !hb.Response {
			h.strangers.tell(h, Stranger{from, shard.RangeID(hb.Group), shard.ReplicaID(hb.To)})
		}
	}
	for _, r := range f.Rounds {
		h.prover.handle(from, r)
	}
	h.nodes.flush()
}

// PeerUnreachable says that something sent to a node was lost.
func (h *Host) PeerUnreachable(node shard.NodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.mu.unreachable, node) {
		h.mu.unreachable = append(h.mu.unreachable, node)
	}
}

// Tick is one unit of Raft's time: TickInterval. Run calls it; a simulation does itself.
func (h *Host) Tick() {
	now := h.cfg.Now()
	h.clock.ticks.Add(1)
	h.mu.Lock()
	slept := now.Sub(h.mu.lastTick) - 3*h.cfg.TickInterval
	h.mu.lastTick = now
	lost := h.mu.unreachable
	h.mu.unreachable = nil
	h.mu.Unlock()

	h.strangers.tick()
	h.nodes.sayAlive()
	for _, node := range h.nodes.dead(now, max(slept, 0)) {
		h.nodeDied(node, false)
	}
	late := slept+h.cfg.TickInterval > 0
	for _, g := range h.ticking.all() {
		g.box.tick(lost)
		if late && g.pub.leads() {
			h.clock.late.Add(1)
		}
	}
	h.prover.tick(now)
	h.nodes.flush()
}

// fatal reports an error after which the process must not go on.
func (h *Host) fatal(err error) {
	h.mu.Lock()
	first := h.mu.fatal == nil
	if first {
		h.mu.fatal = err
		close(h.failed)
	}
	h.mu.Unlock()
	if first {
		h.cfg.OnFatal(err)
	}
}

// Run steps the groups until ctx ends, Close is called, or the log fails.
func (h *Host) Run(ctx context.Context) error {
	if h.cfg.Workers == 0 {
		return errors.New("raftgroup: Run needs workers")
	}
	for range h.cfg.Workers {
		h.wg.Go(func() { h.steps.work(32, h.cfg.Workers, h.nodes.flush) })
		h.wg.Go(func() { h.applies.work(1, h.cfg.Workers, h.nodes.flush) })
	}
	h.wg.Go(h.writer.loop)
	// Ticks are counted from when vote leases are: these end with a tick, not between two.
	ticker := time.NewTicker(h.cfg.TickInterval - max(h.cfg.Now().Sub(h.cfg.Alone), 0)%h.cfg.TickInterval)
	defer ticker.Stop()
	aligned := false
	defer h.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.failed:
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.mu.fatal
		case <-ticker.C:
			if !aligned {
				aligned = true
				ticker.Reset(h.cfg.TickInterval)
			}
			h.Tick()
		}
	}
}

// Step does one piece of the waiting work, and reports whether there was any that is not held. Only for Workers
// = 0: it makes every interleaving of steps, log writes and applies a choice of the simulation.
func (h *Host) Step() bool {
	kinds := make([]func(), 0, 3)
	if h.steps.len() > 0 && !h.cfg.Hold(WorkSteps) {
		kinds = append(kinds, func() { h.steps.one() })
	}
	if h.writer.len() > 0 && !h.cfg.Hold(WorkWrites) {
		kinds = append(kinds, func() { h.writer.writeOnce(false) })
	}
	if h.applies.len() > 0 && !h.cfg.Hold(WorkApplies) {
		kinds = append(kinds, func() { h.applies.one() })
	}
	if len(kinds) == 0 {
		return false
	}
	kinds[h.cfg.Choose(len(kinds))]()
	h.nodes.flush()
	return true
}

// Close stops the workers and waits for them. Proposals that no worker has taken are dropped,
// and say so. The log is the caller's to close, after this.
func (h *Host) Close() error {
	h.mu.Lock()
	again := h.mu.closed
	h.mu.closed = true
	h.mu.Unlock()
	h.steps.close()
	h.applies.close()
	h.writer.close()
	h.wg.Wait()
	if !again {
		h.prover.close()
		h.eachGroup(func(g *group) { g.stop(shard.ErrStopped) })
	}
	return nil
}
