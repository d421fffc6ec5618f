package meta

import (
	"context"
	"time"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// compaction is the leader's task to have every range log the compaction revision.
type compaction struct {
	done    int64 // by every range
	running bool
	due     time.Time // after a failure
	failed  int
	waiting int // callers that wait for the space to be free
}

// compactTimeout bounds one attempt over all ranges.
const compactTimeout = 30 * time.Second

// compactionLogged begins the task, unless it runs already: then it goes on to the newest
// revision by itself.
func (m *Meta) compactionLogged() {
	c := &m.mu.compact
	rev := m.mu.state.CompactRevision()
	if rev <= c.done || c.running || m.mu.ranges == nil || !m.mu.begun {
		return
	}
	c.running = true
	ranges, term := m.mu.ranges, m.mu.ownTerm
	m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(m.ctx, compactTimeout)
		err := ranges.CompactRanges(ctx, rev, false)
		cancel()
		m.mu.Lock()
		if m.mu.ownTerm == term {
			m.compactionTried(rev, err)
		}
		m.unlock()
	})
}

// compactionTried ends an attempt.
func (m *Meta) compactionTried(rev int64, err error) {
	c := &m.mu.compact
	c.running = false
	if err == nil {
		c.done, c.failed, c.due = max(c.done, rev), 0, time.Time{}
		m.compactionLogged()
		return
	}
	c.due = m.cfg.Now().Add(min(endPauseMin<<min(c.failed, 10), endPauseMax))
	if c.failed++; c.failed == 5 {
		m.later(func() {
			m.cfg.Logger.Warn("a compaction has not reached every range yet", "revision", rev, "attempts", 5, "error", err)
		})
	}
}

// compactRequest decides a compaction. With physical set the answer waits until the ranges have
// freed the space.
func (m *Meta) compactRequest(ctx context.Context, epoch uint64, req *pb.CompactRequest, rep reply) {
	m.read(epoch, rep, func() {
		current, ok := m.mu.oracle.Current()
		switch {
		case !ok:
			rep(nil, shard.ErrUnavailable)
			return
		case req.Revision <= m.mu.state.CompactRevision():
			rep(nil, &shard.CompactedError{Revision: m.mu.state.CompactRevision()})
			return
		case req.Revision > current:
			rep(nil, shard.ErrFutureRevision)
			return
		case req.Physical && m.mu.compact.waiting >= physicalsMax:
			rep(nil, shard.ErrTooManyRequests)
			return
		}
		m.propose(&pb.MetaEntry{Compact: &pb.MetaCompact{Revision: req.Revision}}, func(r state.Result) {
			switch {
			case r.Err != nil:
				rep(nil, r.Err)
			case req.Physical && m.mu.ranges != nil:
				m.compactPhysically(ctx, req.Revision, m.mu.oracle.Last(), rep)
			default:
				rep(compacted(m.mu.oracle.Last()), nil)
			}
		})
	})
}

func compacted(current int64) *pb.PeerResponse {
	return &pb.PeerResponse{Compact: &pb.CompactResponse{Revision: current}}
}

// compactPhysically answers when the space of what is compacted at rev is free, or when patience ends:
// the compaction itself has been decided, when the current revision was the given one.
func (m *Meta) compactPhysically(ctx context.Context, rev, current int64, rep reply) {
	ranges := m.mu.ranges
	m.mu.compact.waiting++
	term := m.mu.ownTerm
	m.wg.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(m.ctx, cancel)
		err := ranges.CompactRanges(ctx, rev, true)
		stop()
		cancel()
		m.mu.Lock()
		if m.mu.ownTerm == term {
			m.mu.compact.waiting--
		}
		if err != nil { // decided, but not done everywhere as far as is known
			err = shard.GivenUp(err)
		}
		rep(compacted(current), err)
		m.unlock()
	})
}
