package raftgroup

import (
	"sort"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Truncation. Each replica truncates its own log: never above what its state machine holds
// durably, and in strides, because every truncation is a write. What is kept beyond that is for
// followers that are behind: as much as they need, up to CatchUpEntries and CatchUpBytes. One
// that needs more than that gets a snapshot, and what it will need after it is kept until it has come
// as near as others, up to snapshotKeep times as much: to send the state once more would cost more. A leader keeps nothing for a node that has been
// silent for deadAfter election timeouts.
const (
	snapshotKeep   = 16
	deadAfter      = 100
	truncateStride = 16 // entries: one sixteenth of CatchUpEntries at a time, but at least 64
)

// truncation is what a group's log is dropped by. It belongs to the step worker.
type truncation struct {
	sizes   logSizes
	resumes map[uint64]uint64 // replicas that a leader has sent a snapshot, and its index; until they have come near. Those of the last look
}

// maybe drops the front of the log if that is worth a write.
func (t *truncation) maybe(g *group) {
	if target, worth := t.target(g, min(g.pub.durable.Load(), g.store.applied.Index)); worth {
		t.truncate(g, target)
	}
}

// target says up to where the log may be dropped when the state machine holds so much
// durably, and whether that is worth a write.
func (t *truncation) target(g *group, durable uint64) (target uint64, worth bool) {
	first := g.store.state.Truncated.Index
	stride := max(g.h.cfg.CatchUpEntries/truncateStride, 64)
	if durable <= first {
		return 0, false
	}
	if durable-first < stride && t.sizes.above(first) < g.h.cfg.CatchUpBytes/truncateStride {
		return 0, false
	}
	target = min(durable, t.keepAbove(g))
	worth = target > first &&
		(target-first >= stride || t.sizes.above(first)-t.sizes.above(target) >= g.h.cfg.CatchUpBytes/truncateStride)
	return target, worth
}

func (t *truncation) truncate(g *group, index uint64) {
	term, err := g.store.Term(index)
	if err != nil {
		panic(err)
	}
	at := Position{index, term}
	g.store.state.Truncated = at
	t.sizes.truncate(index)
	g.pub.first.Store(index + 1)
	g.appends.push(g, appendTask{g: g, update: &Update{Group: g.cfg.ID, Truncate: &at, Lazy: true}})
	g.log.Debug("truncated the log", "index", index)
}

// keepAbove returns the index above which somebody may need the log.
func (t *truncation) keepAbove(g *group) uint64 {
	budget := t.sizes.floor(g.appends.last, g.h.cfg.CatchUpEntries, g.h.cfg.CatchUpBytes)
	if !g.role.IsLeader {
		t.resumes = nil
		return budget
	}
	needed, pinned := g.appends.last, g.appends.last
	now := g.h.cfg.Now()
	var resumes map[uint64]uint64
	resume := func(id, at uint64) {
		if resumes == nil {
			resumes = make(map[uint64]uint64)
		}
		resumes[id], pinned = at, min(pinned, at)
	}
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		heard, alive := g.h.nodes.lastHeard(g.members.nodeOf(shard.ReplicaID(id)))
		if id == uint64(g.cfg.Replica) || !alive && now.Sub(heard) > deadAfter*g.h.cfg.electionTimeout() {
			return
		}
		if pr.State == tracker.StateSnapshot {
			resume(id, pr.PendingSnapshot)
			return
		}
		needed = min(needed, pr.Match)
		// Raft calls a snapshot delivered when it is, and the replica has yet to make it its state and to take what was logged since.
		if at := t.resumes[id]; at != 0 && pr.Match < budget && !mutate.On(mutate.SnapshotForgotten) {
			resume(id, max(at, pr.Match))
		}
	})
	t.resumes = resumes
	far := t.sizes.floor(g.appends.last, snapshotKeep*g.h.cfg.CatchUpEntries, snapshotKeep*g.h.cfg.CatchUpBytes)
	return min(max(needed, budget), max(pinned, far))
}

// sizeMark says that up to and including index so many bytes had been appended.
type sizeMark struct{ index, bytes uint64 }

// logSizes knows roughly how many bytes of a log lie above an index.
type logSizes struct {
	base, total uint64 // the index and the bytes where counting began, and bytes so far
	marks       []sizeMark
}

const (
	sizeMarkBytes  = 32 << 10
	entryBytesMean = 256 // assumed for what was in the log at the start
)

func (s *logSizes) start(st LogState) {
	s.reset(st.Truncated.Index)
	for i := st.Truncated.Index; i < st.Last; i += sizeMarkBytes / entryBytesMean {
		s.marks = append(s.marks, sizeMark{i, s.total})
		s.total += min(st.Last-i, sizeMarkBytes/entryBytesMean) * entryBytesMean
	}
}

func (s *logSizes) reset(index uint64) { *s = logSizes{base: index} }

func (s *logSizes) append(ents []*raftpb.Entry) {
	before := ents[0].GetIndex() - 1
	for n := len(s.marks); n > 0 && s.marks[n-1].index > before; n-- {
		s.total = s.marks[n-1].bytes // what is overwritten does not count
		s.marks = s.marks[:n-1]
	}
	if n := len(s.marks); n == 0 || s.total-s.marks[n-1].bytes >= sizeMarkBytes {
		s.marks = append(s.marks, sizeMark{before, s.total})
	}
	for _, e := range ents {
		s.total += uint64(len(e.GetData())) + 16
	}
}

// above returns about how many bytes lie above index.
func (s *logSizes) above(index uint64) uint64 {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].index > index })
	if i == 0 {
		return s.total - s.firstBytes()
	}
	return s.total - s.marks[i-1].bytes
}

func (s *logSizes) firstBytes() uint64 {
	if len(s.marks) == 0 {
		return s.total
	}
	return s.marks[0].bytes
}

// floor returns the lowest index with at most so many entries and about so many bytes above it.
func (s *logSizes) floor(last, entries, bytes uint64) uint64 {
	low := s.base
	if last > entries {
		low = max(low, last-entries)
	}
	i := sort.Search(len(s.marks), func(i int) bool { return s.total-s.marks[i].bytes <= bytes })
	switch {
	case i == 0:
	case i < len(s.marks):
		low = max(low, s.marks[i].index)
	default:
		low = max(low, s.marks[i-1].index)
	}
	return low
}

func (s *logSizes) truncate(index uint64) {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].index > index })
	if i > 1 {
		s.marks = append([]sizeMark(nil), s.marks[i-1:]...)
	}
	s.base = max(s.base, index)
}

// tokenCount bounds how many of something are under way.
type tokenCount struct{ n atomic.Int64 }

func (t *tokenCount) take(limit int) bool {
	if t.n.Add(1) <= int64(limit) {
		return true
	}
	t.n.Add(-1)
	return false
}

func (t *tokenCount) put() { t.n.Add(-1) }
