package replica

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/lead"
)

// Ranges reaches the other ranges of a transaction: *router.Router.
type Ranges interface {
	// Map is the newest range map known here; nil before the first one arrived.
	Map() *shard.Map
	// CallKey sends what build makes to the leader of the range that holds key, and tries again what
	// certainly was not applied, until ctx ends. *shard.WrongRangeError: the ranges have changed.
	// Change asks the leader of a range for a change of it.
	Change(ctx context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error)
	CallKey(ctx context.Context, key []byte, build func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error)
}

// writeMulti takes a request whose keys lie in this range and in others.
func (c *leaderCalls) writeMulti(ctx context.Context, req *pb.WriteRequest, reply func(*pb.WriteResponse, error)) {
	if c.r.cfg.Ranges == nil {
		reply(nil, fmt.Errorf("%w: writes over several ranges", shard.ErrUnimplemented))
		return
	}
	if readOnly(req.Op) {
		// Any replica could serve it. Only the leader does, because callers keep the one that answers as a hint.
		c.r.mu.Lock()
		err := c.checkLeaderLocked()
		c.r.mu.Unlock()
		if err != nil && !mutate.On(mutate.AnchorNoIndex) {
			reply(nil, err)
			return
		}
		c.r.spawn(func() { reply(c.r.readMulti(ctx, req.Op, checked(req))) }, func() { reply(nil, shard.ErrStopped) })
		return
	}
	it := &lead.Item{Op: req.Op, Reply: reply, By: checked(req), Deadline: c.deadline(ctx), Size: req.Op.SizeVT() + lead.ItemOverhead}
	c.admitted(it, func() {
		c.onLeader(func(err error) { reply(nil, err) }, func(l *lead.Leader) { l.Coordinations.Coordinate(it, pb.ToSpans(req.Spans)) })
	})
}

// onLeader runs do on the leader core, and then what that unblocks.
func (c *leaderCalls) onLeader(fail func(error), do func(*lead.Leader)) {
	c.r.mu.Lock()
	if err := c.checkLeaderLocked(); err != nil {
		c.r.mu.Unlock()
		fail(err)
		return
	}
	l := c.r.mu.lead
	l.Now = c.r.cfg.Now()
	do(l)
	l.Run()
	c.r.pumpLocked()
}

// Prepare locks spans of this range for a transaction, and answers with their content. reply is called once, from
// any goroutine, and must not block.
func (c *leaderCalls) Prepare(ctx context.Context, req *pb.PrepareRequest, reply func(*pb.PrepareResponse, error)) {
	if req.Prepare.GetId() == nil {
		reply(nil, fmt.Errorf("%w: a prepare without a transaction", shard.ErrInvalid))
		return
	}
	var it *lead.Item
	it = lead.NewPrepareItem(req, func(_ *pb.WriteResponse, err error) {
		if err != nil {
			reply(nil, err)
			return
		}
		c.r.spawn(func() { reply(c.prepareResponse(it, req)) }, func() { reply(nil, shard.ErrStopped) })
	})
	if err := it.Fp.CheckKeys(); err != nil {
		reply(nil, err)
		return
	}
	it.Deadline = c.deadline(ctx)
	c.onLeader(func(err error) { reply(nil, err) }, func(l *lead.Leader) { l.Participants.Prepare(it) })
}

// prepareResponse reads what the coordinator needs, after the lock has applied.
func (c *leaderCalls) prepareResponse(it *lead.Item, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	p := it.Prep
	resp := &pb.PrepareResponse{
		Index: p.Index, Floor: p.Effective, Epoch: uint64(p.RangeEpoch), MissingLeases: it.Missing, Expired: p.Expired,
	}
	ref, err := c.r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer c.r.stores.release(ref)
	err = ref.reading(it.Fp.Within, func() error {
		resp.Pages, resp.Counts = nil, nil
		return lead.LockedPages(ref.Store, req, resp)
	})
	return resp, err
}

// Resolve takes the outcome of a transaction. reply is called once it has applied, from any goroutine, and must
// not block.
func (c *leaderCalls) Resolve(_ context.Context, req *pb.ResolveRequest, reply func(error)) {
	if req.Resolve.GetId() == nil {
		reply(fmt.Errorf("%w: a resolve without a transaction", shard.ErrInvalid))
		return
	}
	c.onLeader(reply, func(l *lead.Leader) {
		l.Participants.Resolve(req.Resolve, shard.Epoch(req.Epoch), func(err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { reply(c.withLeaderHint(err, c.role())) }})
		})
	})
}

// Inquire answers with the outcome of a transaction that is anchored here. reply is called once, from any
// goroutine, and must not block.
func (c *leaderCalls) Inquire(ctx context.Context, req *pb.InquireRequest, reply func(*pb.InquireResponse, error)) {
	if req.Id == nil {
		reply(nil, fmt.Errorf("%w: an inquiry without a transaction", shard.ErrInvalid))
		return
	}
	deadline := c.deadline(ctx)
	c.onLeader(func(err error) { reply(nil, err) }, func(l *lead.Leader) {
		l.Participants.Inquire(apply.ToTxnID(req.Id), req.AnchorKey, pb.ToSpan(req.Participant), deadline, func(resp *pb.InquireResponse, err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { reply(resp, c.withLeaderHint(err, c.role())) }})
		})
	})
}

// ---- the actions of transactions; l's term has not ended when they begin

// executeTxn executes an action of a transaction on a goroutine of its own.
func (t *transactions) executeTxn(l *lead.Leader, a lead.Action) {
	stopped := func() {}
	var run func()
	switch a.Kind {
	case lead.ActLocate:
		run = func() { t.locate(l, a.Coord) }
		stopped = func() { t.r.deliver(func() { l.Coordinations.Located(a.Coord, nil, shard.ErrStopped) }) }
	case lead.ActPrepare:
		run = func() { t.sendPrepare(l, a) }
		stopped = func() { t.r.deliver(func() { l.Coordinations.Prepared(a.Coord, a.Txn, a.N, nil, shard.ErrStopped) }) }
	case lead.ActPlan:
		run = func() {
			plan, err := t.plan(a.Coord.It.Op, a.Parts, a.Rev, a.Missing)
			t.deliverTxn(l, func() { l.Coordinations.Planned(a.Coord, a.Txn, plan, err) })
		}
		stopped = func() { t.r.deliver(func() { l.Coordinations.Planned(a.Coord, a.Txn, nil, shard.ErrStopped) }) }
	case lead.ActResolve:
		run = func() { t.sendResolve(l, a) }
	case lead.ActInquire:
		run = func() { t.sendInquiry(l, a) }
	}
	t.r.spawn(run, stopped)
}

// locate finds the participants by the newest map, and by what this range knows better: the map follows the logs.
func (t *transactions) locate(l *lead.Leader, c *lead.Coordination) {
	var parts []*lead.TxnPart
	err := error(shard.ErrUnavailable)
	if m := t.r.cfg.Ranges.Map(); m != nil {
		parts, err = lead.SplitTxn(t.newest(m), c.It.Op, c.Spans), nil
	}
	t.deliverTxn(l, func() { l.Coordinations.Located(c, parts, err) })
}

// newest is m with the range's own descriptor and those of what it has given away, where they fit into it.
func (t *transactions) newest(m *shard.Map) *shard.Map {
	t.r.mu.Lock()
	known := t.r.mu.m.Known()
	t.r.mu.Unlock()
	if n, err := m.Apply(known...); err == nil {
		return n
	}
	return m
}

// deliverTxn delivers an event that may set a deadline.
func (t *transactions) deliverTxn(l *lead.Leader, event func()) {
	now := t.r.cfg.Now()
	t.r.deliver(func() {
		l.Now = now
		event()
	})
}

// txnContext bounds a transaction's call to another range.
func (t *transactions) txnContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.r.ctx, t.r.cfg.TxnPatience)
}

func (t *transactions) sendPrepare(l *lead.Leader, a lead.Action) {
	part, req := a.Parts[a.N], a.Prepare
	ctx, cancel := context.WithTimeout(t.r.ctx, a.Patience)
	done := func(resp *pb.PrepareResponse, err error) {
		cancel()
		t.deliverTxn(l, func() { l.Coordinations.Prepared(a.Coord, a.Txn, a.N, resp, err) })
	}
	if a.N == 0 { // the anchor, which only its coordinator locks: it is refused here if its keys have gone
		t.r.Prepare(ctx, req, done)
		return
	}
	resp, err := t.r.cfg.Ranges.CallKey(ctx, part.Key, func(d shard.Descriptor) *pb.PeerRequest {
		out := &pb.PrepareRequest{RangeId: uint64(d.ID), Generation: uint64(d.Generation), Prepare: req.Prepare,
			Epoch: req.Epoch, NoWait: req.NoWait, ExpireGrant: req.ExpireGrant, Want: req.Want, Count: req.Count}
		return &pb.PeerRequest{Prepare: out}
	})
	if err == nil && resp.Prepare == nil {
		err = fmt.Errorf("%w: an answer without a lock", shard.ErrInvalid)
	}
	done(resp.GetPrepare(), err)
}

// plan evaluates a transaction whose keys are locked.
func (t *transactions) plan(op *pb.Op, parts []*lead.TxnPart, now int64, missing []int64) (*lead.TxnPlan, error) {
	if op.GetExpireLease() != 0 {
		return lead.PlanExpiry(op, parts), nil
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, t.r.cfg.Patience)
	defer cancel()
	return lead.PlanTxn(op, &lead.LockedReader{Ctx: ctx, Parts: parts, Read: t.readPart}, parts, now, missing)
}

// readPart reads of a participant what did not come with its lock. While that stands the keys stay in their range, so
// the lock's index is of the log of whoever is asked, this range too.
func (t *transactions) readPart(ctx context.Context, p *lead.TxnPart, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	if t.r.Desc().Span.Contains(p.Key) {
		return t.readHere(ctx, req)
	}
	return t.readAt(ctx, p, req, func(shard.Descriptor) uint64 { return req.MinIndex })
}

// readAt reads of the range that holds the participant's key, once that has applied an index of its log.
func (t *transactions) readAt(ctx context.Context, p *lead.TxnPart, req *pb.ReadRequest, minIndex func(shard.Descriptor) uint64) (*pb.ReadResponse, error) {
	resp, err := t.r.cfg.Ranges.CallKey(ctx, p.Key, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Read: &pb.ReadRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Span: req.Span, Revision: req.Revision,
			MinIndex: minIndex(d), KeysOnly: req.KeysOnly, CountOnly: req.CountOnly, SkipCount: req.SkipCount,
		}}
	})
	if err == nil && resp.Read == nil {
		err = fmt.Errorf("%w: an answer without a page", shard.ErrInvalid)
	}
	return resp.GetRead(), err
}

// readHere is Read for a caller that may block.
func (t *transactions) readHere(ctx context.Context, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	if mutate.On(mutate.AnchorNoIndex) {
		return t.r.read(ctx, req)
	}
	type answer struct {
		resp *pb.ReadResponse
		err  error
	}
	ch := make(chan answer, 1)
	t.r.Read(ctx, req, func(resp *pb.ReadResponse, err error) { ch <- answer{resp, err} })
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t *transactions) sendResolve(l *lead.Leader, a lead.Action) {
	ctx, cancel := t.txnContext()
	defer cancel()
	_, err := t.r.cfg.Ranges.CallKey(ctx, a.Key, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Resolve: &pb.ResolveRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Resolve: a.Resolve, Epoch: uint64(a.Epoch),
		}}
	})
	if a.WantAck {
		t.deliverTxn(l, func() { l.Resolutions.ResolveAcked(a.Txn, a.Key, err) })
	}
}

func (t *transactions) sendInquiry(l *lead.Leader, a lead.Action) {
	ctx, cancel := t.txnContext()
	defer cancel()
	p := a.Prepared
	resp, err := t.r.cfg.Ranges.CallKey(ctx, p.Body.AnchorKey, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Inquire: &pb.InquireRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Id: p.Body.Id, Participant: pb.FromSpan(a.Span), AnchorKey: p.Body.AnchorKey,
		}}
	})
	if err == nil && resp.Inquire == nil {
		err = fmt.Errorf("%w: an answer without an outcome", shard.ErrInvalid)
	}
	t.deliverTxn(l, func() { l.Participants.Inquired(p.Id, resp.GetInquire(), err) })
}

// defaultTxnPatience is etcd's default election timeout.
const defaultTxnPatience = time.Second
