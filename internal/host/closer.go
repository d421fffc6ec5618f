package host

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
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
	// LearnGranted closes a replica, whether it leads or not, by what the oracle tells, where that is enough.
	LearnGranted(g *shard.Granted) (closed bool)
}

// closerEnv is what the closer needs of the node.
type closerEnv struct {
	replicas func(visit func(closable)) // all that are here
	find     func(shard.RangeID) (closable, bool)
	newest   func() (int64, shard.Epoch) // the newest revision that this node has seen
	// granted asks the oracle for the current revision, and for whom it has given revisions above since.
	granted func(ctx context.Context, since int64) (shard.Now, error)
	push    func(*pb.ClosedPush)   // to every other node; must not block
	request func(*pb.CloseRequest) // to those who may lead what it names, likewise
}

// closerEnv is this host for its closer.
func (h opening) closerEnv() closerEnv {
	tell := func(nodes []shard.NodeID, req func() *pb.PeerRequest) { // hints only, so nothing is lost with one
		for _, node := range nodes {
			h.net.mesh.Tell(node, req())
		}
	}
	return closerEnv{
		replicas: func(visit func(closable)) { h.ranges.each(func(r *replica.Replica) { visit(r) }) },
		find: func(id shard.RangeID) (closable, bool) {
			rep, ok := h.ranges.get(id)
			return rep, ok
		},
		newest:  h.cluster.Newest,
		granted: func(ctx context.Context, since int64) (shard.Now, error) { return h.cluster.Client.Granted(ctx, since) },
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
	// closeSpared and closeSparedAsked are the same for each replica that needed no fence, which costs some 4 µs, on each node that has it.
	closeSpared      = 100 * time.Microsecond
	closeSparedAsked = 10 * time.Microsecond
	// closeStraggle is how long a round waits for its slowest range before the others are told.
	closeStraggle = 10 * time.Millisecond
	// closeRechecks is how many ticks at an unchanged revision pass before the ranges are walked again. An idle
	// node does not walk its ranges at every tick. One that has newly become leader of a range closes it then.
	// As often a node checks whether it has missed what others have closed: a push may be lost, and is not
	// repeated.
	closeRechecks = 10
)

// closer makes the content of the ranges that are held here final up to a revision: at an interval in idle times, and as soon as a watcher waits, here or
// elsewhere. Where the oracle has given a range no revision since it was final, that is all it takes, on every node by itself. What is left its leader
// fences, over the whole span; what was fenced goes to all nodes in one message.
type closer struct {
	env       closerEnv
	scheduled chan struct{}
	missed    atomic.Bool   // another node has missed what was closed before
	fences    atomic.Uint64 // that rounds have had
	spared    atomic.Uint64 // replicas that were closed without
	asked     backend.Asked
	wanted    wantedRanges
	own       wantedRanges // of these, what this process waits for and has asked nobody for yet
	idle      idleRanges
	last      lastRound
}

// askFew is for how few ranges the oracle is not asked: their leaders are, at once.
const askFew = 2

// wantedMax bounds the ranges that are wanted by name; where more are, every range is.
const wantedMax = 1 << 14

// wantedRanges are those that somebody waits for, since a round began.
type wantedRanges struct {
	mu  sync.Mutex
	rev int64 // the highest that is waited for
	all bool
	ids map[shard.RangeID]struct{}
}

// add wants some ranges; nil: every range.
func (w *wantedRanges) add(rev int64, ids []shard.RangeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rev = max(w.rev, rev)
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
func (w *wantedRanges) take() (rev int64, out []shard.RangeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rev, ids, all := w.rev, w.ids, w.all
	w.rev, w.ids, w.all = 0, nil, false
	if all {
		return rev, nil
	}
	out = slices.AppendSeq(make([]shard.RangeID, 0, len(ids)), maps.Keys(ids))
	slices.Sort(out)
	return rev, out
}

func newCloser(env closerEnv) *closer {
	return &closer{env: env, scheduled: make(chan struct{}, 1)}
}

// AskClose implements watchfanout.Closer: some ranges, nil: every range, should be closed at rev or above soon,
// wherever their leaders are.
func (c *closer) AskClose(rev int64, ranges []shard.RangeID) {
	if few(ranges) {
		c.request(rev, ranges)
	} else {
		c.own.add(rev, ranges)
	}
	c.schedule(ranges)
}

// few reports whether ranges are so few that it is not worth to ask the oracle for them.
func few(ranges []shard.RangeID) bool { return ranges != nil && len(ranges) <= askFew }

// request asks those who lead some ranges, nil: every range, to close them, unless somebody has done so lately.
func (c *closer) request(rev int64, ranges []shard.RangeID) {
	left, due := c.asked.Due(rev, ranges)
	if !due {
		return
	}
	_, epoch := c.env.newest()
	c.env.request(&pb.CloseRequest{Revision: rev, Epoch: uint64(epoch), Ranges: pb.FromRangeIDs(left)})
}

// schedule is AskClose for the ranges that are here.
func (c *closer) schedule(ranges []shard.RangeID) {
	c.wanted.add(0, ranges) // at whatever is newest when the round begins
	patience.Wake(c.scheduled)
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.scheduled:
			c.close(ctx)
		case <-tick.C:
			if !c.tick(ctx) {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(closeSpacing, c.last.cost(closeEachAsked, closeSparedAsked))):
		}
	}
}

// close closes what somebody waits for.
func (c *closer) close(ctx context.Context) {
	c.last = lastRound{began: time.Now()}
	_, wanted := c.wanted.take()
	rev, epoch := c.env.newest()
	if !few(wanted) && rev > 0 {
		// Without an answer all of it is fenced, at what this node knows.
		if now, err := c.learn(ctx, rev, wanted); err == nil && now.Revision >= rev {
			rev, epoch = now.Revision, now.Epoch
		}
	}
	c.pass()
	c.idle.settled = 0
	c.last.fences = c.round(ctx, rev, epoch, wanted, c.missed.Swap(false))
}

// pass asks others to close those ranges that this process waits for and can do nothing about.
func (c *closer) pass() {
	rev, own := c.own.take()
	if rev == 0 {
		return
	}
	var left []shard.RangeID
	for _, id := range own {
		p, here := c.env.find(id)
		if here && p.ClosedRevision() >= rev {
			continue
		}
		if here {
			if _, leads := p.Leading(); leads {
				continue
			}
		}
		left = append(left, id)
	}
	if own == nil || len(left) > 0 {
		c.request(rev, left)
	}
}

// learn asks the oracle whom it has given revisions since the least revision at which replicas here of some ranges, nil: of every range, are final, and
// closes by that whatever it can. Where none is below rev it asks for nothing.
func (c *closer) learn(ctx context.Context, rev int64, ranges []shard.RangeID) (shard.Now, error) {
	since := rev
	c.among(ranges, func(p closable) { since = min(since, p.ClosedRevision()) })
	if since >= rev {
		return shard.Now{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeInterval)
	defer cancel()
	now, err := c.env.granted(ctx, since)
	if err == nil {
		c.apply(now.Granted, ranges)
	}
	return now, err
}

// apply closes by an answer of the oracle; nil: by nothing.
func (c *closer) apply(g *shard.Granted, ranges []shard.RangeID) {
	if g == nil {
		return
	}
	c.among(ranges, func(p closable) {
		if p.ClosedRevision() < g.Revision && p.LearnGranted(g) {
			c.last.spared++
		}
	})
	c.spared.Add(uint64(c.last.spared))
}

// lastRound is what the last round had to close, and when it began.
type lastRound struct {
	fences, spared int
	began          time.Time
}

// cost is so much for each.
func (l *lastRound) cost(fence, spared time.Duration) time.Duration {
	return time.Duration(l.fences)*fence + time.Duration(l.spared)*spared
}

// idleRanges are the ranges as an idle node sees them.
type idleRanges struct {
	settled int64 // every replica here was closed at settled, skipped ticks ago
	skipped int
	before  int64 // the revision that was current so many ticks ago
	ticks   int
}

// tick closes what is here at the current revision. It reports whether there was a round.
func (c *closer) tick(ctx context.Context) bool {
	if time.Since(c.last.began) < c.last.cost(closeEach, closeSpared) {
		return false
	}
	since := c.idle.settled
	if rev, _ := c.env.newest(); rev != since {
		since = c.lowest(rev)
	}
	tctx, cancel := context.WithTimeout(ctx, closeInterval*5)
	now, err := c.env.granted(tctx, since)
	cancel()
	rev := now.Revision
	if err != nil || rev == 0 {
		return false // no oracle: nothing can be closed now
	}
	c.recheck(rev, now.Epoch)
	if rev == c.idle.settled && c.idle.skipped < closeRechecks {
		c.idle.skipped++
		return false
	}
	c.last = lastRound{began: time.Now()}
	c.apply(now.Granted, nil)
	c.last.fences = c.round(ctx, rev, now.Epoch, nil, c.missed.Swap(false))
	if c.last.fences == 0 && c.lowest(rev) == rev {
		c.idle.settled, c.idle.skipped = rev, 0
	}
	return true
}

// recheck looks now and then whether this node has missed what others have closed.
func (c *closer) recheck(rev int64, epoch shard.Epoch) {
	if c.idle.ticks++; c.idle.ticks < closeRechecks {
		return
	}
	if before := c.idle.before; before > 0 && c.lowest(before) < before {
		c.env.request(&pb.CloseRequest{Revision: before, Epoch: uint64(epoch), Missed: true})
	}
	c.idle.before, c.idle.ticks = rev, 0
}

// lowest is the least revision at which a replica here is final, and rev where that is less.
func (c *closer) lowest(rev int64) int64 {
	c.env.replicas(func(p closable) { rev = min(rev, p.ClosedRevision()) })
	return rev
}

// among visits the replicas here of some ranges; nil: of every range.
func (c *closer) among(ranges []shard.RangeID, visit func(closable)) {
	if ranges == nil {
		c.env.replicas(visit)
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

// told takes what another node has closed.
func (c *closer) told(p *pb.ClosedPush) {
	for _, cr := range p.Ranges {
		if rep, ok := c.env.find(shard.RangeID(cr.RangeId)); ok {
			rep.LearnClosed(p.Revision, shard.Epoch(p.Epoch), cr.Term, cr.Index)
		}
	}
}
