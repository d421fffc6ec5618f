package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// metricNames are those that a server of etcd 3.7 shows once it has served a put and a read, alone or not.
var metricNames = []string{
	"etcd_cluster_version", "etcd_debugging_auth_revision", "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
	"etcd_debugging_disk_backend_commit_spill_duration_seconds", "etcd_debugging_disk_backend_commit_write_duration_seconds",
	"etcd_debugging_lease_granted_total", "etcd_debugging_lease_renewed_total", "etcd_debugging_lease_revoked_total", "etcd_debugging_lease_ttl_total",
	"etcd_debugging_mvcc_compact_revision", "etcd_debugging_mvcc_current_revision", "etcd_debugging_mvcc_db_compaction_keys_total",
	"etcd_debugging_mvcc_db_compaction_last", "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
	"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "etcd_debugging_mvcc_events_total",
	"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "etcd_debugging_mvcc_keys_total", "etcd_debugging_mvcc_pending_events_total",
	"etcd_debugging_mvcc_slow_watcher_total", "etcd_debugging_mvcc_total_put_size_in_bytes", "etcd_debugging_mvcc_watch_stream_total",
	"etcd_debugging_mvcc_watcher_total", "etcd_debugging_server_lease_expired_total",
	"etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
	"etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
	"etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "etcd_debugging_snap_save_marshalling_duration_seconds",
	"etcd_debugging_snap_save_total_duration_seconds", "etcd_debugging_store_expires_total", "etcd_debugging_store_watch_requests_total",
	"etcd_debugging_store_watchers", "etcd_disk_backend_commit_duration_seconds", "etcd_disk_backend_defrag_duration_seconds",
	"etcd_disk_backend_snapshot_duration_seconds", "etcd_disk_defrag_inflight", "etcd_disk_wal_fsync_duration_seconds",
	"etcd_disk_wal_write_bytes_total", "etcd_disk_wal_write_duration_seconds", "etcd_grpc_proxy_cache_hits_total", "etcd_grpc_proxy_cache_keys_total",
	"etcd_grpc_proxy_cache_misses_total", "etcd_grpc_proxy_events_coalescing_total", "etcd_grpc_proxy_watchers_coalescing_total",
	"etcd_mvcc_db_open_read_transactions", "etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes", "etcd_mvcc_delete_total",
	"etcd_mvcc_hash_duration_seconds", "etcd_mvcc_hash_rev_duration_seconds", "etcd_mvcc_put_total", "etcd_mvcc_range_total", "etcd_mvcc_txn_total",
	"etcd_network_client_grpc_received_bytes_total", "etcd_network_client_grpc_sent_bytes_total", "etcd_network_known_peers",
	"etcd_server_apply_duration_seconds", "etcd_server_client_requests_total", "etcd_server_go_version", "etcd_server_has_leader",
	"etcd_server_health_failures", "etcd_server_health_success", "etcd_server_heartbeat_send_failures_total", "etcd_server_id", "etcd_server_is_leader",
	"etcd_server_is_learner", "etcd_server_leader_changes_seen_total", "etcd_server_learner_promote_successes", "etcd_server_proposals_applied_total",
	"etcd_server_proposals_committed_total", "etcd_server_proposals_failed_total", "etcd_server_proposals_pending", "etcd_server_quota_backend_bytes",
	"etcd_server_range_duration_seconds", "etcd_server_read_indexes_failed_total", "etcd_server_request_duration_seconds",
	"etcd_server_slow_apply_total", "etcd_server_slow_read_indexes_total", "etcd_server_snapshot_apply_in_progress_total", "etcd_server_version",
	"etcd_snap_db_fsync_duration_seconds", "etcd_snap_db_save_total_duration_seconds", "etcd_snap_fsync_duration_seconds", "grpc_server_handled_total",
	"grpc_server_msg_received_total", "grpc_server_msg_sent_total", "grpc_server_started_total", "os_fd_limit", "os_fd_used",
	"promhttp_metric_handler_requests_in_flight", "promhttp_metric_handler_requests_total",
}

// TestMetricNames: every name that etcd has is there, on one node and on three, and those that had nothing to say move with what they tell of.
func TestMetricNames(t *testing.T) {
	beside(t)
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			c := newCluster(t, harness.Options{Nodes: nodes})
			ctx := testContext(t, limit(90*time.Second))
			cl := newClient(t, c, c.Nodes[0].ClientURL)
			watch := cl.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
			<-watch
			lease, err := cl.Grant(ctx, 1)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				if _, err := cl.Put(ctx, "k/names", fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			<-watch
			if err := cl.RequestProgress(ctx); err != nil {
				t.Fatal(err)
			}
			last, err := cl.Put(ctx, "k/leased", "v", clientv3.WithLease(lease.ID))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cl.Compact(ctx, last.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
				t.Fatal(err)
			}
			if _, err := cl.RoleAdd(ctx, "metrics"); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.Nodes { // some are there only once something was asked
				if _, err := newClient(t, c, n.ClientURL).Get(ctx, "k/names"); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, limit(20*time.Second), "all names are there, and move", func() error {
				return namesMove(t, c, last.Header.Revision)
			})
		})
	}
}

// namesMove looks at all nodes: of some figures each has its own, of others the sum counts.
func namesMove(t *testing.T, c *harness.Cluster, compacted int64) error {
	t.Helper()
	ctx := testContext(t, limit(20*time.Second))
	expired := 0.0
	for i, n := range c.Nodes {
		s, err := metricsOf(ctx, n)
		if err != nil {
			return err
		}
		var missing []string
		for _, name := range metricNames {
			if _, ok := s[name]; !ok {
				missing = append(missing, name)
			}
		}
		if slices.Sort(missing); len(missing) > 0 {
			return fmt.Errorf("%s lacks %v", n.Name, missing)
		}
		v, err := s.Value("etcd_debugging_server_lease_expired_total")
		if err != nil {
			return err
		}
		expired += v
		if v, err := s.Value("etcd_debugging_mvcc_compact_revision"); err != nil || int64(v) != compacted {
			return fmt.Errorf("%s: compacted at %v, %v; want %d", n.Name, v, err, compacted)
		}
		if err := s.Positive("etcd_server_apply_duration_seconds", "success", "true"); err != nil {
			return err
		}
		move := []string{"etcd_debugging_mvcc_db_compaction_keys_total", "etcd_debugging_mvcc_db_compaction_last",
			"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
			"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "etcd_debugging_auth_revision"}
		if i == 0 { // where the watch was
			for _, what := range []string{"watch_stream_duration_seconds", "watch_stream_duration_per_event_seconds", "control_stream_duration_seconds", "progress_duration_seconds"} {
				move = append(move, "etcd_debugging_server_watch_send_loop_"+what)
			}
		}
		for _, name := range move {
			if err := s.Positive(name); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
		}
	}
	if expired != 1 {
		return fmt.Errorf("%v leases have expired", expired)
	}
	return nil
}

// gatewayMetricNames are those of a gateway that docs/metrics.md names.
var gatewayMetricNames = []string{
	"pontoon_accept_queue", "pontoon_drain_left", "pontoon_gateway_lists_joined_total", "pontoon_gateway_mirror_builds_total", "pontoon_gateway_mirror_bytes",
	"pontoon_gateway_mirror_auto_ranges", "pontoon_gateway_mirror_auto_taken_total", "pontoon_gateway_mirror_auto_dropped_total",
	"pontoon_gateway_mirror_hits_total", "pontoon_gateway_mirror_keys", "pontoon_gateway_mirror_parts_void", "pontoon_gateway_mirror_void_total", "pontoon_link_attached_total",
	"pontoon_link_feeds", "pontoon_link_lag_revisions", "pontoon_link_lag_seconds", "pontoon_link_lost_total", "pontoon_feeds_starved", "pontoon_links", "pontoon_watch_delivery_bytes", "pontoon_watch_delivery_bytes_max", "pontoon_watch_parked_watchers",
	"pontoon_oracle_questions_total", "pontoon_reads_recalled_total", "pontoon_settings_differences_total", "pontoon_settings_whole_total", "pontoon_watch_feed_failures_total", "pontoon_watch_history_reads_total", "pontoon_watch_ring_bytes",
	"pontoon_watch_ring_reads_total", "pontoon_watch_write_events",
}

// TestGatewayMetrics: a gateway shows how the feeds come to it, and that they stop.
func TestGatewayMetrics(t *testing.T) {
	pontoonOnly(t)
	lengthy(t)
	c := newCluster(t, harness.Options{Nodes: 3, Ranges: 4})
	ctx := testContext(t, limit(120*time.Second))
	g, err := c.AddGateway("g1", "--mirror-prefixes=k/")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Start(), g.WaitReady(ctx)); err != nil {
		t.Fatal(err)
	}
	cl := newClient(t, c, g.ClientURL)
	watch := cl.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-watch
	if _, err := cl.Put(ctx, "k/a", "v"); err != nil {
		t.Fatal(err)
	}
	<-watch
	sum := func(s harness.Series, name string) (sum float64) {
		for _, m := range s[name].GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		return sum
	}
	eventually(t, limit(20*time.Second), "all names are there, and all feeds come", func() error {
		s, err := metricsOf(ctx, g)
		if err != nil {
			return err
		}
		for _, name := range gatewayMetricNames {
			if _, ok := s[name]; !ok {
				return fmt.Errorf("%s is missing", name)
			}
		}
		if feeds, starved := sum(s, "pontoon_link_feeds"), sum(s, "pontoon_feeds_starved"); feeds != 4 || starved != 0 {
			return fmt.Errorf("%v feeds, %v starved", feeds, starved)
		}
		if n := sum(s, "pontoon_link_attached_total"); n < 4 {
			return fmt.Errorf("%v feeds have begun", n)
		}
		if lag := sum(s, "pontoon_link_lag_revisions"); lag != 0 {
			return fmt.Errorf("nothing happens, and feeds lag by %v", lag)
		}
		return nil
	})
	for _, n := range c.Nodes {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, limit(20*time.Second), "no feed comes", func() error {
		s, err := metricsOf(ctx, g)
		if err == nil && sum(s, "pontoon_link_feeds") != 0 {
			err = fmt.Errorf("%v feeds", sum(s, "pontoon_link_feeds"))
		}
		return err
	})
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(30*time.Second), "all come again", func() error {
		s, err := metricsOf(ctx, g)
		if err == nil && sum(s, "pontoon_link_feeds") != 4 {
			err = fmt.Errorf("%v feeds", sum(s, "pontoon_link_feeds"))
		}
		return err
	})
}
