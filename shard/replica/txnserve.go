package replica

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Ranges reaches the other ranges of a transaction: *router.Router.
type Ranges interface {
	// Map is the newest range map known here; nil before the first one arrived.
	Map() *shard.Map
	// CallKey sends what build makes to the leader of the range that holds key, and tries again what
	// certainly was not applied, until ctx ends. *shard.WrongRangeError: the ranges have changed.
	CallKey(ctx context.Context, key []byte, build func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error)
}

// writeMulti takes a request whose keys lie in this range and in others.
func (r *Replica) writeMulti(ctx context.Context, req *pb.WriteRequest, reply func(*pb.WriteResponse, error)) {
	if r.cfg.Ranges == nil {
		reply(nil, fmt.Errorf("%w: writes over several ranges", shard.ErrUnimplemented))
		return
	}
	if writesNever(req.Op) {
		// Any replica could carry it out. Only the leader does: who asks remembers who has answered.
		r.mu.Lock()
		err := r.admissibleLocked(req.Generation)
		r.mu.Unlock()
		if err != nil && !mutate.On(mutate.AnchorNoIndex) {
			reply(nil, err)
			return
		}
		r.spawn(func() { reply(r.readMulti(ctx, req.Op)) }, func() { reply(nil, shard.ErrStopped) })
		return
	}
	it := &item{op: req.Op, reply: reply, deadline: r.deadline(ctx), size: req.Op.SizeVT() + itemOverhead}
	r.onLeader(req.Generation, func(err error) { reply(nil, err) }, func(l *leader) { l.coordinate(it, pb.ToSpans(req.Spans)) })
}

// onLeader lets the leader core do something, and then what that makes possible.
func (r *Replica) onLeader(gen uint64, fail func(error), do func(*leader)) {
	r.mu.Lock()
	if err := r.admissibleLocked(gen); err != nil {
		r.mu.Unlock()
		fail(err)
		return
	}
	l := r.mu.lead
	l.now = r.cfg.Now()
	do(l)
	l.run()
	r.pumpLocked()
}

// Prepare locks spans of this range for a transaction, and answers with what is there. reply is called
// once, from any goroutine, and must not block.
func (r *Replica) Prepare(ctx context.Context, req *pb.PrepareRequest, reply func(*pb.PrepareResponse, error)) {
	if req.Prepare.GetId() == nil {
		reply(nil, fmt.Errorf("%w: a prepare without a transaction", shard.ErrInvalid))
		return
	}
	var it *item
	it = newPrepareItem(req, func(_ *pb.WriteResponse, err error) {
		if err != nil {
			reply(nil, err)
			return
		}
		r.spawn(func() { reply(r.locked(it, req)) }, func() { reply(nil, shard.ErrStopped) })
	})
	if err := it.fp.checkKeys(); err != nil {
		reply(nil, err)
		return
	}
	it.deadline = r.deadline(ctx)
	r.onLeader(req.Generation, func(err error) { reply(nil, err) }, func(l *leader) { l.prepare(it) })
}

// locked reads what the coordinator wants, after the lock has applied.
func (r *Replica) locked(it *item, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	p := it.prep
	resp := &pb.PrepareResponse{
		Index: p.index, Floor: p.effective, Epoch: uint64(p.rangeEp), MissingLeases: it.missing, Expired: p.expired,
	}
	ref, err := r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer r.stores.release(ref)
	return resp, lockedPages(ref.Store, req, resp)
}

// Resolve carries out the outcome of a transaction. reply is called once it has applied, from any
// goroutine, and must not block.
func (r *Replica) Resolve(_ context.Context, req *pb.ResolveRequest, reply func(error)) {
	if req.Resolve.GetId() == nil {
		reply(fmt.Errorf("%w: a resolve without a transaction", shard.ErrInvalid))
		return
	}
	r.onLeader(req.Generation, reply, func(l *leader) {
		l.resolve(req.Resolve, shard.Epoch(req.Epoch), func(err error) {
			l.emit(action{kind: actCall, fn: func() { reply(r.hinted(err, r.role())) }})
		})
	})
}

// Inquire answers what became of a transaction that is anchored here. reply is called once, from any
// goroutine, and must not block.
func (r *Replica) Inquire(ctx context.Context, req *pb.InquireRequest, reply func(*pb.InquireResponse, error)) {
	if req.Id == nil {
		reply(nil, fmt.Errorf("%w: an inquiry without a transaction", shard.ErrInvalid))
		return
	}
	deadline := r.deadline(ctx)
	r.onLeader(req.Generation, func(err error) { reply(nil, err) }, func(l *leader) {
		l.inquire(toTxnID(req.Id), pb.ToSpan(req.Participant), deadline, func(resp *pb.InquireResponse, err error) {
			l.emit(action{kind: actCall, fn: func() { reply(resp, r.hinted(err, r.role())) }})
		})
	})
}

// ---- the actions of a coordination; l is alive when they begin

// doTxn carries out an action for a transaction, on a goroutine of its own.
func (r *Replica) doTxn(l *leader, a action) {
	stopped := func() {}
	var run func()
	switch a.kind {
	case actLocate:
		run = func() { r.locate(l, a.coord) }
		stopped = func() { r.deliver(func() { l.located(a.coord, nil, shard.ErrStopped) }) }
	case actPrepare:
		run = func() { r.askPrepare(l, a) }
		stopped = func() { r.deliver(func() { l.prepared(a.coord, a.txn, a.n, nil, shard.ErrStopped) }) }
	case actPlan:
		run = func() {
			plan, err := r.plan(a.coord.it.op, a.parts, a.rev, a.missing)
			r.deliverTxn(l, func() { l.planned(a.coord, a.txn, plan, err) })
		}
		stopped = func() { r.deliver(func() { l.planned(a.coord, a.txn, nil, shard.ErrStopped) }) }
	case actResolve:
		run = func() { r.tellOutcome(l, a) }
	case actInquire:
		run = func() { r.askOutcome(l, a) }
	}
	r.spawn(run, stopped)
}

// locate finds the participants by the newest map.
func (r *Replica) locate(l *leader, c *coordination) {
	var parts []*txnPart
	err := error(shard.ErrUnavailable)
	if m := r.cfg.Ranges.Map(); m != nil {
		parts, err = splitTxn(m, c.it.op, c.spans), nil
	}
	r.deliverTxn(l, func() { l.located(c, parts, err) })
}

// deliverTxn delivers an event that may set a deadline.
func (r *Replica) deliverTxn(l *leader, event func()) {
	now := r.cfg.Now()
	r.deliver(func() {
		l.now = now
		event()
	})
}

// brief bounds what a transaction waits for in another range.
func (r *Replica) brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, r.cfg.TxnPatience)
}

func (r *Replica) askPrepare(l *leader, a action) {
	part, req := a.parts[a.n], a.prepare
	ctx, cancel := r.brief()
	done := func(resp *pb.PrepareResponse, err error) {
		cancel()
		r.deliverTxn(l, func() { l.prepared(a.coord, a.txn, a.n, resp, err) })
	}
	if part.rng == r.cfg.Desc.ID {
		r.Prepare(ctx, req, done)
		return
	}
	resp, err := r.cfg.Ranges.CallKey(ctx, part.key, func(d shard.Descriptor) *pb.PeerRequest {
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
func (r *Replica) plan(op *pb.Op, parts []*txnPart, now int64, missing []int64) (*txnPlan, error) {
	if op.GetExpireLease() != 0 {
		return planExpiry(op, parts), nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Patience)
	defer cancel()
	return planTxn(op, &lockedReader{ctx: ctx, parts: parts, read: r.readPart}, parts, now, missing)
}

// readPart reads of a participant what did not come along with its lock or fence. The own range is no
// exception to the index: its lead may have gone to a replica that is ahead, whose fence this is.
func (r *Replica) readPart(ctx context.Context, p *txnPart, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	if p.rng == r.cfg.Desc.ID {
		return r.readHere(ctx, req)
	}
	resp, err := r.cfg.Ranges.CallKey(ctx, p.key, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Read: &pb.ReadRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Span: req.Span, Revision: req.Revision,
			MinIndex: req.MinIndex, KeysOnly: req.KeysOnly, CountOnly: req.CountOnly, SkipCount: req.SkipCount,
		}}
	})
	if err == nil && resp.Read == nil {
		err = fmt.Errorf("%w: an answer without a page", shard.ErrInvalid)
	}
	return resp.GetRead(), err
}

// readHere is Read for a caller that may block.
func (r *Replica) readHere(ctx context.Context, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	if mutate.On(mutate.AnchorNoIndex) {
		return r.read(ctx, req)
	}
	type answer struct {
		resp *pb.ReadResponse
		err  error
	}
	ch := make(chan answer, 1)
	r.Read(ctx, req, func(resp *pb.ReadResponse, err error) { ch <- answer{resp, err} })
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Replica) tellOutcome(l *leader, a action) {
	ctx, cancel := r.brief()
	defer cancel()
	_, err := r.cfg.Ranges.CallKey(ctx, a.key, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Resolve: &pb.ResolveRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Resolve: a.resolve, Epoch: uint64(a.epoch),
		}}
	})
	if a.told {
		r.deliverTxn(l, func() { l.resolvedAt(a.txn, a.key, err) })
	}
}

func (r *Replica) askOutcome(l *leader, a action) {
	ctx, cancel := r.brief()
	defer cancel()
	p := a.prepared
	resp, err := r.cfg.Ranges.CallKey(ctx, p.body.AnchorKey, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Inquire: &pb.InquireRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Id: p.body.Id, Participant: pb.FromSpan(a.span),
		}}
	})
	if err == nil && resp.Inquire == nil {
		err = fmt.Errorf("%w: an answer without an outcome", shard.ErrInvalid)
	}
	r.deliverTxn(l, func() { l.inquired(p.id, resp.GetInquire(), err) })
}

// defaultTxnPatience is etcd's default election timeout.
const defaultTxnPatience = time.Second
