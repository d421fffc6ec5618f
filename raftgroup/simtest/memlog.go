package simtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// MemLog is a raftgroup.Log in memory. Crash takes away what was not durable.
type MemLog struct {
	mu sync.Mutex
	// current is what readers see, durable what a crash leaves: the lazy updates in pending are
	// missing from it.
	current, durable map[shard.RangeID]*memGroup
	pending          []raftgroup.Update
	// Fail, when set, is what Save returns. A torn write sets it.
	Fail error
	// Saves counts the durable writes.
	Saves int
	tear  int // updates of the next batch that survive it, less one; 0: it is written whole
}

// ErrTorn is what the Save returns that was torn.
var ErrTorn = errors.New("memlog: the write was torn")

type memGroup struct {
	log   bool // there is one
	state raftgroup.LogState
	ents  []*raftpb.Entry // from state.Truncated.Index+1 on
}

var _ raftgroup.Log = (*MemLog)(nil)

// NewMemLog returns an empty log.
func NewMemLog() *MemLog {
	return &MemLog{current: map[shard.RangeID]*memGroup{}, durable: map[shard.RangeID]*memGroup{}}
}

// Save implements raftgroup.Log.
func (l *MemLog) Save(batch []raftgroup.Update) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Fail != nil {
		return l.Fail
	}
	if l.tear > 0 {
		return l.tornLocked(batch)
	}
	lazy := true
	for i := range batch {
		if err := applyUpdate(l.current, &batch[i]); err != nil {
			return err
		}
		lazy = lazy && batch[i].Lazy
	}
	l.pending = append(l.pending, batch...)
	if lazy {
		return nil
	}
	for i := range l.pending {
		if err := applyUpdate(l.durable, &l.pending[i]); err != nil {
			return err
		}
	}
	l.pending = nil
	l.Saves++
	return nil
}

// TearNext makes the next Save fail, and all after it, and leave the first keep updates of its batch durable, with
// all that was lazy before it, as a crash in the middle of a write may.
func (l *MemLog) TearNext(keep int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tear = keep + 1
}

func (l *MemLog) tornLocked(batch []raftgroup.Update) error {
	all := append(l.pending, batch[:min(l.tear-1, len(batch))]...)
	l.pending, l.tear, l.Fail = nil, 0, ErrTorn // as with any write that fails: until the crash there is no other
	for i := range all {
		if err := applyUpdate(l.durable, &all[i]); err != nil {
			return err
		}
	}
	return ErrTorn
}

// Crash forgets what was not durable, and every fault that was asked for.
func (l *MemLog) Crash() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending, l.tear, l.Fail = nil, 0, nil
	l.current = map[shard.RangeID]*memGroup{}
	for id, g := range l.durable {
		l.current[id] = &memGroup{log: g.log, state: g.state, ents: slices.Clone(g.ents)}
	}
}

func applyUpdate(m map[shard.RangeID]*memGroup, u *raftgroup.Update) error {
	if u.Remove {
		delete(m, u.Group)
	}
	g := m[u.Group]
	if g == nil && (u.Reset != nil || u.Replica != nil) {
		g = &memGroup{}
		m[u.Group] = g
	}
	if u.Replica != nil {
		g.state.Replica = *u.Replica
	}
	if u.Reset != nil {
		g.log, g.ents = true, nil
		g.state.Truncated, g.state.Last = *u.Reset, u.Reset.Index
	}
	if g == nil {
		if u.Remove {
			return nil
		}
		return fmt.Errorf("memlog: %v does not exist", u.Group)
	}
	if u.HardState != nil {
		g.state.HardState = *u.HardState
	}
	if u.Conf != nil {
		g.state.Conf = *u.Conf
	}
	if len(u.Entries) > 0 {
		first := u.Entries[0].GetIndex()
		if first <= g.state.Truncated.Index || first > g.state.Last+1 {
			return fmt.Errorf("memlog: %v: entries from %d do not follow (%d, %d]",
				u.Group, first, g.state.Truncated.Index, g.state.Last)
		}
		keep := first - g.state.Truncated.Index - 1
		g.ents = append(g.ents[:keep:keep], u.Entries...)
		g.state.Last = u.Entries[len(u.Entries)-1].GetIndex()
		for _, e := range u.Entries {
			if e.GetType() != raftpb.EntryNormal {
				g.state.Change = e.GetIndex()
			}
		}
	}
	if u.Truncate != nil && u.Truncate.Index > g.state.Truncated.Index {
		if u.Truncate.Index > g.state.Last {
			return fmt.Errorf("memlog: %v: truncation at %d above %d", u.Group, u.Truncate.Index, g.state.Last)
		}
		g.ents = slices.Clone(g.ents[u.Truncate.Index-g.state.Truncated.Index:])
		g.state.Truncated = *u.Truncate
	}
	return nil
}

// Load implements raftgroup.Log.
func (l *MemLog) Load(id shard.RangeID) (raftgroup.LogState, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.current[id]; g != nil {
		return g.state, g.log, nil
	}
	return raftgroup.LogState{}, false, nil
}

// Replicas implements raftgroup.Log.
func (l *MemLog) Replicas() ([]raftgroup.Replica, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []raftgroup.Replica
	for _, id := range slices.Sorted(maps.Keys(l.current)) {
		r := l.current[id].state.Replica
		r.Group = id
		out = append(out, r)
	}
	return out, nil
}

// Entries implements raftgroup.Log.
func (l *MemLog) Entries(id shard.RangeID, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.current[id]
	if g == nil || lo <= g.state.Truncated.Index || hi > g.state.Last+1 || lo > hi {
		return nil, raftgroup.ErrNoEntry
	}
	var out []*raftpb.Entry
	var size uint64
	for _, e := range g.ents[lo-g.state.Truncated.Index-1 : hi-g.state.Truncated.Index-1] {
		size += uint64(len(e.GetData())) + 24
		if size > maxBytes && len(out) > 0 {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

// Term implements raftgroup.Log.
func (l *MemLog) Term(id shard.RangeID, index uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.current[id]
	if g == nil || index <= g.state.Truncated.Index || index > g.state.Last {
		return 0, raftgroup.ErrNoEntry
	}
	return g.ents[index-g.state.Truncated.Index-1].GetTerm(), nil
}
