package simtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// Applied is one entry as a machine keeps it.
type Applied struct {
	Index, Term uint64
	Data        string
}

// MachineState is the state of a Machine.
type MachineState struct {
	Index, Term uint64
	Entries     []Applied // those with data, or with a context
	// Places are where the members live, as the last change with a context has it: Places in JSON.
	Places Places `json:",omitempty"`
}

// Places says where replicas live. It is never written once it is there.
type Places map[shard.ReplicaID]shard.NodeID

// Machine is a state machine and observer that remembers what it is given. A crash leaves what
// was flushed.
type Machine struct {
	State   MachineState
	flushed MachineState
	// AutoFlush makes every apply durable at once.
	AutoFlush bool
	// FailApply is what Apply returns.
	FailApply error
	// Waits is the data of an entry that Apply cannot apply yet.
	Waits string
	// CrashInInstall makes Install replace the state and then fail, as if the process had died.
	CrashInInstall bool
	// Events are the observer's calls, in order.
	Events    []string
	Leads     raftgroup.Leadership
	OwnTerm   uint64
	Installed int
	Discarded int
}

// ErrCrashed is what a machine returns that was told to die.
var ErrCrashed = errors.New("simtest: crashed")

// ErrWaits is why a machine waits.
var ErrWaits = errors.New("simtest: not yet")

// Apply implements raftgroup.StateMachine.
func (m *Machine) Apply(ents []raftgroup.Entry) error {
	if m.FailApply != nil {
		return m.FailApply
	}
	for _, e := range ents {
		if m.Waits != "" && string(e.Data) == m.Waits {
			return &raftgroup.Later{Index: e.Index, Why: ErrWaits}
		}
		if m.State.Index != 0 && e.Index != m.State.Index+1 || m.State.Index == 0 && e.Index != raftgroup.InitialIndex+1 {
			return fmt.Errorf("simtest: entry %d after %d", e.Index, m.State.Index)
		}
		m.State.Index, m.State.Term = e.Index, e.Term
		if e.Data != nil {
			m.State.Entries = append(m.State.Entries, Applied{e.Index, e.Term, string(e.Data)})
		}
		if len(e.Context) > 0 {
			m.State.Entries = append(m.State.Entries, Applied{e.Index, e.Term, "members " + string(e.Context)})
			m.State.Places = nil
			if err := json.Unmarshal(e.Context, &m.State.Places); err != nil {
				return err
			}
		}
	}
	if m.AutoFlush {
		m.Flush()
	}
	return nil
}

// Members is where the members live, nil: nobody has said so.
func (m *Machine) Members() map[shard.ReplicaID]shard.NodeID { return m.State.Places }

// Flush makes the state durable.
func (m *Machine) Flush() {
	m.flushed = m.State
	m.flushed.Entries = append([]Applied(nil), m.State.Entries...)
}

// Crash goes back to what was flushed.
func (m *Machine) Crash() {
	m.State = m.flushed
	m.State.Entries = append([]Applied(nil), m.flushed.Entries...)
	m.Leads, m.OwnTerm, m.Events = raftgroup.Leadership{}, 0, nil
}

// Lose forgets everything, as if the file had been lost.
func (m *Machine) Lose() {
	m.State, m.flushed = MachineState{}, MachineState{}
	m.Leads, m.OwnTerm, m.Events, m.FailApply = raftgroup.Leadership{}, 0, nil, nil
}

// Applied implements raftgroup.StateMachine.
func (m *Machine) Applied() (index, term uint64) { return m.State.Index, m.State.Term }

// Durable implements raftgroup.StateMachine.
func (m *Machine) Durable() uint64 { return m.flushed.Index }

// SnapshotTo implements raftgroup.StateMachine.
func (m *Machine) SnapshotTo(w io.Writer) error { return json.NewEncoder(w).Encode(m.State) }

// Receive implements raftgroup.StateMachine.
func (m *Machine) Receive(r io.Reader) (raftgroup.Staged, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	s := &staged{m: m}
	if err := json.Unmarshal(data, &s.state); err != nil {
		return nil, err
	}
	return s, nil
}

type staged struct {
	m     *Machine
	state MachineState
}

func (s *staged) Position() (index, term uint64) { return s.state.Index, s.state.Term }

func (s *staged) Install() error {
	s.m.State = s.state
	s.m.Installed++
	s.m.Flush()
	if s.m.CrashInInstall {
		return ErrCrashed
	}
	return nil
}

func (s *staged) Discard() { s.m.Discarded++ }

// LeaderChanged implements raftgroup.Observer.
func (m *Machine) LeaderChanged(l raftgroup.Leadership) {
	m.Leads = l
	m.Events = append(m.Events, fmt.Sprintf("leader %d term %d self %v", l.Leader, l.Term, l.IsLeader))
}

// OwnTermApplied implements raftgroup.Observer.
func (m *Machine) OwnTermApplied(term uint64) {
	m.OwnTerm = term
	m.Events = append(m.Events, fmt.Sprintf("own term %d", term))
}
