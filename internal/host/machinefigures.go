package host

import (
	"errors"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// machineFigures are how long the replicas of this node take for what their groups ask of them, under etcd's names and in etcd's buckets: to apply
// what was committed, to write their state for another node, and to take one in. It is safe for concurrent use.
type machineFigures struct {
	log                        *slog.Logger
	expected                   time.Duration // of an apply; what takes longer is slow
	applies                    *prometheus.HistogramVec
	applied, notApplied        prometheus.Observer
	slow                       prometheus.Counter
	written, received, syncing prometheus.Histogram
	installing                 prometheus.Gauge
}

// What etcd calls a batch that is applied: it observes each request of one by its kind.
const (
	applyVersion = "v3"
	applyOp      = "Batch"
)

func newMachineFigures(expected time.Duration, log *slog.Logger) *machineFigures {
	h := func(name, help string, from float64, n int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(from, 2, n)})
	}
	f := &machineFigures{
		log: log, expected: expected,
		applies: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "etcd_server_apply_duration_seconds", Help: "How long a replica of this node took to apply committed entries, once for each batch of them.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
		}, []string{"version", "op", "success"}),
		slow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_slow_apply_total", Help: "Batches of committed entries that took a replica of this node longer to apply than --warning-apply-duration."}),
		written:  h("etcd_disk_backend_snapshot_duration_seconds", "How long it took to write the state of a replica of this node for another node.", .01, 17),
		received: h("etcd_snap_db_save_total_duration_seconds", "How long it took to receive the state of a replica from another node, and to save it.", 0.1, 10),
		syncing:  h("etcd_snap_db_fsync_duration_seconds", "How long it took to put such a state in the place of the former one, with its syncs.", 0.001, 14),
		installing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcd_server_snapshot_apply_in_progress_total", Help: "How many replicas of this node are being given a state that has come from another node."}),
	}
	f.applied = f.applies.WithLabelValues(applyVersion, applyOp, strconv.FormatBool(true))
	f.notApplied = f.applies.WithLabelValues(applyVersion, applyOp, strconv.FormatBool(false))
	return f
}

// watch is a state machine that is counted.
func (f *machineFigures) watch(id shard.RangeID, sm raftgroup.StateMachine) raftgroup.StateMachine {
	return &watchedMachine{StateMachine: sm, id: id, f: f}
}

func (f *machineFigures) apply(id shard.RangeID, entries int, took time.Duration, err error) {
	var later *raftgroup.Later
	switch {
	case errors.As(err, &later): // nothing was done, and nothing went wrong
		return
	case err != nil:
		f.notApplied.Observe(took.Seconds())
	default:
		f.applied.Observe(took.Seconds())
	}
	if took > f.expected {
		f.slow.Inc()
		f.log.Warn("apply request took too long", "took", took.String(), "expected-duration", f.expected.String(), "range", id.String(), "entries", entries)
	}
}

func (f *machineFigures) all() collectors {
	return collectors{f.applies, f.slow, f.written, f.received, f.syncing, f.installing}
}

// watchedMachine is a state machine, and how long it takes.
type watchedMachine struct {
	raftgroup.StateMachine
	id shard.RangeID
	f  *machineFigures
}

// Apply implements raftgroup.StateMachine.
func (w *watchedMachine) Apply(ents []raftgroup.Entry) error {
	began := time.Now()
	err := w.StateMachine.Apply(ents)
	w.f.apply(w.id, len(ents), time.Since(began), err)
	return err
}

// SnapshotTo implements raftgroup.StateMachine.
func (w *watchedMachine) SnapshotTo(to io.Writer) error {
	began := time.Now()
	err := w.StateMachine.SnapshotTo(to)
	if err == nil {
		w.f.written.Observe(time.Since(began).Seconds())
	}
	return err
}

// Receive implements raftgroup.StateMachine.
func (w *watchedMachine) Receive(r io.Reader) (raftgroup.Staged, error) {
	began := time.Now()
	st, err := w.StateMachine.Receive(r)
	if err != nil {
		return nil, err
	}
	w.f.received.Observe(time.Since(began).Seconds())
	return &watchedState{Staged: st, f: w.f}, nil
}

// watchedState is a state that has come from another node.
type watchedState struct {
	raftgroup.Staged
	f *machineFigures
}

// Install implements raftgroup.Staged.
func (w *watchedState) Install() error {
	w.f.installing.Inc()
	defer w.f.installing.Dec()
	began := time.Now()
	err := w.Staged.Install()
	if err == nil {
		w.f.syncing.Observe(time.Since(began).Seconds())
	}
	return err
}
