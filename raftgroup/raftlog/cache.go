package raftlog

import (
	"container/list"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// logEnds is where a group's log begins and ends.
type logEnds struct {
	truncated raftgroup.Position
	last      uint64
}

// groupLog is what is in memory of one group's log.
type groupLog struct {
	id shard.RangeID

	// Of the goroutine that calls Save.
	next  logEnds       // with the updates of the batch in hand
	elem  *list.Element // in Store.recent, nil: nothing cached
	bytes int64

	mu struct {
		sync.Mutex
		exists bool
		state  raftgroup.LogState
		tail   []*raftpb.Entry // the newest entries, without a gap up to state.Last
	}
}

// entryBytes is what an entry counts for, in the cache and against a reader's limit.
func entryBytes(e *raftpb.Entry) uint64 { return uint64(len(e.GetData())) + 24 }

// recent returns the cached ones among [lo, hi), and from where on everything is cached.
func (gl *groupLog) recent(lo, hi uint64) ([]*raftpb.Entry, uint64, error) {
	gl.mu.Lock()
	defer gl.mu.Unlock()
	st := &gl.mu.state
	if lo <= st.Truncated.Index || hi > st.Last+1 {
		return nil, 0, raftgroup.ErrNoEntry
	}
	from := st.Last + 1 - uint64(len(gl.mu.tail))
	if hi <= from {
		return nil, from, nil
	}
	return gl.mu.tail[max(lo, from)-from : hi-from : hi-from], from, nil
}

// note puts a saved update into memory.
func (s *Store) note(gl *groupLog, u *raftgroup.Update) {
	gl.mu.Lock()
	size := gl.bytes
	st := &gl.mu.state
	if u.Remove {
		gl.mu.exists, *st = false, raftgroup.LogState{}
		gl.mu.tail, size = nil, 0
	}
	if u.Replica != nil {
		st.Replica = *u.Replica
	}
	if u.Reset != nil {
		gl.mu.exists = true
		st.Truncated, st.Last = *u.Reset, u.Reset.Index
		gl.mu.tail, size = nil, 0
	}
	if u.HardState != nil {
		st.HardState = *u.HardState
	}
	if u.Conf != nil {
		st.Conf = *u.Conf
	}
	if n := uint64(len(u.Entries)); n > 0 {
		size += gl.appendLocked(u.Entries)
		st.Last = u.Entries[0].GetIndex() + n - 1
		if change := lastChange(u.Entries); change != 0 {
			st.Change = change
		}
	}
	if u.Truncate != nil && u.Truncate.Index > st.Truncated.Index {
		st.Truncated = *u.Truncate
		if cached := uint64(len(gl.mu.tail)); st.Last-st.Truncated.Index < cached {
			size -= gl.dropLocked(cached - (st.Last - st.Truncated.Index))
		}
	}
	gl.mu.Unlock()
	s.account(gl, size, len(u.Entries) > 0)
}

// appendLocked puts new entries behind the cached ones that they do not replace. It returns by
// how many bytes the cache has grown.
func (gl *groupLog) appendLocked(ents []*raftpb.Entry) int64 {
	tail := gl.mu.tail
	from := gl.mu.state.Last + 1 - uint64(len(tail))
	keep := uint64(0)
	if first := ents[0].GetIndex(); first > from {
		keep = first - from
	}
	grown := bytesOf(ents) - bytesOf(tail[keep:])
	if keep < uint64(len(tail)) {
		tail = tail[:keep:keep] // a reader may hold what lies behind: it is copied, not overwritten
	}
	gl.mu.tail = append(tail, ents...)
	return grown
}

// dropLocked forgets the n oldest cached entries, and returns their bytes.
func (gl *groupLog) dropLocked(n uint64) int64 {
	freed := bytesOf(gl.mu.tail[:n])
	rest := gl.mu.tail[n:]
	gl.mu.tail = append(make([]*raftpb.Entry, 0, len(rest)), rest...)
	return freed
}

func bytesOf(ents []*raftpb.Entry) (n int64) {
	for _, e := range ents {
		n += int64(entryBytes(e))
	}
	return n
}

// account keeps track of the cache's size and of who used it last.
func (s *Store) account(gl *groupLog, size int64, used bool) {
	s.cached += size - gl.bytes
	gl.bytes = size
	switch {
	case size == 0 && gl.elem != nil:
		s.recent.Remove(gl.elem)
		gl.elem = nil
	case size > 0 && gl.elem == nil:
		gl.elem = s.recent.PushFront(gl)
	case size > 0 && used:
		s.recent.MoveToFront(gl.elem)
	}
}

// evict brings the cache below its limit: the groups that were appended to longest ago go
// first, and a single large one loses its older half.
func (s *Store) evict() {
	for s.cached > s.opts.CacheBytes {
		gl := s.recent.Back().Value.(*groupLog)
		gl.mu.Lock()
		n := uint64(len(gl.mu.tail))
		drop := n
		if s.recent.Len() == 1 {
			drop = (n + 1) / 2
		}
		freed := gl.dropLocked(drop)
		gl.mu.Unlock()
		s.account(gl, gl.bytes-freed, false)
	}
}
