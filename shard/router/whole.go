package router

import (
	"context"
	"errors"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// This file asks every range of some spans for what it has of a whole: the keys of a lease, a hash. Each is asked for a
// span, and the spans tile what is asked about, whatever is cut meanwhile.

// ofAll runs fn for spans that tile the ranges which overlap some, each within a range, and returns the results in key
// order. Where a range holds less than it did, what it had is tiled anew, and nothing else is asked again. fn must be
// safe to repeat.
func ofAll[T any](ctx context.Context, r *Router, spans []shard.Span, fn func(ctx context.Context, p *part) (T, error)) (all []T, err error) {
	err = r.untilMapped(ctx, func() error {
		m, err := r.rangeMap(ctx)
		if err != nil {
			return err
		}
		all, err = ofParts(ctx, r, partsOf(m, spans), fn)
		return err
	})
	return all, err
}

// ofParts does that for some of them.
func ofParts[T any](ctx context.Context, r *Router, parts []*part, fn func(ctx context.Context, p *part) (T, error)) ([]T, error) {
	out := make([][]T, len(parts))
	err := eachOf(ctx, r.cfg.Parallel, parts, func(ctx context.Context, i int, p *part) (err error) {
		out[i], err = ofPart(ctx, r, p, fn)
		return err
	})
	return slices.Concat(out...), err
}

// ofPart does that for one of them. errRemap: the part is not tiled by ranges any more.
func ofPart[T any](ctx context.Context, r *Router, p *part, fn func(ctx context.Context, p *part) (T, error)) ([]T, error) {
	var a attempt
	for {
		one, err := fn(ctx, p)
		if !errors.Is(err, errRemap) {
			return []T{one}, err
		}
		if over := r.pause(ctx, &a, err); over != nil {
			return nil, outOfPatience(over, err)
		}
		now := partsOf(r.maps.newest(), []shard.Span{p.span})
		if slices.ContainsFunc(now, func(n *part) bool { return !p.span.ContainsSpan(n.span) }) {
			return nil, err
		}
		if len(now) > 1 {
			return ofParts(ctx, r, now, fn)
		}
		p = now[0]
	}
}

// LeaseKeys lists, in key order, the keys attached to a lease within the ranges that the spans, which the
// lease is known to touch, lie in.
func (r *Router) LeaseKeys(ctx context.Context, lease int64, spans []shard.Span) ([][]byte, error) {
	wait := r.patience(ctx)
	defer wait.Cancel()
	ctx = wait
	now, err := r.cfg.Cluster.Current(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := ofAll(ctx, r, spans, func(ctx context.Context, p *part) ([][]byte, error) {
		if _, err := r.fence(ctx, p, now); err != nil {
			return nil, err
		}
		resp, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
			return &pb.PeerRequest{LeaseKeys: &pb.LeaseKeysRequest{
				RangeId: uint64(d.ID), Generation: uint64(d.Generation), Lease: lease, Span: pb.FromSpan(p.span),
			}}
		})
		if err != nil {
			return nil, err
		}
		r.acked.note(p.desc.ID, now.Revision)
		return resp.LeaseKeys.GetKeys(), nil
	})
	return slices.Concat(keys...), err
}

// FenceIndex returns an index of a range's log from which on what the range has of a span at a revision is final, on whatever replica has applied it. The
// revision has been handed out. Where the range holds less than the span the error is not to be tried again with the same descriptor.
func (r *reader) FenceIndex(ctx context.Context, d *shard.Descriptor, span shard.Span, rev int64) (uint64, error) {
	wait := r.patience(ctx)
	defer wait.Cancel()
	now, err := r.cfg.Cluster.Current(wait)
	if err != nil {
		return 0, err
	}
	now.Revision = rev
	return r.fence(wait, &part{desc: *d, span: span}, now)
}

// fence fences a part's whole span at now's revision, also where the oracle has been replaced since, and returns the
// index.
func (r *reader) fence(ctx context.Context, p *part, now Now) (uint64, error) {
	var a attempt
	epoch := now.Epoch
	for {
		resp, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
			return &pb.PeerRequest{Fence: &pb.FenceRequest{
				RangeId: uint64(d.ID), Generation: uint64(d.Generation), Span: pb.FromSpan(p.span),
				Revision: now.Revision, Epoch: uint64(epoch),
			}}
		})
		if !errors.Is(err, shard.ErrStaleEpoch) {
			return resp.GetFence().GetIndex(), readError(err)
		}
		if over := r.pause(ctx, &a, err); over != nil {
			return 0, outOfPatience(over, err)
		}
		newer, err := r.cfg.Cluster.Current(ctx)
		if err != nil {
			return 0, err
		}
		epoch = newer.Epoch
	}
}

// HashResult is the hash of the whole key space at one revision.
type HashResult struct {
	Hash            uint64
	Revision        int64 // hashed at
	Header          int64
	CompactRevision int64
}

// HashKV adds up the hashes of what there is, or, where content is not set, also of what was before, at rev (0: the current revision), of spans that tile the key space: replicas of the
// node that asks first, so that equal answers of all nodes prove equal replicas.
func (r *Router) HashKV(ctx context.Context, rev int64, content bool) (HashResult, error) {
	now, err := r.cfg.Cluster.Current(ctx)
	if err != nil {
		return HashResult{}, err
	}
	res := HashResult{Revision: rev, Header: now.Revision, CompactRevision: now.CompactRevision}
	switch {
	case rev == 0:
		res.Revision = now.Revision
	case rev > now.Revision:
		return HashResult{}, shard.ErrFutureRevision
	case rev < now.CompactRevision:
		return HashResult{}, &shard.CompactedError{Revision: now.CompactRevision}
	}
	hashes, err := ofAll(ctx, r, []shard.Span{shard.All}, func(ctx context.Context, p *part) (uint64, error) {
		return r.hashPart(ctx, p, now, res.Revision, content)
	})
	for _, h := range hashes {
		res.Hash += h
	}
	return res, err
}

// hashPart hashes a part behind its fence. Keys that go elsewhere in between are refused.
func (r *Router) hashPart(ctx context.Context, p *part, now Now, rev int64, content bool) (uint64, error) {
	index, err := r.fence(ctx, p, now)
	if err != nil {
		return 0, err
	}
	node := r.Leader(p.desc.ID)
	if r.cfg.Local != nil {
		if _, here := p.desc.ReplicaOn(r.cfg.Local.Self()); here {
			node = r.cfg.Local.Self()
		}
	}
	req := &pb.HashRequest{RangeId: uint64(p.desc.ID), Revision: rev, MinIndex: index, Span: pb.FromSpan(p.span), Content: content}
	if mutate.On(mutate.HashUnspanned) {
		req.Span = nil
	}
	resp, err := r.call(ctx, node, &pb.PeerRequest{Hash: req})
	var wrong *shard.WrongRangeError
	switch {
	case errors.As(err, &wrong):
		return 0, r.remapped(ctx, p.desc, node, wrong)
	case err != nil:
		return 0, readError(err)
	}
	return resp.Hash.GetHash(), nil
}
