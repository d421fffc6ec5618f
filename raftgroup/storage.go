package raftgroup

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// groupStorage shows Raft one group's log. It is used by the group's step worker only. Its
// bounds are what Raft has been told, which may be behind what the log writer has written.
type groupStorage struct {
	log   Log
	id    shard.RangeID
	state LogState
	// applied is what the state machine has applied, as far as the worker has heard: an outgoing snapshot
	// is there, or after it.
	applied Position
}

// storageError marks what the log answered, so that the group can tell it from a Raft panic.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// noteSaved moves the bounds that Raft sees to what the writer has written.
func (s *groupStorage) noteSaved(m *raftpb.Message) {
	st := &s.state
	if meta := m.GetSnapshot().GetMetadata(); meta != nil {
		at := Position{meta.GetIndex(), meta.GetTerm()}
		if at.Index > st.Truncated.Index {
			st.Truncated, st.Last = at, at.Index
			if s.applied.Index < at.Index {
				s.applied = at
			}
		}
	}
	if m.GetIndex() != 0 {
		st.Last = max(m.GetIndex(), st.Truncated.Index)
	}
}

func (s *groupStorage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hs := s.state.HardState
	return &raftpb.HardState{Term: &hs.Term, Vote: &hs.Vote, Commit: &hs.Commit}, s.state.Conf.State, nil
}

func (s *groupStorage) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= s.state.Truncated.Index {
		return nil, raft.ErrCompacted
	}
	if hi > s.state.Last+1 {
		return nil, raft.ErrUnavailable
	}
	ents, err := s.log.Entries(s.id, lo, hi, maxSize)
	if err != nil {
		return nil, &storageError{fmt.Errorf("read entries [%d, %d): %w", lo, hi, err)}
	}
	return ents, nil
}

func (s *groupStorage) Term(i uint64) (uint64, error) {
	switch {
	case i == s.state.Truncated.Index:
		return s.state.Truncated.Term, nil
	case i < s.state.Truncated.Index:
		return 0, raft.ErrCompacted
	case i > s.state.Last:
		return 0, raft.ErrUnavailable
	}
	t, err := s.log.Term(s.id, i)
	if err != nil {
		return 0, &storageError{fmt.Errorf("read the term of entry %d: %w", i, err)}
	}
	return t, nil
}

func (s *groupStorage) LastIndex() (uint64, error)  { return s.state.Last, nil }
func (s *groupStorage) FirstIndex() (uint64, error) { return s.state.Truncated.Index + 1, nil }

func (s *groupStorage) Snapshot() (*raftpb.Snapshot, error) {
	at := s.applied
	if at.Index == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: s.state.Conf.State,
		Index:     &at.Index,
		Term:      &at.Term,
	}}, nil
}

// recovered is the state with which a group starts, and what must be written for it.
type recovered struct {
	state LogState
	fresh bool    // nothing was ever written or voted here
	fix   *Update // brings the log to state
}

// recoverGroup compares a group's log with its state machine, and notes that the replica is here.
func recoverGroup(log Log, cfg *GroupConfig) (recovered, error) {
	index, term := cfg.SM.Applied()
	st, ok, err := log.Load(cfg.ID)
	if err != nil {
		return recovered{}, fmt.Errorf("load the log of %v: %w", cfg.ID, err)
	}
	if err := st.Replica.check(cfg); err != nil {
		return recovered{}, err
	}
	if err := checkBirth(cfg, &st, ok, Position{index, term}); err != nil {
		return recovered{}, err
	}
	rec, err := recoverLog(log, cfg, st, ok, Position{index, term})
	if err != nil {
		return recovered{}, err
	}
	conf := rec.state.Conf.Index
	if !cfg.Lost {
		if err := recoverConf(log, cfg.ID, &rec.state, index); err != nil {
			return recovered{}, err
		}
	}
	note := rec.state.Replica.note(cfg, index)
	if rec.fix == nil && (note != nil || rec.state.Conf.Index != conf) {
		rec.fix = &Update{Group: cfg.ID, Lazy: true} // it is found again
	}
	if rec.fix != nil {
		rec.fix.Replica, rec.fix.Conf = note, &rec.state.Conf
	}
	return rec, nil
}

func recoverLog(log Log, cfg *GroupConfig, st LogState, ok bool, applied Position) (recovered, error) {
	switch {
	case !ok && cfg.Waiting && applied.Index == 0:
		return wait(cfg.ID, st), nil
	case !ok:
		return bootstrap(cfg, st, applied), nil
	case applied.Index > st.Last && !cfg.Lost:
		return resetTo(cfg, st, applied), nil
	case cfg.Lost:
		applied = Position{}
		if len(st.Conf.State.GetVoters()) < 2 && st.Replica.State != ReplicaWaiting {
			return recovered{}, fmt.Errorf("%v: %w: its state is lost, and no other replica has it", cfg.ID, shard.ErrCorrupt)
		}
	case applied.Index < st.Truncated.Index && !(applied.Index == 0 && bornEmpty(st.Truncated)):
		return recovered{}, fmt.Errorf("%v: %w: %w: after index %d, but the state ends at %d",
			cfg.ID, shard.ErrCorrupt, ErrStateBehind, st.Truncated.Index, applied.Index)
	}
	older, err := compareTerms(log, cfg.ID, st, applied)
	if err != nil {
		return recovered{}, err
	}
	if older || mutate.On(mutate.StateOverAgreed) && applied.Index > st.Truncated.Index {
		return resetTo(cfg, st, applied), nil
	}
	hs := &st.HardState
	fresh := hs.Vote == 0 && (st.Last == InitialIndex && hs.Term <= InitialTerm || st.Last == 0 && hs.Term == 0)
	hs.Commit = max(hs.Commit, applied.Index, st.Truncated.Index)
	return recovered{state: st, fresh: fresh}, nil
}

// bornEmpty reports whether a log that begins behind a position has everything in it that there ever was. A child's
// log begins one entry later, with a state.
func bornEmpty(truncated Position) bool {
	return truncated.Index == InitialIndex || mutate.On(mutate.ChildReplayed) && truncated == BirthPosition()
}

// compareTerms refuses a state machine and a log that have different histories. Where the log's entry at
// the state's position is of an older term, and was never known to be committed, the state came as a
// snapshot, in place of entries that nobody had committed: older says so.
func compareTerms(log Log, id shard.RangeID, st LogState, applied Position) (older bool, err error) {
	if applied.Index <= st.Truncated.Index {
		return false, nil
	}
	t, err := log.Term(id, applied.Index)
	if err != nil {
		return false, fmt.Errorf("%v: read the term of entry %d: %w", id, applied.Index, err)
	}
	switch {
	case t == applied.Term:
		return false, nil
	case t < applied.Term && st.HardState.Commit < applied.Index:
		return true, nil
	}
	return false, fmt.Errorf("%v: %w: entry %d has term %d in the log, %d in the state",
		id, shard.ErrCorrupt, applied.Index, t, applied.Term)
}

// bootstrap begins a log: at the initial position, or where the state machine stands.
func bootstrap(cfg *GroupConfig, before LogState, applied Position) recovered {
	base := Position{InitialIndex, InitialTerm}
	if applied.Index > base.Index {
		base = applied
	}
	st := LogState{
		HardState: HardState{Term: base.Term, Commit: base.Index},
		Conf:      firstConf(cfg, base.Index),
		Truncated: base,
		Last:      base.Index,
		Replica:   before.Replica,
	}
	return recovered{state: st, fresh: true, fix: fixOf(cfg.ID, st)}
}

// firstConf has all peers as voters, but for the learners.
func firstConf(cfg *GroupConfig, index uint64) Conf {
	cs := &raftpb.ConfState{}
	for id := range cfg.Peers {
		if slices.Contains(cfg.Learners, id) {
			cs.Learners = append(cs.Learners, uint64(id))
		} else {
			cs.Voters = append(cs.Voters, uint64(id))
		}
	}
	slices.Sort(cs.Voters)
	slices.Sort(cs.Learners)
	return Conf{State: cs, Index: index}
}

// wait begins an empty log, in no configuration: everything comes from a leader.
func wait(id shard.RangeID, before LogState) recovered {
	st := LogState{Conf: Conf{State: &raftpb.ConfState{}}, Replica: before.Replica}
	return recovered{state: st, fresh: true, fix: fixOf(id, st)}
}

// resetTo repairs a log that ends below the state machine's position, or has another history there: a
// crash came between the installation of a snapshot and the reset of the log. The hard state is never
// lowered: a replica that has waited keeps its vote. One that has got its state in another way than by a snapshot
// is in no configuration yet.
func resetTo(cfg *GroupConfig, st LogState, applied Position) recovered {
	if len(st.Conf.State.GetVoters()) == 0 {
		st.Conf = firstConf(cfg, applied.Index)
	}
	if st.HardState.Term < applied.Term || cfg.Born && mutate.On(mutate.BirthForgetsVote) {
		st.HardState.Term, st.HardState.Vote = applied.Term, 0
	}
	st.HardState.Commit = applied.Index
	st.Truncated, st.Last = applied, applied.Index
	return recovered{state: st, fix: fixOf(cfg.ID, st)}
}

func fixOf(id shard.RangeID, st LogState) *Update {
	return &Update{Group: id, Reset: &st.Truncated, HardState: &st.HardState, Conf: &st.Conf}
}

// errorOf turns what Raft or its storage panicked with into an error, and lets every other
// panic pass.
func errorOf(p any) error {
	if rp, ok := p.(raftPanic); ok {
		return fmt.Errorf("raft: %s", string(rp))
	}
	if err, ok := p.(error); ok {
		var se *storageError
		if errors.As(err, &se) {
			return se
		}
	}
	panic(p)
}
