package host

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// scriptedMachine is a state machine whose outcomes the test decides.
type scriptedMachine struct {
	raftgroup.StateMachine
	err       error
	takes     time.Duration
	installed bool
}

func (m *scriptedMachine) Apply([]raftgroup.Entry) error {
	<-time.After(m.takes)
	return m.err
}
func (m *scriptedMachine) SnapshotTo(io.Writer) error { return m.err }
func (m *scriptedMachine) Receive(io.Reader) (raftgroup.Staged, error) {
	return &scriptedState{m: m}, m.err
}
func (m *scriptedMachine) Applied() (index, term uint64) { return 7, 3 }

type scriptedState struct {
	raftgroup.Staged
	m *scriptedMachine
}

func (s *scriptedState) Install() error {
	s.m.installed = true
	return s.m.err
}

// told is what collectors say, by name and labels: values of counters and gauges, and how many values histograms have seen.
func told(t *testing.T, cs ...prometheus.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(cs...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			out[f.GetName()+labelText(m)] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func labelText(m *dto.Metric) (s string) {
	for _, l := range m.Label {
		s += " " + l.GetName() + "=" + l.GetValue()
	}
	return s
}

// TestMachineFigures: what a state machine does is counted by how it ends, and passed on as it is.
func TestMachineFigures(t *testing.T) {
	var log bytes.Buffer
	f := newMachineFigures(50*time.Millisecond, slog.New(slog.NewJSONHandler(&log, nil)))
	m := &scriptedMachine{}
	w := f.watch(5, m)
	if index, term := w.Applied(); index != 7 || term != 3 {
		t.Error("what is not counted does not come through")
	}
	for _, err := range []error{nil, nil, errors.New("broken"), &raftgroup.Later{Why: errors.New("not yet")}} {
		m.err = err
		if got := w.Apply([]raftgroup.Entry{{Index: 1}}); !errors.Is(got, err) {
			t.Errorf("apply: %v, want %v", got, err)
		}
	}
	m.err, m.takes = nil, 60*time.Millisecond
	_ = w.Apply(nil)
	if !strings.Contains(log.String(), `"apply request took too long"`) || !strings.Contains(log.String(), `"range":"`+shard.RangeID(5).String()+`"`) {
		t.Errorf("a slow one is not in the log: %s", log.String())
	}
	if err := w.SnapshotTo(io.Discard); err != nil {
		t.Error(err)
	}
	st, err := w.Receive(nil)
	if err != nil || st.Install() != nil || !m.installed {
		t.Errorf("receive: %v", err)
	}
	m.err = errors.New("broken")
	if w.SnapshotTo(io.Discard) == nil {
		t.Error("an error is lost")
	}
	if _, err := w.Receive(nil); err == nil {
		t.Error("an error is lost")
	}
	got := told(t, f.all())
	for name, want := range map[string]float64{
		"etcd_server_apply_duration_seconds op=Batch success=true version=v3": 3, "etcd_server_apply_duration_seconds op=Batch success=false version=v3": 1,
		"etcd_server_slow_apply_total": 1, "etcd_disk_backend_snapshot_duration_seconds": 1, "etcd_snap_db_save_total_duration_seconds": 1,
		"etcd_snap_db_fsync_duration_seconds": 1, "etcd_server_snapshot_apply_in_progress_total": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
}

// TestCompactionFigures: a compaction is counted once, from its first step to its last, and none after a start of which nothing was left to do.
func TestCompactionFigures(t *testing.T) {
	f := newCompactionFigures()
	if took := f.finished(time.Unix(1000, 0)); took != 0 {
		t.Errorf("nothing was done, and took %v", took)
	}
	first := f.sweep(time.Now().Add(-time.Second))
	first(3)
	f.sweep(time.Now())(4)
	if took := f.finished(time.Unix(2000, 0)); took < time.Second || took > time.Minute {
		t.Errorf("took %v", took)
	}
	got := told(t, f.all())
	for name, want := range map[string]float64{
		"etcd_debugging_mvcc_db_compaction_keys_total": 7, "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": 2,
		"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": 1, "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": 1,
		"etcd_debugging_mvcc_db_compaction_last": 2000,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
