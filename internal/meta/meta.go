package meta

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/meta/lease"
	"pontoon/internal/meta/oracle"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// Meta is this node's replica of the meta group. Use Open. A nil *Meta answers every call with
// the news that it does not lead: a node without a replica of the group.
type Meta struct {
	cfg  Config
	self shard.ReplicaID

	leadTerm atomic.Uint64 // the term in which this replica leads, 0 if it does not
	durable  atomic.Uint64 // index of the snapshot file

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	fileMu sync.Mutex // one writer of the snapshot file at a time; taken before mu

	// mu guards what follows. Callbacks and calls of the host are put into out, and made by
	// unlock after mu is free, in order: the order of proposals is the order in the log.
	mu struct {
		sync.Mutex
		state  *state.State
		oracle oracle.Oracle
		lessor *lease.Lessor
		ranges RangeOps

		lead    raftgroup.Leadership
		ownTerm uint64 // leads it and has applied an entry of it
		begun   bool   // serves since then
		closed  bool

		lastProposal uint64
		waiters      map[uint64]func(state.Result) // by proposal id; called with mu held
		booting      bool                          // a bootstrap entry is on its way

		asks    []ask
		proofs  int
		given   given // of this leadership
		starved []starved
		demand  int64 // revisions that starved waits for

		ends      ends
		compact   compaction
		stepDowns []chan struct{} // closed when this leadership ends

		ticks     int
		sinceSnap struct{ entries, bytes int }

		out      []func()
		draining bool
	}
}

// Open reads the snapshot file and returns the replica. It refuses a damaged file.
func Open(cfg Config) (*Meta, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := removeStaged(cfg.Dir); err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	st, err := loadSnapshot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	self, _ := cfg.Desc.ReplicaOn(cfg.Node)
	m := &Meta{cfg: cfg, self: self.ID}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.state, m.mu.lessor, m.mu.ranges = st, lease.NewLessor(), cfg.Ranges
	m.mu.waiters = make(map[uint64]func(state.Result))
	m.mu.ends.reset()
	index, _ := st.Position()
	m.durable.Store(index)
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

// SetRanges says who carries out decisions in the ranges.
func (m *Meta) SetRanges(r RangeOps) {
	m.mu.Lock()
	m.mu.ranges = r
	m.unlock()
}

// Close fails what waits, stops the driver and writes the snapshot file. The host must not call
// the replica any more.
func (m *Meta) Close() error {
	m.mu.Lock()
	m.mu.closed = true
	m.stepDown(shard.ErrUnavailable)
	m.unlock()
	m.cancel()
	m.wg.Wait()
	return m.writeSnapshot()
}

// unlock makes the calls that were put into out, in order, and releases mu. Only one goroutine
// makes them at a time; another one that comes by leaves its own to it.
func (m *Meta) unlock() {
	if m.mu.draining {
		m.mu.Unlock()
		return
	}
	m.mu.draining = true
	for len(m.mu.out) > 0 {
		calls := m.mu.out
		m.mu.out = nil
		m.mu.Unlock()
		for _, call := range calls {
			call()
		}
		m.mu.Lock()
	}
	m.mu.draining = false
	m.mu.Unlock()
}

// later makes a call when mu is free.
func (m *Meta) later(call func()) { m.mu.out = append(m.mu.out, call) }

// propose logs e in the term that this replica leads. done is called once, with mu held:
// with the entry's result; with a retryable error if it certainly was not logged; or with
// ErrAmbiguous if the leadership ended first.
func (m *Meta) propose(e *pb.MetaEntry, done func(state.Result)) {
	term := m.mu.ownTerm
	switch {
	case term == 0:
		done(state.Result{Err: m.notLeader()})
		return
	case len(m.mu.waiters) >= waitersMax:
		done(state.Result{Err: shard.ErrTooManyRequests})
		return
	}
	m.mu.lastProposal++
	id := m.mu.lastProposal
	e.Term, e.ProposalId, e.Proposer = term, id, uint64(m.self)
	data, err := e.MarshalVT()
	if err != nil {
		done(state.Result{Err: fmt.Errorf("%w: %w", shard.ErrInvalid, err)})
		return
	}
	m.mu.waiters[id] = done
	m.later(func() {
		if err := m.cfg.Host.ProposeFunc(shard.MetaID, term, data, func(err error) { m.dropped(id, err) }); err != nil {
			m.dropped(id, err)
		}
	})
}

// dropped tells that a proposal certainly was not logged.
func (m *Meta) dropped(id uint64, err error) {
	m.mu.Lock()
	if done := m.mu.waiters[id]; done != nil {
		delete(m.mu.waiters, id)
		if !shard.Retryable(err) {
			err = fmt.Errorf("%w: %w", shard.ErrUnavailable, err)
		}
		done(state.Result{Err: err})
	}
	m.unlock()
}

// notLeader says who may lead instead.
func (m *Meta) notLeader() error {
	e := &shard.NotLeaderError{Range: shard.MetaID, Term: m.mu.lead.Term}
	if m.mu.lead.Leader != m.self {
		d := m.descriptor()
		e.Leader = d.NodeOf(m.mu.lead.Leader)
	}
	return e
}

// descriptor is the meta group's, as the state has it or else as the node was started.
func (m *Meta) descriptor() shard.Descriptor {
	if m.mu.state.Bootstrapped() && m.mu.state.Meta().ID != 0 {
		return m.mu.state.Meta()
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
	st := Status{Leadership: m.mu.lead, ClusterID: m.mu.state.ClusterID(), CompactRevision: m.mu.state.CompactRevision()}
	d := m.descriptor()
	if r, ok := d.Replica(m.mu.lead.Leader); ok {
		st.LeaderNode = r.Node
	}
	st.Index, st.LogTerm = m.mu.state.Position()
	st.Leases, st.Ending = m.mu.lessor.Len(), len(m.mu.ends.open)
	st.OracleLimit, _ = m.mu.state.OracleLimit()
	return st
}
