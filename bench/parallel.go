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

// forEach calls work for 0…n-1, so many at a time, and returns the first error after all have ended.
func forEach(ctx context.Context, workers, n int, work func(ctx context.Context, worker, i int) error) error {
	indices := make(chan int)
	return inParallel(ctx, max(1, min(workers, n)), func(worker int) error {
		for i := range indices {
			if err := work(ctx, worker, i); err != nil {
				return err
			}
		}
		return nil
	}, func(ctx context.Context) {
		defer close(indices)
		for i := range n {
			select {
			case indices <- i:
			case <-ctx.Done():
				return
			}
		}
	})
}
