package front

import (
	"context"

	"pontoon/internal/compactor"
)

// compact keeps as much history as was asked for, until ctx ends. The node that leads the meta group does it for all ranges: there it is
// decided, and the ranges hear of it from there.
func (f *Front) compact(ctx context.Context) {
	compactor.Run(ctx, f.cfg.Compaction, compactor.Env{
		Current: f.current,
		Leads:   f.leads,
		Compact: func(ctx context.Context, rev int64) error {
			ctx, cancel := context.WithTimeout(ctx, f.cfg.Patience)
			defer cancel()
			_, err := f.router.Compact(ctx, rev, false)
			return err
		},
		Logger: f.log,
	})
}

// current is the newest revision: the oracle's, or what this node has seen where nobody answers within an election timeout.
func (f *Front) current(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Election)
	defer cancel()
	if rev, err := f.router.Current(ctx); err == nil {
		return rev
	}
	rev, _ := f.backend.Cluster.Newest()
	return rev
}
