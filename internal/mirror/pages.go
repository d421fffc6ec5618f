package mirror

import (
	"context"
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// pages reads pages of ranges.
type pages struct{ cfg *Config }

// readPages reads a span of a range at a revision that is closed, encoded, page by page, from nodes that have it. Not every replica may have applied what is
// up to there: the range's leader names the index of its log behind which one has.
func (p pages) readPages(ctx context.Context, id shard.RangeID, span shard.Span, rev int64, fn func(*pb.ReadResponse) error) error {
	m := p.cfg.Map()
	if m == nil {
		return shard.ErrUnavailable
	}
	d, ok := m.Get(id)
	if !ok || !d.Span.ContainsSpan(span) {
		return errMoved
	}
	index, err := p.cfg.Fence(ctx, &d, span, rev)
	if mutate.On(mutate.MirrorUnfenced) {
		index, err = 0, nil
	}
	if err != nil {
		return err
	}
	nodes := p.cfg.Nodes(&d)
	for {
		resp, err := p.readPage(ctx, nodes, &pb.ReadRequest{
			RangeId: uint64(id), Generation: uint64(d.Generation), Span: pb.FromSpan(span), Revision: rev, MinIndex: index,
			Encoded: true, SkipCount: true, MaxBytes: basePageBytes,
		})
		if err != nil {
			return err
		}
		if err := fn(resp); err != nil {
			return err
		}
		if len(resp.Resume) == 0 {
			return nil
		}
		span.Start = resp.Resume
	}
}

func (p pages) readPage(ctx context.Context, nodes []shard.NodeID, req *pb.ReadRequest) (resp *pb.ReadResponse, err error) {
	err = fmt.Errorf("%w: no node has the range", shard.ErrUnavailable)
	for _, node := range nodes {
		wait := patience.With(ctx, pageMax)
		resp, err = p.cfg.Read(wait, node, req)
		wait.Cancel()
		var wrong *shard.WrongRangeError
		var compacted *shard.CompactedError
		if err == nil || errors.As(err, &wrong) || errors.As(err, &compacted) || ctx.Err() != nil {
			return resp, err
		}
	}
	return nil, err
}
