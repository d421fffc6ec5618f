package raftgroup

import (
	"log/slog"
	"maps"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// group is one replica. Its worker steps Raft, and keeps the parts beside it, each a type of its own: they
// belong to the step worker that holds box.running, unless they say something else.
type group struct {
	h     *Host
	cfg   GroupConfig // immutable
	log   *slog.Logger
	rn    *raft.RawNode
	store *groupStorage

	box   mailbox
	lane  applyLane
	proof *groupProofs // guarded by the prover's lock
	pub   published

	role       role
	members    members
	appends    appends
	snapshots  snapshots
	rebuild    rebuild
	truncation truncation
	quiescence quiescence
	campaign   campaign
	voteLease  voteLease
	notices    notices
	handover   handover
}

func newGroup(h *Host, cfg GroupConfig) (*group, error) {
	rec, err := recoverGroup(h.cfg.Log, &cfg)
	if err != nil {
		return nil, err
	}
	places := maps.Clone(cfg.Peers)
	if known := cfg.places(); len(known) > 0 {
		places = maps.Clone(known)
	}
	if places == nil {
		places = map[shard.ReplicaID]shard.NodeID{}
	}
	places[cfg.Replica] = h.cfg.Node
	cfg.Peers = nil // from here on the configuration says who takes part
	cfg.NoQuiesce = cfg.NoQuiesce || cfg.Lease || cfg.Lost
	index, term := cfg.SM.Applied()
	g := &group{h: h, cfg: cfg}
	g.campaign.fresh, g.quiescence.tickIndex = rec.fresh, -1
	g.appends.last, g.appends.state = rec.state.Last, rec.state.HardState
	g.appends.saved = g.appends.state
	g.log = h.cfg.Logger.With("group", cfg.ID.String(), "replica", uint64(cfg.Replica))
	g.box.h, g.box.slot.run = h, g.turn
	g.lane.slot.run = func() { g.lane.turn(g) }
	g.members.index = rec.state.Conf.Index
	g.store = &groupStorage{log: h.cfg.Log, id: cfg.ID, state: rec.state, applied: Position{index, term}}
	if cfg.Lost || index < rec.state.Truncated.Index {
		g.store.applied = rec.state.Truncated
	}
	g.rn, err = raft.NewRawNode(&raft.Config{
		ID:                        uint64(cfg.Replica),
		ElectionTick:              h.cfg.ElectionTicks,
		HeartbeatTick:             h.cfg.HeartbeatTicks,
		Storage:                   g.store,
		Applied:                   g.store.applied.Index,
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
	g.truncation.sizes.start(rec.state)
	g.pub.savedTerm.Store(rec.state.HardState.Term)
	g.voteLease.restart(g)
	g.members.now.Store(g.configuration(rec.state.Conf, places))
	g.pub.applied.Store(g.store.applied.Index)
	g.role.publish(g)
	if rec.fix != nil {
		g.appends.push(g, appendTask{g: g, update: rec.fix})
	}
	return g, nil
}

// start is the group's first work.
func (g *group) start() {
	if g.cfg.Lost {
		g.rebuild.ask(g)
		return
	}
	g.campaign.start(g)
}

// configuration is the one that Raft now has.
func (g *group) configuration(c Conf, places map[shard.ReplicaID]shard.NodeID) *configuration {
	return newConfiguration(&g.cfg, g.h.cfg.Node, c, g.rn.Status().Config.Voters, places)
}

// setConf notes the configuration that Raft now has, and where its replicas live; nil: as before.
func (g *group) setConf(c Conf, places map[shard.ReplicaID]shard.NodeID) {
	g.store.state.Conf = c
	g.members.index = c.Index
	g.members.place(g, places)
	if g.cfg.Lease && g.role.IsLeader {
		g.h.prover.renewLease(g)
	}
}

func (g *group) notLeader() error {
	e := &shard.NotLeaderError{Range: g.cfg.ID, Term: g.pub.term.Load()}
	if lead := shard.ReplicaID(g.pub.leader.Load()); lead != g.cfg.Replica {
		e.Leader = g.members.nodeOf(lead)
	}
	return e
}

func (g *group) status() Status {
	p := &g.pub
	lead := shard.ReplicaID(p.leader.Load())
	term := p.term.Load()
	return Status{
		Leadership: Leadership{Term: term, Leader: lead, IsLeader: p.leadTerm.Load() == term && term != 0},
		LeaderNode: g.members.nodeOf(lead),
		Commit:     p.commit.Load(),
		Applied:    p.applied.Load(),
		FirstIndex: p.first.Load(),
		LastIndex:  p.last.Load(),
		Quiescent:  p.quiescent.Load(),
		OwnTerm:    term != 0 && p.ownTerm.Load() == term && p.leadTerm.Load() == term,
		Conf:       g.members.conf().Conf,
	}
}

// fromPeer reports whether a message comes from where the replica that it names lives, and is
// meant for this replica.
func (g *group) fromPeer(node shard.NodeID, from, to uint64) bool {
	if shard.ReplicaID(to) != g.cfg.Replica {
		return false
	}
	at := g.members.nodeOf(shard.ReplicaID(from))
	return at == node || at == 0 && g.members.learn(g, shard.ReplicaID(from), node)
}

// receive takes a message of so many bytes from the network. Snapshots come another way.
func (g *group) receive(node shard.NodeID, m *raftpb.Message, size int) {
	if !g.fromPeer(node, m.GetFrom(), m.GetTo()) {
		return
	}
	if isStateRequest(m) {
		if g.pub.leadTerm.Load() != 0 {
			g.box.receiveCall(true, func() { g.rebuild.send(g, m.GetFrom()) })
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
		g.box.receiveCall(false, func() { g.quiescence.onRequest(g, hb) })
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
	g.h.ticking.remove(g)
	g.h.prover.fail(g)
	for i := range left.props {
		left.props[i].drop(shard.ErrUnavailable)
	}
	g.snapshots.discard()
	g.rebuild.discard()
	g.h.steps.wake(&g.box.slot) // for a last turn; see turn
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
	for _, mu := range []sync.Locker{&g.box.running, &g.lane.running} {
		func() { // the wait is the point; one at a time
			mu.Lock()
			defer mu.Unlock()
		}()
	}
}
