package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// feed is the watch of one resource, as kube-apiserver's watch cache has one.
type feed struct {
	w      *k8s
	table  *table
	stream *watchStream
	stands chan struct{}
	failed error // why the stream ended by itself, once it is closed

	mu       sync.Mutex
	seen     int64 // revision that it has come to, by an event or by progress
	event    int64 // of the last event
	progress int64
	moved    chan struct{} // closed and replaced when seen grows
	asked    int64         // revision that a reader of the cache waits for; 0: none does
	since    time.Time     // from when on
}

// openFeed watches a resource from now on.
func openFeed(ctx context.Context, w *k8s, t *table, c *clientv3.Client) (*feed, error) {
	f := &feed{w: w, table: t, stands: make(chan struct{}, 1), moved: make(chan struct{})}
	var err error
	f.stream, err = openStream(ctx, c.ActiveConnection(), watchFuncs{
		created:  func(int64) error { f.stands <- struct{}{}; return nil },
		events:   f.take,
		progress: f.takeProgress,
	})
	if err != nil {
		return nil, err
	}
	err = f.stream.watch(&etcdserverpb.WatchCreateRequest{
		Key: []byte(t.prefix), RangeEnd: []byte(prefixEnd(t.prefix)), PrevKv: true, ProgressNotify: true,
	})
	if err == nil {
		select {
		case <-f.stands:
			return f, nil
		case <-f.stream.ended:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return nil, errors.Join(fmt.Errorf("watch %s: %w", t.prefix, err), f.stream.close())
}

func (f *feed) take(r *etcdserverpb.WatchResponse) error {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range r.Events {
		rev := ev.Kv.ModRevision
		if rev < f.event {
			return fmt.Errorf("an event of revision %d after one of %d", rev, f.event)
		}
		if rev <= f.progress {
			return fmt.Errorf("an event of revision %d after progress to %d", rev, f.progress)
		}
		began, err := f.table.deliver(ev)
		if err != nil {
			return err
		}
		if !began.IsZero() {
			f.w.lag.Load().deliver.Add(now.Sub(began))
		}
		f.event = rev
	}
	// There may be more events of that revision, but none of one before.
	f.reachLocked(f.event-1, now)
	return nil
}

func (f *feed) takeProgress(rev int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.progress = max(f.progress, rev)
	f.reachLocked(rev, time.Now())
	return nil
}

// reachLocked notes how far the watch has come, and what a reader of the cache has waited for that.
func (f *feed) reachLocked(rev int64, now time.Time) {
	if rev <= f.seen {
		return
	}
	f.seen = rev
	close(f.moved)
	f.moved = make(chan struct{})
	if f.asked > 0 && rev >= f.asked {
		f.w.lag.Load().progress.Add(now.Sub(f.since))
		f.asked = 0
	}
}

// progressEvery is how often kube-apiserver asks for progress while reads wait for its cache.
const progressEvery = 100 * time.Millisecond

// askAlways reads from the cache: every time it asks for progress until the watch has come to what was
// acknowledged before.
func (f *feed) askAlways(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.stream.ended:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		if latest := f.w.latest.Load(); f.asked == 0 && latest > 0 {
			f.asked, f.since = latest, time.Now()
			f.reachedAlreadyLocked()
		}
		f.mu.Unlock()
		if f.stream.askProgress() != nil {
			return // its receiver knows why
		}
	}
}

// reachedAlreadyLocked answers a reader who need not wait.
func (f *feed) reachedAlreadyLocked() {
	if f.seen >= f.asked {
		f.w.lag.Load().progress.Add(0)
		f.asked = 0
	}
}

// waiting is how long the present reader of the cache has waited.
func (f *feed) waiting() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked == 0 {
		return 0
	}
	return time.Since(f.since)
}

// await waits until the watch has come to a revision.
func (f *feed) await(ctx context.Context, rev int64) error {
	for {
		f.mu.Lock()
		seen, moved := f.seen, f.moved
		f.mu.Unlock()
		if seen >= rev {
			return nil
		}
		select {
		case <-moved:
		case <-f.stream.ended:
			return fmt.Errorf("the watch of %s: %w", f.table.prefix, f.stream.err)
		case <-ctx.Done():
			return fmt.Errorf("the watch of %s has come to revision %d, not %d: %w", f.table.prefix, seen, rev, ctx.Err())
		}
	}
}

// close ends the watch.
func (f *feed) close() {
	if err := f.stream.close(); err != nil && f.failed == nil {
		f.failed = err
	}
}
