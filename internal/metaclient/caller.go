package metaclient

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// caller brings a call to the leader of the meta group. It owns the leader hint, the attempts and the pauses
// between them. What the call asks is not its concern.
type caller struct {
	marks
	cfg Config

	leader atomic.Uint64                    // the node that answered last; 0: unknown
	next   atomic.Uint64                    // which replica to try where nobody is known to lead
	meta   atomic.Pointer[shard.Descriptor] // where the meta group is

	ctx    context.Context
	cancel context.CancelFunc
}

// Leader is the node that is believed to lead the meta group; 0 when unknown.
func (c *caller) Leader() shard.NodeID { return shard.NodeID(c.leader.Load()) }

// Meta is where the group is, as far as this client has heard.
func (c *caller) Meta() shard.Descriptor { return *c.meta.Load() }

// target picks the node to call.
func (c *caller) target() shard.NodeID {
	if n := c.Leader(); n != 0 {
		return n
	}
	rs, next := c.meta.Load().Replicas, c.next.Load()
	turn, i := next/uint64(len(rs)+1), next%uint64(len(rs)+1)
	if i < uint64(len(rs)) {
		return rs[i].Node
	}
	if c.cfg.Nodes != nil { // the group may have moved away from all of them
		if others := c.cfg.Nodes(); len(others) > 0 {
			return others[turn%uint64(len(others))]
		}
	}
	if len(rs) == 0 {
		return c.cfg.Self
	}
	return rs[turn%uint64(len(rs))].Node
}

// learnMeta notes where the group is, and reports whether that was news: its generation rises with every change.
func (c *caller) learnMeta(d shard.Descriptor) bool {
	for {
		old := c.meta.Load()
		if d.Generation <= old.Generation || len(d.Replicas) == 0 {
			return false
		}
		if c.meta.CompareAndSwap(old, &d) {
			return true
		}
	}
}

// attempt is one call with its retries.
type attempt struct {
	c        *caller
	req      *pb.PeerRequest
	deadline time.Time
	ctx      context.Context // the caller's; nil: none
	// once: the call must not be sent again after an outcome that is not known. So its first attempt
	// has all the time there is.
	once bool
	// long: the answer may take as long as the patience, or with once set as the caller waits.
	long  bool
	check func(*pb.PeerResponse) bool // false: discard the answer and ask again
	done  func(*pb.PeerResponse, error)

	hops, tries int
	sent        bool // req may still be read by who was asked in this process
}

// call sends req until it is answered for good or patience ends. done is called once and must
// not block.
func (c *caller) call(a *attempt) {
	a.c = c
	if a.ctx == nil {
		a.ctx = c.ctx
	}
	if a.deadline.IsZero() {
		a.deadline = c.cfg.Now().Add(c.cfg.Patience)
	}
	a.send()
}

// one makes a call that blocks. A call that may have been logged and has no answer ends with
// shard.ErrAmbiguous if it must not be sent twice.
func (c *caller) one(ctx context.Context, req *pb.PeerRequest, once, long bool) (*pb.PeerResponse, error) {
	resp, err := wait(ctx, func(cb func(*pb.PeerResponse, error)) {
		c.call(&attempt{req: req, ctx: ctx, once: once, long: long, done: cb})
	})
	if err != nil && once && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil, shard.GivenUp(err)
	}
	return resp, err
}

func (a *attempt) send() {
	c := a.c
	left := a.deadline.Sub(c.cfg.Now())
	switch {
	case c.ctx.Err() != nil:
		a.done(nil, shard.ErrUnavailable)
		return
	case a.ctx.Err() != nil || left <= 0:
		a.done(nil, shard.ErrTimeout)
		return
	}
	limit := c.cfg.ElectionTimeout
	if a.long || a.once || limit > left {
		limit = left
	}
	if a.sent {
		a.req = proto.CloneOf(a.req)
	}
	a.sent = true
	a.req.Epoch, a.req.Revision = c.epoch.Load(), c.revision.Load()
	to := c.target()
	ctx, cancel := a.ctx, func() {}
	if !a.long || !a.once {
		ctx, cancel = context.WithTimeout(a.ctx, limit)
	}
	c.cfg.Calls.CallFunc(ctx, to, a.req, func(resp *pb.PeerResponse, err error) {
		cancel()
		a.onResponse(to, resp, err)
	})
}

// onResponse judges an answer: for good, or again elsewhere.
func (a *attempt) onResponse(from shard.NodeID, resp *pb.PeerResponse, err error) {
	c := a.c
	if err == nil && (a.check == nil || a.check(resp)) {
		c.leader.Store(uint64(from))
		a.done(resp, nil)
		return
	}
	again, follow := a.judge(from, err)
	if !again {
		a.done(nil, err)
		return
	}
	a.tries++
	if follow && a.hops < hopsMax {
		a.hops++
		a.send()
		return
	}
	a.hops = 0
	pause := min(retryPauseMin<<min(a.tries, 10), retryPauseMax)
	pause = time.Duration(float64(pause) * (0.5 + c.cfg.Rand()/2))
	pause = min(pause, max(a.deadline.Sub(c.cfg.Now()), 0))
	c.cfg.After(pause, a.send)
}

// judge says whether a failed or discarded answer is worth another attempt, and if a hint says
// where, so that no pause is needed.
func (a *attempt) judge(from shard.NodeID, err error) (again, follow bool) {
	c := a.c
	var nl *shard.NotLeaderError
	switch {
	case errors.As(err, &nl):
		news := false
		for _, d := range nl.Known {
			news = c.learnMeta(d) || news
		}
		if nl.Leader != 0 && nl.Leader != from {
			c.leader.Store(uint64(nl.Leader))
			return true, true
		}
		if news {
			c.leader.CompareAndSwap(uint64(from), 0)
			return true, true
		}
	case err == nil, errors.Is(err, shard.ErrUnavailable), errors.Is(err, shard.ErrStopped), errors.Is(err, shard.ErrTooManyRequests):
	case errors.Is(err, shard.ErrTimeout): // certainly not sent within its time
	case errors.Is(err, shard.ErrAmbiguous) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		if a.once {
			return false, false
		}
	default:
		return false, false // the leader's own word
	}
	if !errors.Is(err, shard.ErrTooManyRequests) {
		c.leader.CompareAndSwap(uint64(from), 0)
		c.next.Add(1)
	}
	return true, false
}
