package bench

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// inParallel runs so many workers, and feed beside them, and returns the first error after all have
// ended. feed's context ends when a worker fails, so that it does not wait for somebody who has gone.
func inParallel(ctx context.Context, workers int, work func(worker int) error, feed func(context.Context)) error {
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error { return work(w) })
	}
	g.Go(func() error {
		feed(ctx)
		return ctx.Err()
	})
	return g.Wait()
}
