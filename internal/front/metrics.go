package front

import (
	"os"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"

	"pontoon/internal/metaclient"
	"pontoon/placement"
	"pontoon/watchfanout"
)

// registerMetrics gives the figures of serving under etcd's names where the meaning is the same, and under
// pontoon_ where it is ours. All are read at scrape time.
func (f *Front) registerMetrics() error {
	reg := f.cfg.Registry
	f.room.Register(reg, "gateway")
	f.lists.room.Register(reg)
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
	registerWatches(f.hub, gauge, counter)
	client := f.backend.Cluster.Client
	gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction that this node has heard of.", func() float64 { return float64(client.Compacted()) })
	registerSettings(reg, client, gauge, counter)
	registerOthers(gauge, counter)

	gauge("pontoon_drain_left", "Streams of clients that a stop is still to end.", func() float64 {
		if !f.retiring.Load() {
			return 0
		}
		return float64(f.api.Streams())
	})
	f.feeds.register(gauge, counter)
	if f.chain != nil {
		f.chain.register(gauge, counter)
	}
	reg.MustRegister(flowMetrics{f.feeds})
	counter("pontoon_oracle_questions_total", "Questions for the current revision that were asked here, by reads, watches and those who close; many share a call.",
		func() float64 { return float64(client.OracleQuestions()) })
	counter("pontoon_reads_here_total", "Parts of linearizable reads that a replica of this node has answered without its leader: the oracle had given the range no revision.",
		func() float64 { return float64(f.router.ReadHere()) })
	counter("pontoon_reads_recalled_total", "Times that the oracle's answer alone has answered reads of one key that others lead: the range was given no revision since its leader was asked for the key.",
		func() float64 { return float64(f.router.Recalled()) })
	gauge("pontoon_accept_queue", "Connections of clients that the system has taken and this process has not yet; Linux alone tells.", func() float64 { return float64(f.ports.queued()) })
	if f.mirrors != nil {
		f.mirrors.register(gauge, counter)
	}
	return nil
}

// registerSettings registers the figures of alarms, users and roles.
func registerSettings(reg prometheus.Registerer, client *metaclient.Client, gauge, counter func(name, help string, fn func() float64)) {
	gauge("etcd_debugging_auth_revision", "The revision of users and roles that this node has heard of.", func() float64 {
		if v := client.Settings().Auth; v != nil {
			return float64(v.Revision())
		}
		return 0
	})
	reg.MustRegister(alarms{client.Settings})
	counter("pontoon_settings_whole_total", "Answers that have brought all of the settings, which are users, roles and alarms, to this process.", func() float64 {
		whole, _ := client.SettingsTaken()
		return float64(whole)
	})
	counter("pontoon_settings_differences_total", "Answers that have brought what is otherwise in the settings than in those by which this process went.", func() float64 {
		_, differences := client.SettingsTaken()
		return float64(differences)
	})
}

// registerWatches registers the figures of a hub.
func registerWatches(hub *watchfanout.Hub, gauge, counter func(name, help string, fn func() float64)) {
	gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", func() float64 { return float64(hub.Stats().Streams) })
	gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", func() float64 { return float64(hub.Stats().Watchers) })
	gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that read history.", func() float64 { return float64(hub.Stats().SlowWatchers) })
	gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", func() float64 { return float64(hub.Stats().PendingEvents) })
	counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.", func() float64 { return float64(hub.Stats().EventsTotal) })
	counter("pontoon_watch_lanes_cut_total", "Times that the watches over a range went on in both parts of it, in place, when it was split.", func() float64 { return float64(hub.Stats().CutTotal) })
	counter("pontoon_watch_history_reads_total", "Reads of the history of a range for watchers that were behind its feed.", func() float64 { return float64(hub.Stats().ReadsTotal) })
	counter("pontoon_watch_ring_reads_total", "Reads of history that were spared by what is remembered of a range's feed.", func() float64 { return float64(hub.Stats().SparedTotal) })
	gauge("pontoon_watch_ring_bytes", "Bytes of events that are remembered for watches that come back.", func() float64 { return float64(hub.Stats().RingBytes) })
	gauge("pontoon_watch_delivery_bytes", "Bytes of events that wait to be sent to watchers, each counted once, however many wait for it.", func() float64 { return float64(hub.Stats().DeliveryBytes) })
	gauge("pontoon_watch_delivery_bytes_max", "How much that may be: beyond, watchers that are furthest behind are parked.", func() float64 { return float64(hub.Stats().DeliveryBytesMax) })
	gauge("pontoon_watch_parked_watchers", "Slow watchers that wait for their clients to take something. They go on by what is remembered, or by history.", func() float64 { return float64(hub.Stats().ParkedWatchers) })
	counter("pontoon_watch_shed_streams_total", "Times that what waited for a client was given up, because too much waited for all, or for its connection.", func() float64 { return float64(hub.Stats().ShedTotal) })
	counter("pontoon_watch_late_events_total", "Events that came after their revision had been closed. Anything but 0 is a bug.", func() float64 { return float64(hub.Stats().LateTotal) })
}

// registerOthers registers what etcd's binary has under the same address and a node has nothing of: no proxy runs in it, as in a server of etcd's, no store of
// the second version of the API, and no files that say up to where the log may be cut. All are 0, as they are there.
func registerOthers(gauge, counter func(name, help string, fn func() float64)) {
	none := func() float64 { return 0 }
	const proxy, v2 = "Always 0: no proxy runs in a server.", "Always 0: there is no store of the API's second version."
	gauge("etcd_grpc_proxy_cache_keys_total", proxy, none)
	counter("etcd_grpc_proxy_cache_hits_total", proxy, none)
	counter("etcd_grpc_proxy_cache_misses_total", proxy, none)
	counter("etcd_grpc_proxy_events_coalescing_total", proxy, none)
	gauge("etcd_grpc_proxy_watchers_coalescing_total", proxy, none)
	counter("etcd_debugging_store_expires_total", v2, none)
	counter("etcd_debugging_store_watch_requests_total", v2, none)
	gauge("etcd_debugging_store_watchers", v2, none)
}

var alarmDesc = prometheus.NewDesc("etcd_debugging_server_alarms", "Alarms that are raised for members, as far as this node has heard.", []string{"server_id", "alarm_type"}, nil)

// alarms is a collector of the alarms that are raised.
type alarms struct{ settings func() *placement.Settings }

// Describe implements prometheus.Collector.
func (a alarms) Describe(ch chan<- *prometheus.Desc) { ch <- alarmDesc }

// Collect implements prometheus.Collector.
func (a alarms) Collect(ch chan<- prometheus.Metric) {
	for _, raised := range a.settings().Alarms {
		ch <- prometheus.MustNewConstMetric(alarmDesc, prometheus.GaugeValue, 1, raised.Member.String(), etcdserverpb.AlarmType(raised.Kind).String())
	}
}
