package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/durable"
	"pontoon/internal/patience"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica"
)

const (
	// defragmentTries is how often a file is begun anew that had to be written to meanwhile.
	defragmentTries = 5
	// defragmentPause is the pause before.
	defragmentPause = time.Second
	// sweepPatience bounds the wait for what was compacted to be deleted; sweepPoll is how often it is looked.
	sweepPatience = 10 * time.Second
	sweepPoll     = 10 * time.Millisecond
	// defragmentSpare is what stays free on the disk beside the file that is being written.
	defragmentSpare = 16 << 20
)

// defragmenter writes the files of this node's ranges anew, without their free pages: one run at a time, one file at a time, the smallest first, so
// that what each gives back is there for the next. Whoever asks while a run is under way waits for that one, and one that nobody waits for any more goes on: a client's
// patience is made for one small file.
type defragmenter struct {
	ranges *ranges
	dir    string // whose disk counts
	log    *slog.Logger

	atStart int64 // bytes that can be given back, from which on the node begins with a run; 0: never
	wake    chan struct{}
	running atomic.Bool
	took    prometheus.Histogram

	mu struct {
		sync.Mutex
		next *defragmentRun // nil: nobody has asked
	}
}

// defragmentRun is one run, for those who wait for it.
type defragmentRun struct {
	done chan struct{} // closed at its end
	err  error         // set before
}

func newDefragmenter(rs *ranges, dir string, atStart int64) *defragmenter {
	return &defragmenter{
		ranges: rs, dir: dir, log: rs.log, atStart: atStart, wake: make(chan struct{}, 1),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "etcd_disk_backend_defrag_duration_seconds", Help: "How long it took to write the files of all ranges of this node anew.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 13), // etcd's
		}),
	}
}

// Defragment has a run made, or joins the one that is under way, and returns its outcome. Where ctx ends before, the run goes on.
func (x *defragmenter) Defragment(ctx context.Context) error {
	x.mu.Lock()
	run := x.mu.next
	if run == nil {
		run = &defragmentRun{done: make(chan struct{})}
		x.mu.next = run
		patience.Wake(x.wake)
	}
	x.mu.Unlock()
	select {
	case <-run.done:
		return run.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes the runs that are asked for, until ctx ends; the first one, if that is due, when the node serves.
func (x *defragmenter) run(ctx context.Context, serves <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-serves:
	}
	if x.atStart > 0 {
		x.begin(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			x.end(shard.ErrStopped)
			return
		case <-x.wake:
			x.end(x.all(ctx))
		}
	}
}

// begin makes a run if it gives back enough.
func (x *defragmenter) begin(ctx context.Context) {
	size := x.ranges.sizes()
	if size.File-size.InUse < x.atStart {
		x.log.Info("Skipping defragmentation", "current-db-size-bytes", size.File, "current-db-size-in-use-bytes", size.InUse, "bootstrap-defrag-threshold-bytes", x.atStart)
		return
	}
	_ = x.all(ctx) // which has told of it
}

// end tells those who wait.
func (x *defragmenter) end(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if run := x.mu.next; run != nil {
		x.mu.next = nil
		run.err = err
		close(run.done)
	}
}

// all writes all files anew, as far as there is room.
func (x *defragmenter) all(ctx context.Context) error {
	x.running.Store(true)
	defer x.running.Store(false)
	began, before := time.Now(), x.ranges.sizes()
	x.log.Info("defragmenting", "path", x.dir, "current-db-size-bytes", before.File, "current-db-size-in-use-bytes", before.InUse)
	var errs []error
	for _, id := range x.bySize() {
		if err := x.one(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("range %v: %w", id, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	took := time.Since(began)
	x.took.Observe(took.Seconds())
	after := x.ranges.sizes()
	x.log.Info("finished defragmenting directory", "path", x.dir, "current-db-size-bytes-diff", after.File-before.File,
		"current-db-size-bytes", after.File, "current-db-size-in-use-bytes", after.InUse, "took", took)
	return errors.Join(errs...)
}

// bySize are the ranges here, those first whose new file will be the smallest.
func (x *defragmenter) bySize() []shard.RangeID {
	type file struct {
		id   shard.RangeID
		size int64
	}
	var files []file
	x.ranges.each(func(rep *replica.Replica) { files = append(files, file{rep.Desc().ID, rep.Status().SizeInUse}) })
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.id, b.id)) })
	ids := make([]shard.RangeID, len(files))
	for i, f := range files {
		ids[i] = f.id
	}
	return ids
}

// sweep waits until what was compacted has been deleted from a range's file: whoever compacts and then asks for this wants that space. A reader that still
// uses it is not waited for longer than sweepPatience.
func (x *defragmenter) sweep(ctx context.Context, rep *replica.Replica) {
	for end := time.Now().Add(sweepPatience); rep.CompactPending() && time.Now().Before(end) && ctx.Err() == nil; {
		x.ranges.scheduler.touch(rep.Desc().ID, true)
		pause(ctx, sweepPoll)
	}
}

// one writes one file anew. A range that has left this node meanwhile has none.
func (x *defragmenter) one(ctx context.Context, id shard.RangeID) error {
	for try := 1; ; try++ {
		rep, ok := x.ranges.get(id)
		if !ok {
			return nil
		}
		free, err := durable.Free(x.dir)
		if err != nil {
			return err
		}
		if need := rep.Status().SizeInUse + defragmentSpare; free < need {
			return fmt.Errorf("no room to write its file anew: that takes %d bytes, and the disk has %d", need, free)
		}
		x.sweep(ctx, rep)
		before := rep.Status()
		err = rep.Defragment(ctx)
		after := rep.Status()
		x.log.Debug("defragmented a range's file", "range", id.String(), "size", before.Size, "in_use", before.SizeInUse, "size_after", after.Size, "in_use_after", after.SizeInUse, "try", try, "error", err)
		switch {
		case errors.Is(err, shard.ErrStopped) && ctx.Err() == nil:
			return nil
		case !errors.Is(err, mvcc.ErrGivenUp) || try == defragmentTries:
			return err
		}
		if pause(ctx, defragmentPause); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
