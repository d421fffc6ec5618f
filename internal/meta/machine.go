package meta

import (
	"errors"
	"fmt"
	"io"
	"os"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// Apply implements raftgroup.StateMachine.
func (m *Meta) Apply(ents []raftgroup.Entry) error {
	m.mu.Lock()
	defer m.unlock()
	for _, ent := range ents {
		if err := m.applyOne(ent); err != nil {
			return err
		}
	}
	return nil
}

func (m *Meta) applyOne(ent raftgroup.Entry) error {
	m.mu.sinceSnap.entries++
	m.mu.sinceSnap.bytes += len(ent.Data)
	if ent.Data == nil {
		m.mu.state.Apply(ent.Index, ent.Term, nil)
		return nil
	}
	var e pb.MetaEntry
	if err := e.UnmarshalVT(ent.Data); err != nil {
		return fmt.Errorf("meta: entry %d: %w: %w", ent.Index, shard.ErrCorrupt, err)
	}
	res := m.mu.state.Apply(ent.Index, ent.Term, &e)
	if isCorrupt(res.Err) {
		return fmt.Errorf("meta: %w", res.Err)
	}
	if res.Err == nil {
		m.observe(&e, res)
	}
	if e.Proposer != uint64(m.self) || e.Term != m.mu.ownTerm {
		return nil
	}
	if done := m.mu.waiters[e.ProposalId]; done != nil {
		delete(m.mu.waiters, e.ProposalId)
		done(res)
	}
	return nil
}

// observe lets the leader's timers follow what has applied.
func (m *Meta) observe(e *pb.MetaEntry, res state.Result) {
	if !m.mu.begun {
		return
	}
	switch {
	case e.Grant != nil:
		m.mu.lessor.Granted(m.cfg.Now(), res.Lease)
	case e.Revoke != nil:
		m.mu.lessor.Revoking(e.Revoke.Id)
		m.endLogged(res.Lease, false)
	case e.Forget != nil:
		m.mu.lessor.Forgotten(e.Forget.Id)
		m.ended(e.Forget.Id)
	case e.Compact != nil:
		m.compactionLogged()
	}
}

// Applied implements raftgroup.StateMachine.
func (m *Meta) Applied() (index, term uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.state.Position()
}

// Durable implements raftgroup.StateMachine: the log is kept above the snapshot file.
func (m *Meta) Durable() uint64 { return m.durable.Load() }

// SnapshotTo implements raftgroup.StateMachine.
func (m *Meta) SnapshotTo(w io.Writer) error {
	m.mu.Lock()
	payload, err := m.mu.state.Marshal()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = w.Write(encodeSnapshot(payload))
	return err
}

// writeSnapshot replaces the snapshot file if anything has applied since it was written.
func (m *Meta) writeSnapshot() error {
	m.fileMu.Lock()
	defer m.fileMu.Unlock()
	m.mu.Lock()
	index, _ := m.mu.state.Position()
	if index <= m.durable.Load() {
		m.mu.Unlock()
		return nil
	}
	payload, err := m.mu.state.Marshal()
	m.mu.sinceSnap.entries, m.mu.sinceSnap.bytes = 0, 0
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("meta: snapshot: %w", err)
	}
	path, err := stageSnapshot(m.cfg.Dir, encodeSnapshot(payload))
	if err != nil {
		return fmt.Errorf("meta: snapshot: %w", err)
	}
	if err := publishSnapshot(m.cfg.Dir, path); err != nil {
		return fmt.Errorf("meta: snapshot: %w", err)
	}
	m.durable.Store(index)
	return nil
}

// Receive implements raftgroup.StateMachine.
func (m *Meta) Receive(r io.Reader) (raftgroup.Staged, error) {
	raw, err := readStream(r)
	if err != nil {
		return nil, err
	}
	state, err := decodeSnapshot(raw)
	if err != nil {
		return nil, err
	}
	path, err := stageSnapshot(m.cfg.Dir, raw)
	if err != nil {
		return nil, fmt.Errorf("meta: snapshot: %w", err)
	}
	return &staged{m: m, state: state, path: path}, nil
}

// staged is a received snapshot beside the snapshot file.
type staged struct {
	m     *Meta
	state *state.State
	path  string
}

// Position implements raftgroup.Staged.
func (s *staged) Position() (index, term uint64) { return s.state.Position() }

// Install implements raftgroup.Staged.
func (s *staged) Install() error {
	s.m.fileMu.Lock()
	defer s.m.fileMu.Unlock()
	if err := publishSnapshot(s.m.cfg.Dir, s.path); err != nil {
		return fmt.Errorf("meta: install snapshot: %w", err)
	}
	index, _ := s.state.Position()
	s.m.durable.Store(index)
	s.m.mu.Lock()
	s.m.mu.state = s.state
	s.m.mu.sinceSnap.entries, s.m.mu.sinceSnap.bytes = 0, 0
	s.m.unlock()
	return nil
}

// Discard implements raftgroup.Staged.
func (s *staged) Discard() { os.Remove(s.path) }

// LeaderChanged implements raftgroup.Observer.
func (m *Meta) LeaderChanged(l raftgroup.Leadership) {
	m.mu.Lock()
	old := m.mu.lead
	m.mu.lead = l
	if old.IsLeader && (!l.IsLeader || l.Term != old.Term) {
		m.stepDown(m.notLeader())
	}
	if l.IsLeader && !m.mu.closed {
		m.leadTerm.Store(l.Term)
	}
	m.unlock()
}

// OwnTermApplied implements raftgroup.Observer: the state holds all that was committed before.
func (m *Meta) OwnTermApplied(term uint64) {
	m.mu.Lock()
	if m.mu.lead.IsLeader && m.mu.lead.Term == term && !m.mu.closed {
		m.mu.ownTerm = term
		limit, _ := m.mu.state.OracleLimit()
		m.mu.oracle.Lead(term, limit)
		m.progress()
	}
	m.unlock()
}

// stepDown ends the leadership: what was proposed has an open fate, what was not proposed may be
// asked elsewhere, which is what why says.
func (m *Meta) stepDown(why error) {
	m.leadTerm.Store(0)
	m.mu.ownTerm, m.mu.begun, m.mu.booting = 0, false, false
	m.mu.oracle.Follow()
	m.mu.lessor.Demote()
	asks, hungry, waiters := m.mu.asks, m.mu.starved, m.mu.waiters
	m.mu.asks, m.mu.starved, m.mu.demand = nil, nil, 0
	m.mu.given = given{}
	m.mu.waiters = make(map[uint64]func(state.Result))
	for _, a := range asks {
		a.fail(why)
	}
	for _, s := range hungry {
		s.answer(m, Now{}, why)
	}
	for _, done := range waiters {
		done(state.Result{Err: shard.ErrAmbiguous})
	}
	m.mu.ends.stop(why)
	m.mu.compact = compaction{}
	for _, ch := range m.mu.stepDowns {
		close(ch)
	}
	m.mu.stepDowns = nil
}

// progress does what the leader can do now: lay out a new cluster, raise the limit, begin to
// serve, and serve what has waited for that.
func (m *Meta) progress() {
	if m.mu.ownTerm == 0 {
		return
	}
	m.bootstrap()
	m.raise()
	if !m.mu.begun && m.ready() {
		m.begin()
	}
	m.feed()
	m.prove()
}

// ready reports whether questions may be answered, given a proof.
func (m *Meta) ready() bool { return m.mu.oracle.Serving() && m.mu.state.Bootstrapped() }

// begin starts the tasks of a leader.
func (m *Meta) begin() {
	m.mu.begun = true
	leases := m.mu.state.Leases()
	m.mu.lessor.Promote(m.cfg.Now(), leases)
	for _, l := range leases {
		if l.Revoking {
			m.endLogged(l, true) // somebody else's half-done work
		}
	}
	m.compactionLogged()
}

// bootstrap lays out a new cluster, once.
func (m *Meta) bootstrap() {
	if m.mu.state.Bootstrapped() || m.mu.booting || m.cfg.Bootstrap == nil {
		return
	}
	m.mu.booting = true
	m.propose(&pb.MetaEntry{Bootstrap: m.cfg.Bootstrap}, func(r state.Result) {
		switch {
		case r.Err == nil:
			m.mu.booting = false
			m.progress()
		case errors.Is(r.Err, shard.ErrInvalid): // it would be refused again
			m.later(func() { m.cfg.Logger.Error("the layout of the new cluster was refused", "error", r.Err) })
		default:
			m.mu.booting = false // the next tick tries again
		}
	})
}
