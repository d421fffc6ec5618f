package etcdapi_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

// counted sums up a metric over its labels: values of counters, and how many values histograms have seen.
func counted(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.Metric {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// TestRareFigures: reads that are not confirmed, and promotions, are counted by how they end; serializable reads and what clients ask wrongly are not.
func TestRareFigures(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := apitest.New()
	fail := map[string]error{}
	s.Fail = func(call string) error { return fail[call] }
	f := startStore(t, s, func(c *etcdapi.Config) { c.Registerer = reg })
	kv := etcdserverpb.NewKVClient(f.cli.ActiveConnection()) // clientv3 would ask for ten seconds
	for _, err := range []error{shard.ErrTimeout, shard.ErrStaleEpoch, shard.ErrFutureRevision, nil} {
		fail["RangeEncoded"], fail["Range"] = err, err
		_, _ = kv.Range(f.ctx, &etcdserverpb.RangeRequest{Key: []byte("a"), Serializable: true})
		if _, got := kv.Range(f.ctx, &etcdserverpb.RangeRequest{Key: []byte("a")}); (got == nil) != (err == nil) {
			t.Fatalf("read: %v, want %v", got, err)
		}
	}
	for _, err := range []error{shard.ErrLearnerNotReady, shard.ErrNotLearner, shard.ErrTimeout, nil} {
		if err != nil {
			err = fmt.Errorf("%w: and why", err)
		}
		fail["ChangeMember"] = err
		_, got := f.cli.MemberPromote(f.ctx, 1)
		if errors.Is(err, shard.ErrNotLearner) && !errors.Is(got, rpctypes.ErrMemberNotLearner) {
			t.Errorf("promote: %v", got)
		}
	}
	for name, want := range map[string]float64{"etcd_server_learner_promote_successes": 1, "etcd_server_learner_promote_failures": 2} {
		if got := counted(t, reg, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"etcd_server_slow_read_indexes_total", "etcd_server_read_indexes_failed_total"} {
		if counted(t, reg, name) < 1 {
			t.Errorf("%s has not moved", name)
		}
	}
}

// TestTurnFigures: turns of a watch stream are counted by what they have sent.
func TestTurnFigures(t *testing.T) {
	reg := prometheus.NewRegistry()
	f := start(t, func(c *etcdapi.Config) { c.Registerer = reg })
	const prefix = "etcd_debugging_server_watch_send_loop_"
	events := prefix + "watch_stream_duration_seconds"
	w := f.cli.Watch(f.ctx, "a", clientv3.WithCreatedNotify())
	next(t, w)
	if got := counted(t, reg, events); got != 0 {
		t.Errorf("%v turns with events before there was one", got)
	}
	f.put(t, "a", "1")
	next(t, w)
	if err := f.cli.RequestProgress(f.ctx); err != nil {
		t.Fatal(err)
	}
	next(t, w)
	f.put(t, "a", "2")
	next(t, w) // the turns before have been counted
	for _, name := range []string{events, prefix + "watch_stream_duration_per_event_seconds", prefix + "control_stream_duration_seconds", prefix + "progress_duration_seconds"} {
		if counted(t, reg, name) < 1 {
			t.Errorf("%s has not moved", name)
		}
	}
}
