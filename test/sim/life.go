package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"pontoon/internal/calls"
	"pontoon/internal/etcdapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/tuning/linger"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/router"
)

// life is a node's process from start to end.
type life struct {
	n       *node
	dir     string
	no      int
	alive   bool // may be heard of
	stopped bool // its log has failed: nothing is done any more
	ctx     context.Context
	cancel  context.CancelFunc
	port    *port
	host    *raftgroup.Host
	meta    *metaGroup
	draws   int64 // where the ids of the last meta replica began
	client  *metaclient.Client
	reps    shard.Table[*replica.Replica]
	waiting map[shard.RangeID]shard.ReplicaID // replicas that wait for their state
	removals
	router *router.Router
	guard  etcdapi.Guard
	linger *linger.Linger
	closer *closer
	fans   *fans
}

func newLife(n *node, dir string) (*life, error) {
	l := &life{n: n, dir: dir, no: n.lives, alive: true, waiting: map[shard.RangeID]shard.ReplicaID{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.port = &port{n: n.w.net, life: l}
	l.closer = &closer{l: l}
	l.removals.l, l.removals.asked = l, map[shard.RangeID]bool{}
	l.fans = newFans(l)
	w := n.w
	var err error
	l.host, err = raftgroup.NewHost(raftgroup.Config{
		Node: n.id, Log: n.log, Sender: l.port, Now: n.clock, Boot: uint64(n.no)<<32 | uint64(n.lives), TickInterval: tick,
		CatchUpEntries: 30, CatchUpBytes: 32 << 10,
		Choose: w.rng.IntN, Hold: n.hold,
		OnFatal: func(error) { l.logFailed() },
		OnStranger: func(s raftgroup.Stranger) {
			w.post(fmt.Sprintf("stranger %d/%d", n.id, s.Group), 0, func() { l.consider(s) })
		},
		OnGroupError: func(id shard.RangeID, err error) {
			if l.alive {
				w.failf("node %d: the replica of %v has stopped: %v", n.id, id, err)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	l.draws = int64(n.no)<<40 | int64(l.no)<<20
	l.meta = &metaGroup{l: l}
	if err := l.meta.start(); err != nil {
		return nil, err
	}
	l.client = metaclient.New(metaclient.Config{
		Self: n.id, Calls: l.port, Local: l.meta, Meta: n.metaAt, Nodes: n.others, ElectionTimeout: election, FollowSettings: true, Untold: n.front, Steady: n.clock,
		After: l.afterStoppable, Rand: func() float64 { return 0.5 }, SettingsChanged: func(s *placement.Settings) { w.agreed.goesBy(n.id, s) },
	})
	l.guard = etcdapi.NewGuard(access{l.client}, identity{}, l.client.Settings, l.current)
	l.fans.openHub()
	l.router, err = router.New(router.Config{Peers: l.port, Cluster: cluster{l}, Local: local{l}, Patience: 7 * time.Second, Listed: l.fans.listed})
	if err != nil {
		return nil, err
	}
	load := linger.Load{Wait: time.Millisecond, Busy: float64(w.pick(0, 0, 1))}
	l.linger = linger.New(linger.Config{Max: 15 * time.Millisecond, Load: func() linger.Load { return load }, AfterFunc: l.after})
	if err := l.openRanges(); err != nil {
		l.kill()
		n.takeDown(l)
		return nil, err
	}
	l.closer.begin()
	l.client.RefreshFunc(func(error) {}) // tried again by whoever needs the map
	if n.front {
		l.client.Follow()
	}
	if n.mirrors {
		l.fans.mirrors = newMirrors(l.fans)
	}
	return l, nil
}

// rangeOps is the router for the meta replica, which is there before it.
type rangeOps struct{ l *life }

// ExpireLease implements meta.RangeOps.
func (o rangeOps) ExpireLease(ctx context.Context, lease int64, grant uint64, spans []shard.Span) (int64, error) {
	return o.l.router.ExpireLease(ctx, lease, grant, spans)
}

// CompactRanges implements meta.RangeOps.
func (o rangeOps) CompactRanges(ctx context.Context, rev int64, physical bool) error {
	return o.l.router.CompactRanges(ctx, rev, physical)
}

// Change implements meta.RangeOps.
func (o rangeOps) Change(ctx context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	return o.l.router.Change(ctx, req)
}

// after is time.AfterFunc as this process has it: a stopped one is called when it goes on.
func (l *life) after(d time.Duration, fn func()) { l.afterStoppable(d, fn) }

func (l *life) afterStoppable(d time.Duration, fn func()) (stop func()) {
	var stopped atomic.Bool
	l.n.w.post(fmt.Sprintf("timer %d", l.n.id), d, func() {
		switch {
		case stopped.Load():
		case l.alive && l.n.paused:
			l.n.held = append(l.n.held, held{func(*life) { fn() }, fn})
		default:
			fn() // also of a life that has ended: it may answer somebody who waits
		}
	})
	return func() { stopped.Store(true) }
}

// maintain looks after the stores, now and then.
func (l *life) maintain() {
	w := l.n.w
	for _, id := range l.held() {
		rep, _ := l.reps.Get(id)
		if !rep.NeedsFlush() && !w.roll(0.05) {
			continue
		}
		var err error
		if w.roll(0.3) {
			err = rep.Flush()
		} else {
			_, err = rep.Maintain(1 + w.rng.IntN(60))
		}
		if err != nil {
			w.failf("node %d: maintenance of %v: %v", l.n.id, id, err)
		}
	}
}

// logFailed stops a process whose shared log does not take writes.
func (l *life) logFailed() {
	l.stopped = true
	if !l.alive {
		return
	}
	l.alive = false
	l.n.w.after(0, fmt.Sprintf("log failed on %d", l.n.id), func() {
		if l.n.life == l {
			l.n.crash()
			l.n.restart(l.n.w.scaled(10*time.Millisecond, 10*time.Second))
		}
	})
}

// kill makes sure that nothing is heard of the life any more.
func (l *life) kill() { l.alive, l.stopped = false, true }

// close takes the parts down, in the order in which a node stops. What it writes is in files that
// nobody reads any more.
func (l *life) close() {
	l.cancel()
	l.judgeMirrors()
	l.fans.close()
	l.client.Close()
	l.n.w.agreed.took(l.client.SettingsTaken())
	errs := []error{l.host.Close()}
	errs = append(errs, l.meta.close())
	for _, id := range l.held() { // in an order that the seed decides
		rep, _ := l.reps.Get(id)
		errs = append(errs, rep.Close())
	}
	errs = append(errs, l.removals.close())
	errs = append(errs, os.RemoveAll(l.dir))
	if err := errors.Join(errs...); err != nil {
		l.n.w.post("close", 0, func() { l.n.w.failf("node %d was taken down: %v", l.n.id, err) })
	}
}

// learn takes in what every message carries.
func (l *life) learn(rev int64, epoch uint64) {
	l.client.NoteEpoch(shard.Epoch(epoch))
	l.client.NoteRevision(rev)
}

// cluster is the meta client as router.Cluster.
type cluster struct{ l *life }

// Current implements router.Cluster.
func (c cluster) Current(ctx context.Context) (router.Now, error) {
	return c.l.client.Current(ctx)
}

// CurrentFunc implements router.Cluster.
func (c cluster) CurrentFunc(cb func(router.Now, error)) { c.l.client.NowFunc(cb) }

// GrantedFunc implements router.Cluster.
func (c cluster) GrantedFunc(since int64, cb func(router.Now, error)) {
	c.l.client.GrantedFunc(since, cb)
}

// Granted implements router.Cluster.
func (c cluster) Granted(ctx context.Context, since int64) (router.Now, error) {
	return c.l.client.Granted(ctx, since)
}

// Revision implements router.Cluster.
func (c cluster) Revision() int64 { return c.l.client.Revision() }

// Map implements router.Cluster.
func (c cluster) Map() *shard.Map { return c.l.client.Map() }

// Refresh implements router.Cluster.
func (c cluster) Refresh(ctx context.Context) error { return c.l.client.Refresh(ctx) }

// Compacted implements router.Cluster.
func (c cluster) Compacted() int64 { return c.l.client.Compacted() }

// Compact implements router.Cluster.
func (c cluster) Compact(ctx context.Context, rev int64, physical bool) (int64, error) {
	return c.l.client.Compact(ctx, rev, physical)
}

// local is the replicas of the node as router.Local.
type local struct{ l *life }

// ClosedRevision implements router.Local.
func (v local) ClosedRevision(ids []shard.RangeID) (int64, bool) {
	var low int64
	for i, id := range ids {
		rep, ok := v.l.reps.Get(id)
		if !ok {
			return 0, false
		}
		if c := rep.ClosedRevision(); i == 0 || c < low {
			low = c
		}
	}
	return low, true
}

// Untouched implements router.Local.
func (v local) Untouched(ids []shard.RangeID) bool {
	for _, id := range ids {
		if rep, ok := v.l.reps.Get(id); !ok || !rep.Untouched() {
			return false
		}
	}
	return true
}

// Applied implements router.Local.
func (v local) Applied(id shard.RangeID) uint64 {
	if rep, ok := v.l.reps.Get(id); ok {
		return rep.AppliedIndex()
	}
	return 0
}

// WaitClosed implements router.Local.
func (v local) WaitClosed(ctx context.Context, ids []shard.RangeID, rev int64) error {
	v.l.closer.AskClose(rev, ids)
	for {
		changed := v.l.fans.changed()
		if c, ok := v.ClosedRevision(ids); !ok || c >= rev {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Leader implements router.Local.
func (v local) Leader(id shard.RangeID) shard.NodeID {
	if _, ok := v.l.reps.Get(id); !ok {
		return 0
	}
	st, _ := v.l.host.Status(id)
	return st.LeaderNode
}

// Self implements router.Local.
func (v local) Self() shard.NodeID { return v.l.n.id }

// handle answers a call, as internal/host does, but slow ones at once, too.
func (l *life) handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	kind, id := calls.Of(req)
	switch {
	case kind == calls.ClosedPush:
		l.closer.learn(req.ClosedPush)
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	case kind == calls.Close:
		l.learn(req.Close.Revision, req.Close.Epoch)
		l.closer.askedBy(req.Close)
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	case kind == calls.SettingsPush:
		l.learn(0, req.Epoch)
		l.client.Pushed(req.SettingsPush, func(confirmed *pb.SettingsPush, err error) {
			reply(&pb.PeerResponse{Error: pb.ErrorToPB(err), SettingsPush: confirmed})
		})
	case calls.Table[kind].At == calls.AtRange:
		rep, here := l.reps.Get(id)
		if !here {
			d, known := l.find(id)
			if _, mine := d.ReplicaOn(l.n.id); !known || mine { // it is not open here yet, or not any more
				reply(&pb.PeerResponse{Error: pb.ErrorToPB(shard.ErrUnavailable)})
				return
			}
			reply(&pb.PeerResponse{Error: pb.ErrorToPB(&shard.WrongRangeError{Range: id, Known: []shard.Descriptor{d}})})
			return
		}
		replica.Serve(ctx, rep, kind, req, reply)
	default:
		l.meta.handle(ctx, from, req, reply)
	}
}
