package front

import (
	"os"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// registerMetrics gives the figures of serving under etcd's names where the meaning is the same, and under
// pontoon_ where it is ours. All are read at scrape time.
func (f *Front) registerMetrics() error {
	reg := f.cfg.Registry
	gauge := func(name, help string, fn func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn))
	}
	counter := func(name, help string, fn func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, fn))
	}
	for _, is := range [][4]string{
		{"etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.", "server_version", apiVersion},
		{"etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version", "cluster_version", strings.TrimSuffix(clusterVersion, ".0")},
		{"etcd_server_go_version", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", "server_go_version", runtime.Version()},
	} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: is[0], Help: is[1], ConstLabels: prometheus.Labels{is[2]: is[3]},
		}, func() float64 { return 1 }))
	}
	gauge("os_fd_used", "The number of used file descriptors.", func() float64 {
		fds, _ := os.ReadDir("/proc/self/fd") // elsewhere 0
		return float64(len(fds))
	})
	gauge("os_fd_limit", "The file descriptor limit.", func() float64 {
		var limit unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) // 0
		return float64(limit.Cur)
	})
	if f.cfg.TLS != nil {
		reg.MustRegister(f.cfg.TLS)
	}
	hub := f.hub
	gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", func() float64 { return float64(hub.Stats().Streams) })
	gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", func() float64 { return float64(hub.Stats().Watchers) })
	gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that read history.", func() float64 { return float64(hub.Stats().SlowWatchers) })
	gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", func() float64 { return float64(hub.Stats().PendingEvents) })
	counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.", func() float64 { return float64(hub.Stats().EventsTotal) })

	counter("pontoon_watch_lanes_cut_total", "Times that the watches over a range went on in both parts of it, in place, when it was split.", func() float64 { return float64(hub.Stats().CutTotal) })
	counter("pontoon_watch_history_reads_total", "Reads of the history of a range for watchers that were behind its feed.", func() float64 { return float64(hub.Stats().ReadsTotal) })
	counter("pontoon_watch_late_events_total", "Events that came after their revision had been closed. Anything but 0 is a bug.", func() float64 { return float64(hub.Stats().LateTotal) })
	counter("pontoon_watch_feed_failures_total", "Times that a range's feed from another node broke, or could not be opened.",
		func() float64 { return float64(f.feeds.broken.Load()) })
	return nil
}
