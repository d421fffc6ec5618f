package host

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// compactionLookAfter is how long after a step of maintenance it is looked whether a compaction has come to its end here: one look, which asks every
// replica, for all steps until then. Where one has begun and not ended, which a step need not follow, it is looked again, after pauses that double up
// to compactionLookMost.
const (
	compactionLookAfter = time.Second
	compactionLookMost  = time.Minute
)

// compactionLog tells, once for each compaction, that all replicas of this node have deleted what it has forgotten, and counts what that took. It is
// safe for concurrent use.
type compactionLog struct {
	log     *slog.Logger
	after   func(time.Duration, func()) // time.AfterFunc
	figures *compactionFigures
	armed   atomic.Bool  // a look is due
	told    atomic.Int64 // revision
}

func newCompactionLog(log *slog.Logger) *compactionLog {
	return &compactionLog{log: log, after: func(d time.Duration, f func()) { time.AfterFunc(d, f) }, figures: newCompactionFigures()}
}

// compactions visits replicas: up to which revision each has forgotten, and whether something of that is still in its file.
type compactions func(visit func(rev int64, pending bool))

// stepped is called when a replica has done a step of maintenance.
func (c *compactionLog) stepped(all compactions) { c.lookAfter(compactionLookAfter, all) }

func (c *compactionLog) lookAfter(pause time.Duration, all compactions) {
	if !c.armed.CompareAndSwap(false, true) {
		return
	}
	c.after(pause, func() {
		c.armed.Store(false)
		if c.look(all) {
			c.lookAfter(min(2*pause, compactionLookMost), all)
		}
	})
}

// sweep is called when a store begins to delete something, and what it returns when it has.
func (c *compactionLog) sweep() (swept func(records int)) { return c.figures.sweep(time.Now()) }

// look reports whether a compaction is under way.
func (c *compactionLog) look(all compactions) (underWay bool) {
	low, high, some, pending := int64(0), int64(0), false, false
	all(func(rev int64, waits bool) {
		if !some || rev < low {
			low, some = rev, true
		}
		high = max(high, rev)
		pending = pending || waits
	})
	if told := c.told.Load(); low > told && !pending && c.told.CompareAndSwap(told, low) {
		took := c.figures.finished(time.Now())
		c.log.Info("finished scheduled compaction", "compact-revision", low, "took", took.String())
	}
	return pending || low < high
}

// compactionFigures are what compactions take on this node, under etcd's names and in etcd's buckets. It is safe for concurrent use.
type compactionFigures struct {
	pauses, total, index prometheus.Histogram
	records              prometheus.Counter
	last                 prometheus.Gauge

	mu           sync.Mutex
	first, ended time.Time // of the steps since the last compaction has finished
}

func newCompactionFigures() *compactionFigures {
	h := func(name, help string, from float64, n int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(from, 2, n)})
	}
	return &compactionFigures{
		pauses: h("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "How long one step held a range's file that deletes what was compacted.", 1, 13),
		total:  h("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "How long it took all replicas of this node to delete what a compaction has forgotten, from their first step to their last.", 100, 14),
		index:  h("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Once for each compaction, and always 0: nothing in memory is walked through.", 0.5, 14),
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_mvcc_db_compaction_keys_total", Help: "Records that compactions have deleted from the files of this node."}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcd_debugging_mvcc_db_compaction_last", Help: "The unix time at which this node was through with the last compaction; 0 after a start."}),
	}
}

func (f *compactionFigures) sweep(began time.Time) (swept func(records int)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first.IsZero() {
		f.first = began
	}
	return func(records int) {
		f.records.Add(float64(records))
		f.pauses.Observe(inMillis(time.Since(began)))
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ended = time.Now()
	}
}

// finished notes the end of a compaction, and tells what it took. One of which nothing was left to do, as after a start, is not counted.
func (f *compactionFigures) finished(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first.IsZero() {
		return 0
	}
	took := max(f.ended.Sub(f.first), 0)
	f.first, f.ended = time.Time{}, time.Time{}
	f.total.Observe(inMillis(took))
	f.index.Observe(0)
	f.last.Set(float64(now.Unix()))
	return took
}

func inMillis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (f *compactionFigures) all() collectors {
	return collectors{f.pauses, f.total, f.index, f.records, f.last}
}
