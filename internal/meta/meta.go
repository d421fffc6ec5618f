package meta

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/meta/lease"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// Meta is this node's replica of the meta group. Use Open. A nil *Meta answers every call with
// the news that it does not lead: a node without a replica of the group.
type Meta struct {
	*machine
	handovers
	cfg Config

	leadTerm atomic.Uint64 // the term in which this replica leads, 0 if it does not

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	rendering chan struct{} // holds one for every large answer that is being rendered

	// mu guards what follows, and the state of the machine.
	mu          *core
	lead        leadership
	log         proposals
	reads       leaderReads
	revisions   revisions
	lessor      *lease.Lessor
	revocations revocations
	compactions compactions
	ops         opDriver
	moves       groupMoves
	planner     planner
	own         ownWork
}

// ownWork is what a leader does beside what is asked of it: which of the entries that it logs by itself are on their way, and whom it has heard of.
type ownWork struct {
	booting  bool // a bootstrap entry
	raising  bool // one that raises the cluster's version
	leavers  leavers
	gateways gateways
}

// Open reads the snapshot file and returns the replica. It refuses a damaged file.
func Open(cfg Config) (*Meta, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	mu := &core{}
	s, err := openMachine(mu, cfg.Dir, cfg.Formats)
	if err != nil {
		return nil, err
	}
	m := &Meta{machine: s, cfg: cfg, mu: mu, lessor: lease.NewLessor(), rendering: make(chan struct{}, renderingMax)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	s.applied = m.observe
	s.moved = m.moves.applied
	m.moves.m, m.moves.learners.m, m.own.leavers.m = m, m, m
	m.lead = leadership{self: cfg.Replica, desc: m.descriptor}
	m.log = proposals{core: mu, lead: &m.lead, host: cfg.Host, waiting: make(map[uint64]func(state.Result))}
	m.reads = leaderReads{core: mu, lead: &m.lead, host: cfg.Host, ready: m.ready}
	m.revisions = revisions{core: mu, lead: &m.lead, machine: s, log: &m.log, progress: m.progress, settings: settingsChanges{m: m}}
	m.revocations = newRevocations(m)
	m.compactions = compactions{m: m}
	m.ops = newOpDriver(m)
	m.planner = newPlanner(m)
	m.handovers = handovers{m}
	if cfg.TickInterval > 0 {
		m.wg.Go(m.run)
	}
	return m, nil
}

// run ticks until Close.
func (m *Meta) run() {
	t := time.NewTicker(m.cfg.TickInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			m.Tick()
		case <-m.ctx.Done():
			return
		}
	}
}

// Close fails what waits, stops the driver and writes the snapshot file. The host must not call
// the replica any more.
func (m *Meta) Close() error {
	m.mu.Lock()
	m.lead.closed = true
	m.stepDown(shard.ErrUnavailable)
	m.mu.unlock()
	m.cancel()
	m.wg.Wait()
	m.tell(nil) // that it is closed
	return m.writeSnapshot()
}

// Tick looks after what time brings: expiry, retries, the oracle's step, the snapshot file. The
// driver calls it, unless Config.TickInterval is negative.
func (m *Meta) Tick() {
	now := m.cfg.Now()
	m.mu.Lock()
	m.revisions.tick()
	m.progress()
	expire := false
	if m.lead.serving {
		m.revocations.tick(now)
		m.compactions.tick(now)
		m.ops.tick(now)
		m.planner.tick(now)
		m.revisions.settings.tick(now)
		m.raiseVersion(func() {})
		m.own.leavers.tick(now)
		m.moves.learners.tick(now)
		next, ok := m.lessor.Next()
		expire = ok && !next.After(now) && !m.revocations.expiring
		m.revocations.expiring = m.revocations.expiring || expire
	}
	full := m.unfiled() || m.sinceSnap.entries >= m.cfg.SnapshotEntries || m.sinceSnap.bytes >= m.cfg.SnapshotBytes
	m.mu.unlock()
	if expire {
		m.expire()
	}
	var err error
	if full {
		if err = m.writeSnapshot(); err != nil {
			m.cfg.Logger.Error("the snapshot file was not replaced", "error", err)
		}
	}
	m.tell(err)
}

// observe lets the leader's timers follow what has applied, and answers whoever proposed it.
func (m *Meta) observe(e *pb.MetaEntry, res state.Result) {
	if m.lead.serving && res.Err == nil {
		switch {
		case e.Grant != nil:
			m.lessor.Granted(m.cfg.Now(), res.Lease)
		case e.Revoke != nil:
			m.lessor.Revoking(e.Revoke.Id)
			m.revocations.logged(res.Lease, e.Revoke.GrantIndex == 0) // the clock names the grant
		case e.Forget != nil:
			m.lessor.Forgotten(e.Forget.Id)
			m.revocations.forgotten(e.Forget.Id)
		case e.Compact != nil:
			m.compactions.logged()
		case e.RemoveMember != nil:
			m.planner.hurry(planSoon) // somebody may wait until the member has left the groups that need it
		case e.BeginOp != nil:
			m.ops.begun(res.Op)
		case e.EndOp != nil:
			m.ops.logged(res.Op)
			m.planner.logged(res.Op)
		}
		m.revisions.settings.applied()
	}
	if e.Proposer == uint64(m.lead.self) && e.Term == m.lead.ownTerm {
		m.log.finish(e.ProposalId, res)
	}
}

// LeaderChanged implements raftgroup.Observer.
func (m *Meta) LeaderChanged(l raftgroup.Leadership) {
	m.mu.Lock()
	old := m.lead.Leadership
	m.lead.Leadership = l
	if old.IsLeader && (!l.IsLeader || l.Term != old.Term) {
		m.stepDown(m.lead.notLeader())
	}
	if l.IsLeader && !m.lead.closed && !m.lead.removed {
		m.leadTerm.Store(l.Term)
	}
	m.mu.unlock()
}

// OwnTermApplied implements raftgroup.Observer: the state holds all that was committed before.
func (m *Meta) OwnTermApplied(term uint64) {
	m.mu.Lock()
	if m.lead.IsLeader && m.lead.Term == term && !m.lead.closed && !m.lead.removed {
		m.lead.ownTerm = term
		limit, _ := m.state.OracleLimit()
		m.revisions.begin(term, limit)
		m.progress()
	}
	m.mu.unlock()
}

// stepDown ends the leadership: what was proposed has an open fate, what was not proposed may be
// asked elsewhere, which is what why says.
func (m *Meta) stepDown(why error) {
	m.leadTerm.Store(0)
	m.own.leavers.stepDown(why)
	m.own.gateways.stepDown()
	m.own.booting, m.own.raising = false, false
	m.lessor.Demote()
	ended := m.lead.stepDown()
	m.reads.stepDown(why)
	m.revisions.stepDown(why)
	m.log.stepDown()
	m.revocations.stepDown(why)
	m.compactions.stepDown()
	m.ops.stepDown()
	m.moves.stepDown()
	m.planner.stepDown()
	m.revisions.settings.stepDown()
	for _, ch := range ended {
		close(ch)
	}
}

// progress does what the leader can do now: lay out a new cluster, raise the limit, begin to
// serve, and serve what has waited for that.
func (m *Meta) progress() {
	if m.lead.ownTerm == 0 {
		return
	}
	m.bootstrap()
	m.revisions.raise()
	if !m.lead.serving && m.ready() {
		m.begin()
	}
	m.revisions.drain()
	m.reads.confirm()
}

// ready reports whether requests may be served, once they are confirmed.
func (m *Meta) ready() bool { return m.revisions.oracle.Serving() && m.state.Bootstrapped() }

// begin starts the tasks of a leader.
func (m *Meta) begin() {
	m.lead.serving = true
	m.revisions.settings.lead(m.cfg.Now())
	leases := m.state.Leases()
	m.lessor.Promote(m.cfg.Now(), leases)
	for _, l := range leases {
		if l.Revoking {
			m.revocations.inherited(l) // somebody else's half-done work
		}
	}
	m.compactions.logged()
	for _, op := range m.state.OpsUnderWay() {
		m.ops.inherited(op)
	}
	m.planner.inherited(m.state.Ops())
}

// bootstrap lays out a new cluster, once.
func (m *Meta) bootstrap() {
	if m.state.Bootstrapped() || m.own.booting || m.cfg.Bootstrap == nil {
		return
	}
	m.own.booting = true
	m.log.propose(&pb.MetaEntry{Bootstrap: m.cfg.Bootstrap}, func(r state.Result) {
		switch {
		case r.Err == nil:
			m.own.booting = false
			if m.cfg.Bootstrap.Restored != nil { // revisions go on from those of the snapshot; none has been given out
				limit, _ := m.state.OracleLimit()
				m.revisions.begin(m.lead.ownTerm, limit)
			}
			m.progress()
		case errors.Is(r.Err, shard.ErrInvalid): // it would be refused again
			m.mu.later(func() { m.cfg.Logger.Error("the layout of the new cluster was refused", "error", r.Err) })
		default:
			m.own.booting = false // the next tick tries again
		}
	})
}

// raiseVersion raises the cluster's version to what every member announces. then is called with the lock held, once that has been tried, or
// at once if there is nothing to raise or somebody raises it already.
func (m *Meta) raiseVersion(then func()) {
	v := state.Announced(m.state.Members())
	if v <= m.state.ClusterVersion() || m.own.raising {
		then()
		return
	}
	m.own.raising = true
	m.log.propose(&pb.MetaEntry{ClusterVersion: &pb.MetaClusterVersion{Version: uint32(v)}}, func(r state.Result) {
		m.own.raising = false
		if r.Err == nil {
			m.mu.later(func() {
				m.cfg.Logger.Info("every member speaks a newer version of the formats: it is used from now on", "version", v)
			})
		}
		then()
	})
}

// leased returns the term for which the leader lease is valid now, 0 if it is not. Called
// without the lock: the host has locks of its own.
func (m *Meta) leased() uint64 {
	term := m.leadTerm.Load()
	if term == 0 || m.cfg.Mode != ModeLease {
		return 0
	}
	until, ok := m.cfg.Host.LeaseUntil(shard.MetaID, term)
	if !ok || !until.After(m.cfg.Now()) {
		return 0
	}
	return term
}

// read serves a leader read. epoch is the highest that the caller has seen.
// Called without the lock.
func (m *Meta) read(epoch uint64, r leaderRead) {
	leased := m.leased()
	m.mu.Lock()
	m.reads.add(leased, epoch, r)
	m.mu.unlock()
}

// descriptor is the meta group's, as the state has it or else as the node has heard.
func (m *Meta) descriptor() shard.Descriptor {
	if d := m.state.Meta(); d.ID != 0 {
		return d
	}
	return m.cfg.Desc
}

// Status is what this replica knows of the group without asking anybody.
type Status struct {
	raftgroup.Leadership
	LeaderNode      shard.NodeID // 0: unknown
	Index, LogTerm  uint64       // the last entry applied
	ClusterID       uint64
	CompactRevision int64
	Leases          int // 0 on followers
	Ending          int // leases that are being removed
	OracleLimit     int64
}

// Status returns it.
func (m *Meta) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := Status{Leadership: m.lead.Leadership, ClusterID: m.state.ClusterID(), CompactRevision: m.state.CompactRevision()}
	d := m.descriptor()
	if r, ok := d.Replica(m.lead.Leader); ok {
		st.LeaderNode = r.Node
	}
	st.Index, st.LogTerm = m.state.Position()
	st.Leases, st.Ending = m.lessor.Len(), len(m.revocations.open)
	st.OracleLimit, _ = m.state.OracleLimit()
	return st
}
