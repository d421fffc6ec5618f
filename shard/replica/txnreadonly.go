package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/lead"
)

// This file answers transactions over several ranges that cannot write, whatever their compares yield. They need
// no lock: they read at one fenced revision, as any read does.

// readOnly reports whether no branch of op writes.
func readOnly(op *pb.Op) bool {
	switch {
	case op.GetPut() != nil, op.GetDelete() != nil, op.GetExpireLease() != 0:
		return false
	case op.GetTxn() != nil:
		for _, ops := range [2][]*pb.Op{op.Txn.Success, op.Txn.Failure} {
			for _, o := range ops {
				if !readOnly(o) {
					return false
				}
			}
		}
	}
	return true
}

// readMulti answers op. It retries where the oracle was replaced or the revision compacted meanwhile.
func (t *transactions) readMulti(ctx context.Context, op *pb.Op, by shard.Checked) (*pb.WriteResponse, error) {
	ctx, cancel := context.WithDeadline(ctx, t.r.deadline(ctx))
	defer cancel()
	for range t.r.cfg.Retries {
		resp, err := t.readMultiOnce(ctx, op, by)
		if !errors.Is(err, shard.ErrStaleEpoch) && !errors.Is(err, errCompactedMeanwhile) {
			return resp, err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, shard.ErrTimeout
}

var errCompactedMeanwhile = errors.New("the revision chosen for a read has been compacted")

func (t *transactions) readMultiOnce(ctx context.Context, op *pb.Op, by shard.Checked) (*pb.WriteResponse, error) {
	m := t.r.cfg.Ranges.Map()
	if m == nil {
		return nil, shard.ErrUnavailable
	}
	parts := lead.SplitTxn(m, op, nil)
	rev, epoch, err := t.currentRevision(ctx)
	if err != nil {
		return nil, err
	}
	if s := t.r.cfg.Settings; s != nil && s().Version > by.Settings { // the oracle's answer is judged by settings that are as new
		if err := s().Allows(by.Who, op); err != nil {
			return nil, err
		}
	}
	var plan *lead.TxnPlan
	if err = t.fenceParts(ctx, parts, rev, epoch); err == nil {
		rd := &lead.LockedReader{Ctx: ctx, Parts: parts, Read: t.readUnlocked, At: rev}
		plan, err = lead.PlanTxn(op, rd, parts, rev, nil)
	}
	var compacted *shard.CompactedError
	switch {
	case errors.As(err, &compacted) && compacted.Revision > rev:
		return nil, errCompactedMeanwhile
	case err != nil:
		return nil, err
	}
	return &pb.WriteResponse{Result: plan.At(rev), Revision: rev}, nil
}

// currentRevision waits for the oracle's current revision.
func (t *transactions) currentRevision(ctx context.Context) (int64, shard.Epoch, error) {
	type answer struct {
		rev   int64
		epoch shard.Epoch
		err   error
	}
	ch := make(chan answer, 1)
	t.r.cfg.Oracle.NowFunc(func(now shard.Now, err error) { ch <- answer{now.Revision, now.Epoch, err} })
	select {
	case a := <-ch:
		return a.rev, a.epoch, a.err
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
}

// fenceParts fences all participants in parallel. The content of a single span comes with the answer.
func (t *transactions) fenceParts(ctx context.Context, parts []*lead.TxnPart, rev int64, epoch shard.Epoch) error {
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelFencesMax)
	for i, p := range parts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = t.fencePart(ctx, p, rev, epoch)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// parallelFencesMax bounds the ranges that one read works on at once.
const parallelFencesMax = 32

func (t *transactions) fencePart(ctx context.Context, p *lead.TxnPart, rev int64, epoch shard.Epoch) error {
	req := &pb.FenceRequest{Span: pb.FromSpan(boundingSpan(p.Body.Read)), Revision: rev, Epoch: uint64(epoch)}
	if len(p.Want) == 1 && len(p.Body.Read) == 1 {
		req.Read = &pb.ReadRequest{Span: req.Span, Revision: rev, Limit: lead.PrepareKeysMax, MaxBytes: lead.PrepareBytesMax, SkipCount: true}
	}
	resp, err := t.r.cfg.Ranges.CallKey(ctx, p.Key, func(d shard.Descriptor) *pb.PeerRequest {
		p.Range = d.ID
		req.RangeId, req.Generation = uint64(d.ID), uint64(d.Generation)
		if req.Read != nil {
			req.Read.RangeId, req.Read.Generation = req.RangeId, req.Generation
		}
		return &pb.PeerRequest{Fence: req}
	})
	if err != nil {
		return err
	}
	if resp.Fence == nil {
		return fmt.Errorf("%w: an answer without a fence", shard.ErrInvalid)
	}
	p.Resp = &pb.PrepareResponse{Index: resp.Fence.Index}
	if resp.Fence.Read != nil {
		p.Resp.Pages = []*pb.ReadResponse{resp.Fence.Read}
	}
	return nil
}

// readUnlocked reads of a range what did not come with its fence. Nothing is locked, so its keys may have gone to another
// range meanwhile, whose log has other indexes. That one got them behind the fence, so whatever it holds is final.
func (t *transactions) readUnlocked(ctx context.Context, p *lead.TxnPart, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	if p.Range == t.r.cfg.Desc.ID {
		return t.readHere(ctx, req)
	}
	return t.readAt(ctx, p, req, func(d shard.Descriptor) uint64 {
		if d.ID != p.Range {
			return 0
		}
		return req.MinIndex
	})
}

// boundingSpan is the smallest span that holds all of them.
func boundingSpan(spans []*pb.Span) shard.Span {
	out := pb.ToSpan(spans[0])
	for _, s := range spans[1:] {
		out = out.Hull(pb.ToSpan(s))
	}
	return out
}
