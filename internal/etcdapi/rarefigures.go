package etcdapi

import (
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rareFigures are of what seldom happens.
type rareFigures struct {
	slowReads, failedReads, promoted prometheus.Counter
	notPromoted                      *prometheus.CounterVec
}

func newRareFigures(reg prometheus.Registerer, counter func(name, help string) prometheus.Counter) rareFigures {
	f := rareFigures{
		slowReads:   counter("etcd_server_slow_read_indexes_total", "Linearizable reads served by this node that were not confirmed in time."),
		failedReads: counter("etcd_server_read_indexes_failed_total", "Linearizable reads served by this node that could not be confirmed."),
		promoted:    counter("etcd_server_learner_promote_successes", "Learners that were promoted by way of this node."),
		notPromoted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_learner_promote_failures", Help: "Promotions of learners that were refused by way of this node, by why."}, []string{"Reason"}),
	}
	reg.MustRegister(f.notPromoted)
	return f
}

// readFailed notes a read that has failed.
func (f *rareFigures) readFailed(r *etcdserverpb.RangeRequest, err error) {
	switch {
	case r.GetSerializable() || !unsure(err):
	case status.Code(err) == codes.DeadlineExceeded || errors.Is(rpctypes.Error(err), rpctypes.ErrTimeout):
		f.slowReads.Inc()
	default:
		f.failedReads.Inc()
	}
}

// notPromotedFor are the reasons that are counted: what a label may say is bounded.
var notPromotedFor = []error{rpctypes.ErrGRPCLearnerNotReady, rpctypes.ErrGRPCMemberNotLearner, rpctypes.ErrGRPCMemberNotFound, rpctypes.ErrGRPCUnhealthy}

// promotion notes the outcome of one.
func (f *rareFigures) promotion(err error) {
	switch {
	case err == nil:
		f.promoted.Inc()
	case slices.ContainsFunc(notPromotedFor, func(e error) bool { return errors.Is(err, e) }):
		f.notPromoted.WithLabelValues(rpctypes.ErrorDesc(err)).Inc()
	}
}

// sent is what a turn of a watch stream has sent.
type sent struct {
	events, controls, marks int
}

// turnFigures are how long turns of watch streams take, from when a stream is taken up until its responses are handed to the connection, under etcd's
// names. A turn sends what is due to all watches of a stream at once. A nil *turnFigures counts nothing.
type turnFigures struct {
	events, perEvent, controls, progress prometheus.Histogram

	together prometheus.Histogram // how many events a turn has sent
}

func newTurnFigures(reg prometheus.Registerer) *turnFigures {
	if reg == nil {
		return nil
	}
	histogram := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "etcd_debugging_server_watch_send_loop_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)})
		reg.MustRegister(h)
		return h
	}
	together := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "pontoon_watch_write_events", Help: "How many events turns of watch streams have sent at once.", Buckets: prometheus.ExponentialBuckets(1, 2, 14)})
	reg.MustRegister(together)
	return &turnFigures{
		together: together,
		events:   histogram("watch_stream_duration_seconds", "How long turns of watch streams took in which events were sent."),
		perEvent: histogram("watch_stream_duration_per_event_seconds", "The same, divided by the number of events."),
		controls: histogram("control_stream_duration_seconds", "How long turns of watch streams took in which it was answered that a watch begins, or ends."),
		progress: histogram("progress_duration_seconds", "How long turns of watch streams took in which progress was told."),
	}
}

// turn notes one.
func (f *turnFigures) turn(s sent, took time.Duration) {
	if f == nil {
		return
	}
	secs := took.Seconds()
	if s.events > 0 {
		f.events.Observe(secs)
		f.perEvent.Observe(secs / float64(s.events))
		f.together.Observe(float64(s.events))
	}
	if s.controls > 0 {
		f.controls.Observe(secs)
	}
	if s.marks > 0 {
		f.progress.Observe(secs)
	}
}
