package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"pontoon/internal/durable"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// snapshotFile is a snapshot that has been received into a file of its own.
type snapshotFile struct {
	dir  string
	path string
	pos  mvcc.Position
}

// receiveFile reads a snapshot into a new directory below dir.
func receiveFile(dir string, id shard.RangeID, rd io.Reader) (*snapshotFile, error) {
	// A copy that was made for this range and is not wanted any more takes an empty directory with it.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%v: receive snapshot: %w", id, err)
	}
	tmp, err := os.MkdirTemp(dir, snapshotPrefix)
	if err != nil {
		return nil, fmt.Errorf("%v: receive snapshot: %w", id, err)
	}
	s := &snapshotFile{dir: tmp, path: filepath.Join(tmp, storeFile)}
	s.pos, err = mvcc.RestoreSnapshot(s.path, rd)
	if err == nil {
		_, err = io.Copy(io.Discard, rd)
	}
	if err != nil {
		s.Discard()
		return nil, fmt.Errorf("%v: receive snapshot: %w", id, err)
	}
	return s, nil
}

// Position is what the snapshot holds.
func (s *snapshotFile) Position() (index, term uint64) { return s.pos.Index, s.pos.Term }

// Discard removes the file. What it cannot remove is removed at the next start.
func (s *snapshotFile) Discard() { _ = os.RemoveAll(s.dir) }

// damagedKept bounds the damaged files that are kept for inspection.
const damagedKept = 3

const damagedPrefix = storeFile + ".damaged-"

// SetAside moves the file of a closed store out of the way, to a name that it returns, and removes
// older damaged ones beyond damagedKept. dir is the Dir of the replica's Config. The replica has
// no state after that. Its Raft log is untouched.
func SetAside(dir string, id shard.RangeID) (string, error) {
	dir = filepath.Join(dir, id.String())
	ents, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("%v: set the damaged file aside: %w", id, err)
	}
	var have []int
	for _, e := range ents {
		if rest, ok := strings.CutPrefix(e.Name(), damagedPrefix); ok {
			if n, err := strconv.Atoi(rest); err == nil && n > 0 {
				have = append(have, n)
			}
		}
	}
	slices.Sort(have)
	next := 1
	if len(have) > 0 {
		next = have[len(have)-1] + 1
	}
	name := func(n int) string { return filepath.Join(dir, damagedPrefix+strconv.Itoa(n)) }
	err = durable.Rename(filepath.Join(dir, storeFile), name(next))
	for len(have) >= damagedKept && err == nil {
		err, have = os.Remove(name(have[0])), have[1:]
	}
	if err != nil {
		return "", fmt.Errorf("%v: set the damaged file aside: %w", id, err)
	}
	return name(next), nil
}

// Rebuilder is the state machine of a group that was added as Lost: a replica without state. It only receives a
// state and installs it as the store's file.
type Rebuilder struct {
	dir       string
	id        shard.RangeID
	installed func()
}

var _ raftgroup.StateMachine = (*Rebuilder)(nil)

// NewRebuilder returns the state machine for the replica of a range below dir. installed is called once a state is
// installed, and must not block. The caller then stops the group and opens the replica.
func NewRebuilder(dir string, id shard.RangeID, installed func()) *Rebuilder {
	return &Rebuilder{dir: filepath.Join(dir, id.String()), id: id, installed: installed}
}

var errNoState = errors.New("the replica has no state")

// Apply implements raftgroup.StateMachine; a lost group applies nothing.
func (b *Rebuilder) Apply([]raftgroup.Entry) error { return fmt.Errorf("%v: %w", b.id, errNoState) }

// Applied implements raftgroup.StateMachine.
func (b *Rebuilder) Applied() (index, term uint64) { return 0, 0 }

// Durable implements raftgroup.StateMachine.
func (b *Rebuilder) Durable() uint64 { return 0 }

// SnapshotTo implements raftgroup.StateMachine.
func (b *Rebuilder) SnapshotTo(io.Writer) error { return fmt.Errorf("%v: %w", b.id, errNoState) }

// Receive implements raftgroup.StateMachine.
func (b *Rebuilder) Receive(rd io.Reader) (raftgroup.Staged, error) {
	f, err := receiveFile(b.dir, b.id, rd)
	if err != nil {
		return nil, err
	}
	return &rebuilderSnapshot{f, b}, nil
}

type rebuilderSnapshot struct {
	*snapshotFile
	b *Rebuilder
}

// Install implements raftgroup.Staged.
func (s *rebuilderSnapshot) Install() error {
	if err := durable.Rename(s.path, filepath.Join(s.b.dir, storeFile)); err != nil {
		return fmt.Errorf("%v: install snapshot: %w", s.b.id, err)
	}
	s.Discard()
	s.b.installed()
	return nil
}
