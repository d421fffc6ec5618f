package router

import (
	"context"
	"sync"

	"pontoon/internal/corruption"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Copies has every voter of a range hash what it holds at a revision, 0: the present one, behind a fence. Its error says that the range is
// not as the descriptor has it any more, or that its leader or the oracle does not answer.
func (r *Router) Copies(ctx context.Context, d shard.Descriptor, rev int64) ([]corruption.Copy, error) {
	now, err := r.cfg.Cluster.Current(ctx)
	if err != nil {
		return nil, err
	}
	if rev == 0 {
		rev = now.Revision
	}
	index, err := r.fence(ctx, &part{desc: d, span: d.Span}, now)
	if err != nil {
		return nil, err
	}
	var copies []corruption.Copy
	for _, rep := range d.Replicas {
		if rep.Votes() {
			copies = append(copies, corruption.Copy{Node: rep.Node})
		}
	}
	var wg sync.WaitGroup
	for i := range copies {
		c := &copies[i]
		wg.Go(func() {
			resp, err := r.call(ctx, c.Node, &pb.PeerRequest{
				Hash: &pb.HashRequest{RangeId: uint64(d.ID), Revision: rev, MinIndex: index, Span: pb.FromSpan(d.Span)},
			})
			if c.Err = err; err == nil {
				c.Hash, c.Compacted = resp.Hash.GetHash(), resp.Hash.GetCompactRevision()
			}
		})
	}
	wg.Wait()
	return copies, nil
}
