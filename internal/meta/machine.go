package meta

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// machine is the group's state machine with its snapshot file: raftgroup.StateMachine.
type machine struct {
	core    *core
	dir     string
	formats clusterversion.Version                // what this build speaks
	applied func(e *pb.MetaEntry, r state.Result) // told of every entry, with the lock held
	moved   func()                                // the same, of every change of the configuration

	durable atomic.Uint64 // index of the snapshot file
	fileMu  sync.Mutex    // one writer of the snapshot file at a time; taken before the lock

	// Under the lock:
	state     *state.State
	sinceSnap struct{ entries, bytes int }
	movedAt   uint64 // index of the last change of the configuration
	// untold wait for that to be in the file, until the next tick; as many as calls are under way. Called without the lock.
	untold []func(err error)
}

// openMachine reads the snapshot file of a directory, and refuses a damaged one.
func openMachine(c *core, dir string, formats clusterversion.Version) (*machine, error) {
	if err := removeStaged(dir); err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	st, err := loadSnapshot(dir)
	if err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	if err := formats.Join(st.ClusterVersion()); err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	s := &machine{core: c, dir: dir, formats: formats, state: st}
	index, _ := st.Position()
	s.durable.Store(index)
	return s, nil
}

// Apply implements raftgroup.StateMachine.
func (s *machine) Apply(ents []raftgroup.Entry) error {
	s.core.Lock()
	defer s.core.unlock()
	for _, ent := range ents {
		if err := s.applyOne(ent); err != nil {
			return err
		}
	}
	return nil
}

func (s *machine) applyOne(ent raftgroup.Entry) error {
	s.sinceSnap.entries++
	s.sinceSnap.bytes += len(ent.Data)
	if len(ent.Context) > 0 {
		return s.move(ent)
	}
	if ent.Data == nil {
		s.state.Apply(ent.Index, ent.Term, nil)
		return nil
	}
	var e pb.MetaEntry
	if err := e.UnmarshalVT(ent.Data); err != nil {
		return fmt.Errorf("meta: entry %d: %w: %w", ent.Index, shard.ErrCorrupt, err)
	}
	res := s.state.Apply(ent.Index, ent.Term, &e)
	if errors.Is(res.Err, shard.ErrCorrupt) {
		return fmt.Errorf("meta: %w", res.Err)
	}
	if err := s.formats.Join(s.state.ClusterVersion()); err != nil {
		return fmt.Errorf("meta: entry %d: %w", ent.Index, err)
	}
	s.applied(&e, res)
	return nil
}

// move takes in a change of the configuration. The file is to have it soon: a start finds the other replicas by it.
func (s *machine) move(ent raftgroup.Entry) error {
	var step pb.MoveStep
	if err := step.UnmarshalVT(ent.Context); err != nil {
		return fmt.Errorf("meta: entry %d: %w: %w", ent.Index, shard.ErrCorrupt, err)
	}
	if err := s.state.Move(ent.Index, ent.Term, &step); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	s.movedAt = ent.Index
	s.moved()
	return nil
}

// unfiled reports whether the file does not have the last change of the configuration yet.
func (s *machine) unfiled() bool { return s.movedAt > s.durable.Load() }

// Descriptor returns the group's as the state has it; false while there is no state.
func (s *machine) Descriptor() (shard.Descriptor, bool) {
	s.core.Lock()
	defer s.core.Unlock()
	return s.state.Meta(), s.state.Bootstrapped()
}

// Applied implements raftgroup.StateMachine.
func (s *machine) Applied() (index, term uint64) {
	s.core.Lock()
	defer s.core.Unlock()
	return s.state.Position()
}

// Durable implements raftgroup.StateMachine: the log is kept above the snapshot file.
func (s *machine) Durable() uint64 { return s.durable.Load() }

// SnapshotTo implements raftgroup.StateMachine.
func (s *machine) SnapshotTo(w io.Writer) error {
	s.core.Lock()
	image := s.state.Image()
	s.core.Unlock()
	payload, err := image.Marshal()
	if err != nil {
		return err
	}
	_, err = w.Write(encodeSnapshot(payload))
	return err
}

// tell lets those go on who have waited for the file, and says whether it could be written.
func (s *machine) tell(err error) {
	s.core.Lock()
	waiting := s.untold
	s.untold = nil
	s.core.unlock()
	for _, w := range waiting {
		w(err)
	}
}

// writeSnapshot replaces the snapshot file if anything has applied since it was written.
func (s *machine) writeSnapshot() error {
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	s.core.Lock()
	index, _ := s.state.Position()
	if index <= s.durable.Load() {
		s.core.Unlock()
		return nil
	}
	image := s.state.Image()
	s.sinceSnap.entries, s.sinceSnap.bytes = 0, 0
	s.core.Unlock()
	payload, err := image.Marshal()
	if err != nil {
		return fmt.Errorf("meta: snapshot: %w", err)
	}
	path, err := stageSnapshot(s.dir, encodeSnapshot(payload))
	if err != nil {
		return fmt.Errorf("meta: snapshot: %w", err)
	}
	if err := publishSnapshot(s.dir, path); err != nil {
		return fmt.Errorf("meta: snapshot: %w", err)
	}
	s.durable.Store(index)
	return nil
}

// Receive implements raftgroup.StateMachine.
func (s *machine) Receive(r io.Reader) (raftgroup.Staged, error) {
	raw, err := readStream(r)
	if err != nil {
		return nil, err
	}
	st, err := decodeSnapshot(raw)
	if err != nil {
		return nil, err
	}
	if err := s.formats.Join(st.ClusterVersion()); err != nil {
		return nil, fmt.Errorf("meta: snapshot: %w", err)
	}
	path, err := stageSnapshot(s.dir, raw)
	if err != nil {
		return nil, fmt.Errorf("meta: snapshot: %w", err)
	}
	return &staged{s: s, state: st, path: path}, nil
}

// staged is a received snapshot beside the snapshot file.
type staged struct {
	s     *machine
	state *state.State
	path  string
}

// Position implements raftgroup.Staged.
func (p *staged) Position() (index, term uint64) { return p.state.Position() }

// Install implements raftgroup.Staged.
func (p *staged) Install() error {
	s := p.s
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	if err := publishSnapshot(s.dir, p.path); err != nil {
		return fmt.Errorf("meta: install snapshot: %w", err)
	}
	index, _ := p.state.Position()
	s.durable.Store(index)
	s.core.Lock()
	s.state = p.state
	s.sinceSnap.entries, s.sinceSnap.bytes = 0, 0
	s.core.unlock()
	return nil
}

// Discard implements raftgroup.Staged.
func (p *staged) Discard() { os.Remove(p.path) }
