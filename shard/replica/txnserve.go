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
	it := &lead.Item{Op: req.Op, Reply: reply, Deadline: r.deadline(ctx), Size: req.Op.SizeVT() + lead.ItemOverhead}
	r.onLeader(req.Generation, func(err error) { reply(nil, err) }, func(l *lead.Leader) { l.Coordinations.Coordinate(it, pb.ToSpans(req.Spans)) })
}

// onLeader lets the leader core do something, and then what that makes possible.
func (r *Replica) onLeader(gen uint64, fail func(error), do func(*lead.Leader)) {
	r.mu.Lock()
	if err := r.admissibleLocked(gen); err != nil {
		r.mu.Unlock()
		fail(err)
		return
	}
	l := r.mu.lead
	l.Now = r.cfg.Now()
	do(l)
	l.Run()
	r.pumpLocked()
}

// Prepare locks spans of this range for a transaction, and answers with what is there. reply is called
// once, from any goroutine, and must not block.
func (r *Replica) Prepare(ctx context.Context, req *pb.PrepareRequest, reply func(*pb.PrepareResponse, error)) {
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
		r.spawn(func() { reply(r.locked(it, req)) }, func() { reply(nil, shard.ErrStopped) })
	})
	if err := it.Fp.CheckKeys(); err != nil {
		reply(nil, err)
		return
	}
	it.Deadline = r.deadline(ctx)
	r.onLeader(req.Generation, func(err error) { reply(nil, err) }, func(l *lead.Leader) { l.Participants.Prepare(it) })
}

// locked reads what the coordinator wants, after the lock has applied.
func (r *Replica) locked(it *lead.Item, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	p := it.Prep
	resp := &pb.PrepareResponse{
		Index: p.Index, Floor: p.Effective, Epoch: uint64(p.RangeEp), MissingLeases: it.Missing, Expired: p.Expired,
	}
	ref, err := r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer r.stores.release(ref)
	return resp, lead.LockedPages(ref.Store, req, resp)
}

// Resolve carries out the outcome of a transaction. reply is called once it has applied, from any
// goroutine, and must not block.
func (r *Replica) Resolve(_ context.Context, req *pb.ResolveRequest, reply func(error)) {
	if req.Resolve.GetId() == nil {
		reply(fmt.Errorf("%w: a resolve without a transaction", shard.ErrInvalid))
		return
	}
	r.onLeader(req.Generation, reply, func(l *lead.Leader) {
		l.Participants.Resolve(req.Resolve, shard.Epoch(req.Epoch), func(err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { reply(r.hinted(err, r.role())) }})
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
	r.onLeader(req.Generation, func(err error) { reply(nil, err) }, func(l *lead.Leader) {
		l.Participants.Inquire(apply.ToTxnID(req.Id), pb.ToSpan(req.Participant), deadline, func(resp *pb.InquireResponse, err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { reply(resp, r.hinted(err, r.role())) }})
		})
	})
}

// ---- the actions of a coordination; l is alive when they begin

// doTxn carries out an action for a transaction, on a goroutine of its own.
func (r *Replica) doTxn(l *lead.Leader, a lead.Action) {
	stopped := func() {}
	var run func()
	switch a.Kind {
	case lead.ActLocate:
		run = func() { r.locate(l, a.Coord) }
		stopped = func() { r.deliver(func() { l.Coordinations.Located(a.Coord, nil, shard.ErrStopped) }) }
	case lead.ActPrepare:
		run = func() { r.askPrepare(l, a) }
		stopped = func() { r.deliver(func() { l.Coordinations.Prepared(a.Coord, a.Txn, a.N, nil, shard.ErrStopped) }) }
	case lead.ActPlan:
		run = func() {
			plan, err := r.plan(a.Coord.It.Op, a.Parts, a.Rev, a.Missing)
			r.deliverTxn(l, func() { l.Coordinations.Planned(a.Coord, a.Txn, plan, err) })
		}
		stopped = func() { r.deliver(func() { l.Coordinations.Planned(a.Coord, a.Txn, nil, shard.ErrStopped) }) }
	case lead.ActResolve:
		run = func() { r.tellOutcome(l, a) }
	case lead.ActInquire:
		run = func() { r.askOutcome(l, a) }
	}
	r.spawn(run, stopped)
}

// locate finds the participants by the newest map.
func (r *Replica) locate(l *lead.Leader, c *lead.Coordination) {
	var parts []*lead.TxnPart
	err := error(shard.ErrUnavailable)
	if m := r.cfg.Ranges.Map(); m != nil {
		parts, err = lead.SplitTxn(m, c.It.Op, c.Spans), nil
	}
	r.deliverTxn(l, func() { l.Coordinations.Located(c, parts, err) })
}

// deliverTxn delivers an event that may set a deadline.
func (r *Replica) deliverTxn(l *lead.Leader, event func()) {
	now := r.cfg.Now()
	r.deliver(func() {
		l.Now = now
		event()
	})
}

// brief bounds what a transaction waits for in another range.
func (r *Replica) brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, r.cfg.TxnPatience)
}

func (r *Replica) askPrepare(l *lead.Leader, a lead.Action) {
	part, req := a.Parts[a.N], a.Prepare
	ctx, cancel := r.brief()
	done := func(resp *pb.PrepareResponse, err error) {
		cancel()
		r.deliverTxn(l, func() { l.Coordinations.Prepared(a.Coord, a.Txn, a.N, resp, err) })
	}
	if part.Rng == r.cfg.Desc.ID {
		r.Prepare(ctx, req, done)
		return
	}
	resp, err := r.cfg.Ranges.CallKey(ctx, part.Key, func(d shard.Descriptor) *pb.PeerRequest {
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
func (r *Replica) plan(op *pb.Op, parts []*lead.TxnPart, now int64, missing []int64) (*lead.TxnPlan, error) {
	if op.GetExpireLease() != 0 {
		return lead.PlanExpiry(op, parts), nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Patience)
	defer cancel()
	return lead.PlanTxn(op, &lead.LockedReader{Ctx: ctx, Parts: parts, Read: r.readPart}, parts, now, missing)
}

// readPart reads of a participant what did not come along with its lock or fence. The own range is no
// exception to the index: its lead may have gone to a replica that is ahead, whose fence this is.
func (r *Replica) readPart(ctx context.Context, p *lead.TxnPart, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	if p.Rng == r.cfg.Desc.ID {
		return r.readHere(ctx, req)
	}
	resp, err := r.cfg.Ranges.CallKey(ctx, p.Key, func(d shard.Descriptor) *pb.PeerRequest {
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

func (r *Replica) tellOutcome(l *lead.Leader, a lead.Action) {
	ctx, cancel := r.brief()
	defer cancel()
	_, err := r.cfg.Ranges.CallKey(ctx, a.Key, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Resolve: &pb.ResolveRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Resolve: a.Resolve, Epoch: uint64(a.Epoch),
		}}
	})
	if a.Told {
		r.deliverTxn(l, func() { l.Resolutions.ResolvedAt(a.Txn, a.Key, err) })
	}
}

func (r *Replica) askOutcome(l *lead.Leader, a lead.Action) {
	ctx, cancel := r.brief()
	defer cancel()
	p := a.Prepared
	resp, err := r.cfg.Ranges.CallKey(ctx, p.Body.AnchorKey, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Inquire: &pb.InquireRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Id: p.Body.Id, Participant: pb.FromSpan(a.Span),
		}}
	})
	if err == nil && resp.Inquire == nil {
		err = fmt.Errorf("%w: an answer without an outcome", shard.ErrInvalid)
	}
	r.deliverTxn(l, func() { l.Participants.Inquired(p.Id, resp.GetInquire(), err) })
}

// defaultTxnPatience is etcd's default election timeout.
const defaultTxnPatience = time.Second
