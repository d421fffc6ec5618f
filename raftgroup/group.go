package raftgroup

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func sortIDs(ids []uint64) { slices.Sort(ids) }

// group is one replica. Fields without a remark belong to the step worker that holds turnMu.
type group struct {
	h      *Host
	cfg    GroupConfig // immutable
	log    *slog.Logger
	step   slot
	apply  slot
	turnMu sync.Mutex // held during a turn; contended only by RemoveGroup

	rn         *raft.RawNode
	store      *groupStorage
	leadership Leadership
	ownIndex   uint64 // a leader's first entry of its term, 0: not seen yet
	ownTerm    uint64 // the last term in which ownIndex was committed
	last       uint64 // the last index appended
	applied    Position
	saved      HardState // the newest handed to the writer
	writing    int       // append tasks under way
	held       []appendTask
	installing bool // a snapshot is being installed; appends are held
	confIndex  uint64
	fresh      bool
	quiescent  bool
	idleTicks  int
	sizes      logSizes
	promise    promise
	acksOnly   bool              // nothing but acknowledgements has been stepped in this turn
	owed       map[uint64]uint64 // commit indexes that replicas are to be told; see notices
	standIn    int               // ticks until this voter stands for election without a leader; 0: as Raft decides
	standWait  int               // ticks before these are counted
	failed     error             // the state machine has failed; the group stops when it leads no more
	abdicating int               // ticks until it stops anyway
	stateTo    map[uint64]bool   // replicas that the state is being sent to
	// A staged snapshot while Raft decides about it, and its configuration's index.
	offered     Staged
	offeredConf uint64

	box   mailbox
	lane  applyLane
	proof *groupProofs // guarded by the prover's lock

	mu struct {
		sync.Mutex
		staged Staged

		receiving int      // snapshots that are being received
		rebuild   *rebuild // of a lost replica: received, not installed yet
	}
	tickIndex int // in Host.mu.ticking, guarded by Host.mu; -1: not there

	// pub is what others read without asking the worker.
	pub struct {
		term, leadTerm, leader atomic.Uint64 // leadTerm: the term that this replica leads, or 0
		ownTerm                atomic.Uint64 // the term in which it has committed an entry of its own
		savedTerm              atomic.Uint64 // the highest term that is durable
		commit, applied        atomic.Uint64
		first, last            atomic.Uint64
		durable                atomic.Uint64 // as the state machine last said
		noLease                atomic.Uint64 // the term in which a transfer began
		quiescent              atomic.Bool
		voters                 atomic.Pointer[quorum.JointConfig]
		ring                   atomic.Pointer[[]voter]
		lease                  atomic.Pointer[lease]
		conf                   atomic.Pointer[Conf]
	}
}

func newGroup(h *Host, cfg GroupConfig) (*group, error) {
	rec, err := recoverGroup(h.cfg.Log, &cfg)
	if err != nil {
		return nil, err
	}
	cfg.Peers = maps.Clone(cfg.Peers)
	cfg.NoQuiesce = cfg.NoQuiesce || cfg.Lease || cfg.Lost
	index, term := cfg.SM.Applied()
	g := &group{h: h, cfg: cfg, fresh: rec.fresh, last: rec.state.Last, saved: rec.state.HardState, tickIndex: -1}
	g.log = h.cfg.Logger.With("group", cfg.ID.String(), "replica", uint64(cfg.Replica))
	g.box.h, g.box.slot = h, &g.step
	g.step.run, g.apply.run = g.turn, g.applyTurn
	g.applied = Position{index, term}
	if cfg.Lost || index < rec.state.Truncated.Index {
		g.applied = rec.state.Truncated
	}
	g.confIndex = rec.state.Conf.Index
	g.store = &groupStorage{log: h.cfg.Log, id: cfg.ID, state: rec.state, snapshot: func() Position { return g.applied }}
	g.rn, err = raft.NewRawNode(&raft.Config{
		ID:                        uint64(cfg.Replica),
		ElectionTick:              h.cfg.ElectionTicks,
		HeartbeatTick:             h.cfg.HeartbeatTicks,
		Storage:                   g.store,
		Applied:                   g.applied.Index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             h.cfg.MaxMessageBytes,
		MaxCommittedSizePerReady:  h.cfg.MaxApplyBytes,
		MaxUncommittedEntriesSize: h.cfg.MaxUncommittedBytes,
		MaxInflightMsgs:           h.cfg.MaxInflightMessages,
		MaxInflightBytes:          h.cfg.MaxInflightBytes,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{g.log},
	})
	if err != nil {
		return nil, err
	}
	g.sizes.start(rec.state)
	g.pub.savedTerm.Store(rec.state.HardState.Term)
	g.promise.restart(g)
	g.setConf(rec.state.Conf)
	g.pub.applied.Store(g.applied.Index)
	g.publish()
	if rec.fix != nil {
		g.pushAppend(appendTask{g: g, update: rec.fix})
	}
	return g, nil
}

// start is the group's first work.
func (g *group) start() {
	if g.cfg.Lost {
		g.askForState()
		return
	}
	voters := len(g.pub.voters.Load().IDs())
	if voters == 1 || g.fresh && g.cfg.CampaignNow {
		_ = g.rn.Campaign() // refused only where it cannot be elected
	}
	if voters > 1 && !g.fresh {
		wait := max(standAfterStart-int(g.h.ticks.Load()), 1)
		g.standWait, g.standIn = wait, 1+standEvery*g.turnToStand(0) // nobody there is out of the count
	}
}

// setConf notes the configuration that Raft now has.
func (g *group) setConf(c Conf) {
	g.store.state.Conf = c
	g.pub.conf.Store(&c)
	v := g.rn.Status().Config.Voters
	g.pub.voters.Store(&v)
	ring := g.ring(&v)
	g.pub.ring.Store(&ring)
}

func (g *group) notLeader() error {
	e := &shard.NotLeaderError{Range: g.cfg.ID, Term: g.pub.term.Load()}
	if lead := shard.ReplicaID(g.pub.leader.Load()); lead != g.cfg.Replica {
		e.Leader = g.cfg.Peers[lead]
	}
	return e
}

func (g *group) status() Status {
	p := &g.pub
	lead := shard.ReplicaID(p.leader.Load())
	term := p.term.Load()
	return Status{
		Leadership: Leadership{Term: term, Leader: lead, IsLeader: p.leadTerm.Load() == term && term != 0},
		LeaderNode: g.cfg.Peers[lead],
		Commit:     p.commit.Load(),
		Applied:    p.applied.Load(),
		FirstIndex: p.first.Load(),
		LastIndex:  p.last.Load(),
		Quiescent:  p.quiescent.Load(),
		OwnTerm:    p.ownTerm.Load() == term && p.leadTerm.Load() == term,
	}
}

// fromPeer reports whether a message comes from where the replica that it names lives, and is
// meant for this replica.
func (g *group) fromPeer(node shard.NodeID, from, to uint64) bool {
	return g.cfg.Peers[shard.ReplicaID(from)] == node && shard.ReplicaID(to) == g.cfg.Replica
}

// receive takes a message of so many bytes from the network. Snapshots come another way.
func (g *group) receive(node shard.NodeID, m *raftpb.Message, size int) {
	if !g.fromPeer(node, m.GetFrom(), m.GetTo()) {
		return
	}
	if isStateRequest(m) {
		if g.pub.leadTerm.Load() != 0 {
			g.box.receiveCall(true, func() { g.sendState(m.GetFrom()) })
		}
		return
	}
	if !mayArrive(m.GetType()) {
		return
	}
	g.box.receive(size, bytesOf(m.GetEntries()), func(in *inbox) { in.msgs, in.work = append(in.msgs, m), true })
}

func (g *group) receiveHeartbeat(node shard.NodeID, hb *pb.Heartbeat) {
	if !g.fromPeer(node, hb.From, hb.To) {
		return
	}
	if hb.Quiesce {
		g.box.receiveCall(false, func() { g.onQuiesce(hb) })
		return
	}
	m, work := messageOf(hb), !hb.Response // an answer that crossed the leader's going to sleep does not wake it
	if hb.Notice {
		m.Context, work = noticeMark, true
	}
	g.box.receive(0, 0, func(in *inbox) { in.msgs, in.work = append(in.msgs, m), in.work || work })
}

// stop ends the group. Whoever waits for it is told, from here.
func (g *group) stop(why error) {
	left, ran := g.box.stop(why)
	if !ran {
		return
	}
	g.pub.leadTerm.Store(0)
	g.h.stopTicking(g)
	g.h.prover.fail(g)
	for i := range left.props {
		left.props[i].drop(shard.ErrUnavailable)
	}
	g.mu.Lock()
	staged, rebuild := g.mu.staged, g.mu.rebuild
	g.mu.staged, g.mu.rebuild = nil, nil
	g.mu.Unlock()
	if staged != nil {
		staged.Discard()
	}
	if rebuild != nil {
		rebuild.staged.Discard()
	}
	g.h.steps.wake(&g.step) // for a last turn; see turn
}

// fail stops the group for an error of its own.
func (g *group) fail(err error) {
	g.stop(err)
	g.log.Error("group stopped", "error", err)
	g.lane.push(g, applyTask{event: &Leadership{Term: g.pub.term.Load()}})
	g.h.cfg.OnGroupError(g.cfg.ID, err)
}

// awaitIdle waits until neither worker is in the group. It must have been stopped.
func (g *group) awaitIdle() {
	for _, mu := range []sync.Locker{&g.turnMu, &g.lane.running} {
		func() { // the wait is the point; one at a time
			mu.Lock()
			defer mu.Unlock()
		}()
	}
}

// startTicking lets a group take part in ticks.
func (h *Host) startTicking(g *group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g.tickIndex < 0 {
		g.tickIndex = len(h.mu.ticking)
		h.mu.ticking = append(h.mu.ticking, g)
	}
}

// stopTicking takes a group out of the ticks, in constant time.
func (h *Host) stopTicking(g *group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := g.tickIndex
	if i < 0 {
		return
	}
	last := len(h.mu.ticking) - 1
	moved := h.mu.ticking[last]
	h.mu.ticking[i], moved.tickIndex = moved, i
	h.mu.ticking[last] = nil
	h.mu.ticking = h.mu.ticking[:last]
	g.tickIndex = -1
}
