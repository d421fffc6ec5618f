package router

import (
	"context"
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// A linearizable read asks the oracle what is current. If it asks in the same question whom the oracle has given revisions of late, the answer may show that a replica of
// this node, or an answer of before, has all that there is at the current revision (shard.Granted.Final). Then nobody else is asked.

const (
	// homeBehind is how many revisions a replica may be behind what is known here for the oracle to be asked: an answer names the ranges that got them.
	homeBehind = 64
	// recallBehind is the same for an answer that is remembered, which all who read the key share.
	recallBehind = 1 << 10
	// vainMax is for how many reads at most the leader is asked at once, after questions that were of no use.
	vainMax = 64
	// homeSlots bounds the ranges of which such failures are counted, by hash.
	homeSlots = 1 << 8
)

// trial counts what was tried in vain, and for how many times it is not tried after that: n failures in a row are followed by 2ⁿ−2 reads that ask the leader at
// once. So what is written to all the time is hardly asked for, and what was is tried again.
type trial struct{ fails, rest int8 }

func (t *trial) due() bool {
	if t.rest > 0 {
		t.rest--
		return false
	}
	return true
}

func (t *trial) tell(useful bool) {
	if useful {
		*t = trial{}
		return
	}
	t.fails = min(t.fails+1, 7)
	t.rest = int8(min(1<<t.fails-2, vainMax))
}

// final reports whether an answer of the oracle says that what was final up to closed in a range is so at the answer's revision.
func final(now Now, id shard.RangeID, closed int64) bool {
	g := now.Granted
	return g != nil && now.Revision <= g.Revision && g.Final(id, closed)
}

// homes are the ranges of which this node has replicas, as those who read them see it.
type homes struct {
	mu     sync.Mutex
	trials []trial
	home   atomic.Uint64
}

// due reports whether it may be of use to ask the oracle for a range that is final up to closed here.
func (h *homes) due(id shard.RangeID, closed, newest int64) bool {
	if closed <= 0 || newest-closed > homeBehind {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trial(id).due()
}

func (h *homes) tell(id shard.RangeID, useful bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trial(id).tell(useful)
}

func (h *homes) trial(id shard.RangeID) *trial {
	if h.trials == nil {
		h.trials = make([]trial, homeSlots)
	}
	return &h.trials[id%homeSlots]
}

// closedHere is up to which revision the local replica of a range is final, if the oracle's answer may make it so up to now.
func (r *reader) closedHere(id shard.RangeID) (closed int64, due bool) {
	if r.cfg.Local == nil {
		return 0, false
	}
	closed, held := r.cfg.Local.ClosedRevision([]shard.RangeID{id})
	return closed, held && r.homes.due(id, closed, r.cfg.Cluster.Revision())
}

// holdsHere reports whether an answer of the oracle says that the replica here, which was final up to closed, has all of its range at the answer's revision.
func (r *reader) holdsHere(now Now, id shard.RangeID, closed int64) bool {
	here := final(now, id, closed) || mutate.On(mutate.HomeUnchecked)
	r.homes.tell(id, here)
	return here
}

// self is this node; 0: this process is none.
func (r *reader) self() shard.NodeID {
	if l := r.cfg.Local; l != nil {
		return l.Self()
	}
	return 0
}

// current asks the oracle for a snapshot, and marks those of its parts that are final here.
func (s *snapshot) current(ctx context.Context) (Now, error) {
	r := s.r
	since, asks := int64(0), false
	closed := make([]int64, len(s.parts)) // 0: not to be looked at
	for i, p := range s.parts {
		if c, due := r.closedHere(p.desc.ID); due {
			if closed[i] = c; !asks || c < since {
				since = c
			}
			asks = true
		}
	}
	if !asks {
		return r.cfg.Cluster.Current(ctx)
	}
	now, err := r.cfg.Cluster.Granted(ctx, since)
	if err != nil {
		return now, err
	}
	for i, p := range s.parts {
		if closed[i] > 0 && r.holdsHere(now, p.desc.ID, closed[i]) {
			r.homes.home.Add(1)
			p.source = source{node: r.self(), local: true}
		}
	}
	return now, nil
}

// homeRead is a read of one key by a replica of this node.
type homeRead struct {
	req  pb.PeerRequest
	read pb.ReadRequest
	span pb.Span
}

func newHomeRead(desc shard.Descriptor, span shard.Span, rev int64) *pb.PeerRequest {
	h := new(homeRead)
	h.span.Start, h.span.End = span.Start, span.End
	h.read.RangeId, h.read.Generation, h.read.Span, h.read.Revision = uint64(desc.ID), uint64(desc.Generation), &h.span, rev
	h.req.Read = &h.read
	return &h.req
}
