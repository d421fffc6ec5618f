package host

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/mvcc"
)

// diskFigures are how long this node waits for its disk, under etcd's names and in etcd's buckets. The write-ahead log is the Raft log that all its ranges
// share, the backend their files. It is safe for concurrent use.
type diskFigures struct {
	logWrite, logSync               prometheus.Histogram
	logBytes                        prometheus.Gauge // etcd's is one, too
	commit, rebalance, spill, write prometheus.Histogram
	// etcd cuts its log when it has saved a snapshot, and so does a node when a range's file has what was applied.
	saved, marshalled, savedSync prometheus.Histogram
}

func newDiskFigures() *diskFigures {
	h := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)})
	}
	return &diskFigures{
		logSync:  h("etcd_disk_wal_fsync_duration_seconds", "The latency distributions of writes of the shared Raft log, each with its sync."),
		logWrite: h("etcd_disk_wal_write_duration_seconds", "The same: a write and its sync are one here."),
		logBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcd_disk_wal_write_bytes_total", Help: "Total number of bytes written in the shared Raft log."}),
		commit:     h("etcd_disk_backend_commit_duration_seconds", "The latency distributions of commits to the files of ranges."),
		rebalance:  h("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "The latency distributions of commit.rebalance called by bboltdb backend."),
		spill:      h("etcd_debugging_disk_backend_commit_spill_duration_seconds", "The latency distributions of commit.spill called by bboltdb backend."),
		saved:      h("etcd_debugging_snap_save_total_duration_seconds", "How long it took to write what a range had applied to its file, so that the Raft log can be cut."),
		marshalled: h("etcd_debugging_snap_save_marshalling_duration_seconds", "The part of that which was not writing and its sync."),
		savedSync:  h("etcd_snap_fsync_duration_seconds", "The part of that which was writing and its sync."),
		write:      h("etcd_debugging_disk_backend_commit_write_duration_seconds", "The latency distributions of commit.write called by bboltdb backend."),
	}
}

// logged notes a write of the log.
func (f *diskFigures) logged(bytes int, took time.Duration) {
	f.logSync.Observe(took.Seconds())
	f.logWrite.Observe(took.Seconds())
	f.logBytes.Add(float64(bytes))
}

// committed notes a write of a range's file.
func (f *diskFigures) committed(c mvcc.Commit) {
	f.commit.Observe((c.Rebalance + c.Spill + c.Write).Seconds())
	f.rebalance.Observe(c.Rebalance.Seconds())
	f.spill.Observe(c.Spill.Seconds())
	f.write.Observe(c.Write.Seconds())
	if c.Flush {
		f.saved.Observe((c.Rebalance + c.Spill + c.Write).Seconds())
		f.marshalled.Observe((c.Rebalance + c.Spill).Seconds())
		f.savedSync.Observe(c.Write.Seconds())
	}
}

func (f *diskFigures) all() collectors {
	return collectors{f.logSync, f.logWrite, f.logBytes, f.commit, f.rebalance, f.spill, f.write, f.saved, f.marshalled, f.savedSync}
}
