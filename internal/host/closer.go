package host

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// closable is a local replica as the closer sees it.
type closable interface {
	ID() shard.RangeID
	// Leading reports whether this replica leads, and in which term.
	Leading() (term uint64, ok bool)
	ClosedRevision() int64
	// AppliedIndex, read after ClosedRevision, is an index from which a replica is final up to it.
	AppliedIndex() uint64
	CloseAt(rev int64, epoch shard.Epoch, done func(index uint64, ok bool))
	LearnClosed(rev int64, epoch shard.Epoch, term, index uint64)
}

// closerEnv is what the closer needs of the node.
type closerEnv struct {
	leaders func(visit func(closable)) // local replicas that lead
	find    func(shard.RangeID) (closable, bool)
	behind  func(rev int64) bool                                  // a local replica is not closed at rev
	newest  func() (int64, shard.Epoch)                           // the newest revision that this node has seen
	current func(ctx context.Context) (int64, shard.Epoch, error) // asks the oracle
	push    func(*pb.ClosedPush)                                  // to every other node; must not block
	request func(*pb.CloseRequest)                                // to those who may lead what it names, likewise
}

// closerEnv is this host for its closer.
func (h opening) closerEnv() closerEnv {
	tell := func(nodes []shard.NodeID, req func() *pb.PeerRequest) { // hints only, so nothing is lost with one
		for _, node := range nodes {
			h.net.mesh.Tell(node, req())
		}
	}
	return closerEnv{
		leaders: func(visit func(closable)) { h.ranges.each(func(r *replica.Replica) { visit(r) }) },
		find: func(id shard.RangeID) (closable, bool) {
			rep, ok := h.ranges.get(id)
			return rep, ok
		},
		behind: func(rev int64) (behind bool) {
			h.ranges.each(func(r *replica.Replica) { behind = behind || r.ClosedRevision() < rev })
			return behind
		},
		newest: h.cluster.Newest,
		current: func(ctx context.Context) (int64, shard.Epoch, error) {
			now, err := h.cluster.Current(ctx)
			return now.Revision, now.Epoch, err
		},
		push: func(p *pb.ClosedPush) {
			tell(h.net.directory.Others(), func() *pb.PeerRequest { return &pb.PeerRequest{ClosedPush: p} })
		},
		request: func(c *pb.CloseRequest) {
			tell(h.cluster.Holders(pb.ToRangeIDs(c.Ranges), h.net.directory.Others()), func() *pb.PeerRequest { return &pb.PeerRequest{Close: c} })
		},
	}
}

const (
	// closeInterval is how often idle ranges are closed at the current revision: it bounds how
	// stale a serializable read is on a healthy node.
	closeInterval = 200 * time.Millisecond
	// closeSpacing is the least time between two rounds that somebody waits for. Rounds of all
	// ranges share their messages, so this bounds their cost whatever the number of watchers.
	closeSpacing = 2 * time.Millisecond
	// closeEach and closeEachAsked lengthen both for many ranges: so much for each range that the last
	// round had to close. A fence costs some 10 µs here and as much elsewhere, so closing takes a small
	// part of a core in idle times, and a bounded one where somebody waits, whatever the number of ranges.
	closeEach      = 200 * time.Microsecond
	closeEachAsked = 20 * time.Microsecond
	// closeStraggle is how long a round waits for its slowest range before the others are told.
	closeStraggle = 10 * time.Millisecond
	// closeRechecks is how many ticks at an unchanged revision pass before the ranges are walked again. An idle
	// node does not walk its ranges at every tick. One that has newly become leader of a range closes it then.
	// As often a node checks whether it has missed what others have closed: a push may be lost, and is not
	// repeated.
	closeRechecks = 10
)

// closer closes the revisions of the ranges that this node leads: at an interval in idle times, and as soon as a
// watcher waits, here or elsewhere. A range's closed revision is the outcome of a fence over its whole span. What was
// closed goes to all nodes in one message.
type closer struct {
	env       closerEnv
	scheduled chan struct{}
	missed    atomic.Bool   // another node has missed what was closed before
	fences    atomic.Uint64 // that rounds have had
	asked     backend.Asked
	wanted    wantedRanges
}

// wantedMax bounds the ranges that are wanted by name; where more are, every range is.
const wantedMax = 1 << 14

// wantedRanges are those that somebody waits for, since a round began.
type wantedRanges struct {
	mu  sync.Mutex
	all bool
	ids map[shard.RangeID]struct{}
}

// add wants some ranges; nil: every range.
func (w *wantedRanges) add(ids []shard.RangeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all = w.all || ids == nil || len(w.ids)+len(ids) > wantedMax; w.all {
		w.ids = nil
		return
	}
	if w.ids == nil {
		w.ids = make(map[shard.RangeID]struct{}, len(ids))
	}
	for _, id := range ids {
		w.ids[id] = struct{}{}
	}
}

// take returns what is wanted, in order, and begins anew. nil: every range.
func (w *wantedRanges) take() []shard.RangeID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids, all := w.ids, w.all
	w.ids, w.all = nil, false
	if all {
		return nil
	}
	out := slices.AppendSeq(make([]shard.RangeID, 0, len(ids)), maps.Keys(ids))
	slices.Sort(out)
	return out
}

func newCloser(env closerEnv) *closer {
	return &closer{env: env, scheduled: make(chan struct{}, 1)}
}

// AskClose implements watchfanout.Closer: some ranges, nil: every range, should be closed at rev or above soon,
// wherever their leaders are.
func (c *closer) AskClose(rev int64, ranges []shard.RangeID) {
	c.schedule(ranges)
	left, due := c.asked.Due(rev, ranges)
	if !due {
		return
	}
	_, epoch := c.env.newest()
	c.env.request(&pb.CloseRequest{Revision: rev, Epoch: uint64(epoch), Ranges: pb.FromRangeIDs(left)})
}

// schedule is AskClose for the ranges that this node leads.
func (c *closer) schedule(ranges []shard.RangeID) {
	c.wanted.add(ranges)
	peer.Wake(c.scheduled)
}

// requested is schedule on another node's behalf.
func (c *closer) requested(req *pb.CloseRequest) {
	ranges := pb.ToRangeIDs(req.Ranges)
	if req.Missed {
		c.missed.Store(true)
	} else {
		c.asked.Due(req.Revision, ranges)
	}
	c.schedule(ranges)
}

// run closes until ctx ends.
func (c *closer) run(ctx context.Context) {
	tick := time.NewTicker(closeInterval)
	defer tick.Stop()
	fences, last := 0, time.Time{}  // of the last round that had any, and when it began
	settled, skipped := int64(0), 0 // every range led here was closed at settled, skipped ticks ago
	before, ticks := int64(0), 0    // the revision that was current so many ticks ago
	for {
		var rev int64
		var epoch shard.Epoch
		asked := false
		var wanted []shard.RangeID // nil: every range
		select {
		case <-ctx.Done():
			return
		case <-c.scheduled:
			wanted = c.wanted.take()
			rev, epoch = c.env.newest()
			settled, asked = 0, true
		case <-tick.C:
			tctx, cancel := context.WithTimeout(ctx, closeInterval*5)
			var err error
			rev, epoch, err = c.env.current(tctx)
			cancel()
			if err != nil {
				continue // no oracle: nothing can be closed now
			}
			if ticks++; ticks >= closeRechecks {
				if before > 0 && c.env.behind(before) {
					c.env.request(&pb.CloseRequest{Revision: before, Epoch: uint64(epoch), Missed: true})
				}
				before, ticks = rev, 0
			}
		}
		if rev > 0 && rev == settled && skipped < closeRechecks {
			skipped++
			continue
		}
		if !asked && time.Since(last) < time.Duration(fences)*closeEach {
			continue
		}
		if rev > 0 {
			last = time.Now()
			if fences = c.round(ctx, rev, epoch, wanted, c.missed.Swap(false)); fences == 0 && wanted == nil {
				settled, skipped = rev, 0
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(closeSpacing, time.Duration(fences)*closeEachAsked)):
		}
	}
}

// among visits the replicas here of some ranges; nil: of every range.
func (c *closer) among(ranges []shard.RangeID, visit func(closable)) {
	if ranges == nil {
		c.env.leaders(visit)
		return
	}
	for _, id := range ranges {
		if p, here := c.env.find(id); here {
			visit(p)
		}
	}
}

// round fences those of some ranges, nil: of every range, that this node leads and that are not closed at rev yet, and returns how
// many there were. With all set, it tells of those too that are.
func (c *closer) round(ctx context.Context, rev int64, epoch shard.Epoch, ranges []shard.RangeID, all bool) (fences int) {
	r := &closeRound{push: c.env.push, rev: rev, epoch: epoch, done: make(chan struct{})}
	r.left = 1
	c.among(ranges, func(p closable) {
		term, ok := p.Leading()
		if !ok {
			return
		}
		if p.ClosedRevision() >= rev {
			if all {
				r.add(&pb.ClosedRange{RangeId: uint64(p.ID()), Term: term, Index: p.AppliedIndex()})
			}
			return
		}
		fences++
		r.mu.Lock()
		r.left++
		r.mu.Unlock()
		p.CloseAt(rev, epoch, func(index uint64, ok bool) {
			if ok {
				p.LearnClosed(rev, epoch, term, index)
			}
			r.answer(&pb.ClosedRange{RangeId: uint64(p.ID()), Term: term, Index: index}, ok)
		})
	})
	c.fences.Add(uint64(fences))
	r.answer(nil, false)
	select {
	case <-r.done:
	case <-ctx.Done():
	case <-time.After(closeStraggle):
	}
	r.flush()
	return fences
}

// closeRound gathers the fences of one revision. What is late is told when it comes.
type closeRound struct {
	push  func(*pb.ClosedPush)
	rev   int64
	epoch shard.Epoch
	done  chan struct{}

	mu      sync.Mutex
	left    int
	flushed bool
	closed  []*pb.ClosedRange
}

func (r *closeRound) answer(cr *pb.ClosedRange, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok {
		r.closed = append(r.closed, cr)
	}
	if r.left--; r.left == 0 {
		close(r.done)
	}
	if r.flushed && ok {
		r.send()
	}
}

// add tells of a range that needs no fence.
func (r *closeRound) add(cr *pb.ClosedRange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = append(r.closed, cr)
}

func (r *closeRound) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushed = true
	r.send()
}

// send needs the lock; push does not block.
func (r *closeRound) send() {
	if len(r.closed) == 0 {
		return
	}
	r.push(&pb.ClosedPush{Revision: r.rev, Epoch: uint64(r.epoch), Ranges: r.closed})
	r.closed = nil
}

// learn takes what another node has closed.
func (c *closer) learn(p *pb.ClosedPush) {
	for _, cr := range p.Ranges {
		if rep, ok := c.env.find(shard.RangeID(cr.RangeId)); ok {
			rep.LearnClosed(p.Revision, shard.Epoch(p.Epoch), cr.Term, cr.Index)
		}
	}
}
