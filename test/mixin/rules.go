package mixin

import "time"

// alert is a rule of etcd's mixin: what it asks, and for how long that must hold. The selector is the mixin's default one.
type alert struct {
	name, severity string
	hold           time.Duration
	expr           string
}

// key tells rules apart: some names stand for two.
func (a alert) key() string { return a.name + "/" + a.severity }

// failedGRPC is the share of the calls of a method, in percent, that end with a code that is the server's fault.
const failedGRPC = `100 * sum without (grpc_type, grpc_code) (rate(grpc_server_handled_total{job=~".*etcd.*",
    grpc_code=~"Unknown|FailedPrecondition|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded"}[5m]))
  / sum without (grpc_type, grpc_code) (rate(grpc_server_handled_total{job=~".*etcd.*"}[5m]))`

// walSync is how long the slowest of a hundred syncs of the log takes.
const walSync = `histogram_quantile(0.99, rate(etcd_disk_wal_fsync_duration_seconds_bucket{job=~".*etcd.*"}[5m]))`

// alerts are the rules of etcd 3.7's contrib/mixin with the mixin's defaults filled in: instances are told apart by `instance`, and scraped every
// thirty seconds.
var alerts = []alert{
	{"etcdMembersDown", "critical", 10 * time.Minute, `max without (endpoint) (
    sum without (instance) (up{job=~".*etcd.*"} == bool 0)
    or count without (To) (sum without (instance) (rate(etcd_network_peer_sent_failures_total{job=~".*etcd.*"}[120s])) > 0.01)
  ) > 0`},
	{"etcdInsufficientMembers", "critical", 3 * time.Minute,
		`sum without (instance) (up{job=~".*etcd.*"} == bool 1) < ((count without (instance) (up{job=~".*etcd.*"}) + 1) / 2)`},
	{"etcdNoLeader", "critical", time.Minute, `etcd_server_has_leader{job=~".*etcd.*"} == 0`},
	{"etcdHighNumberOfLeaderChanges", "warning", 5 * time.Minute, `increase((
    max without (instance) (etcd_server_leader_changes_seen_total{job=~".*etcd.*"})
    or 0 * absent(etcd_server_leader_changes_seen_total{job=~".*etcd.*"})
  )[15m:1m]) >= 4`},
	{"etcdHighNumberOfFailedGRPCRequests", "warning", 10 * time.Minute, failedGRPC + ` > 1`},
	{"etcdHighNumberOfFailedGRPCRequests", "critical", 5 * time.Minute, failedGRPC + ` > 5`},
	{"etcdGRPCRequestsSlow", "critical", 10 * time.Minute, `histogram_quantile(0.99, sum without (grpc_type) (
    rate(grpc_server_handling_seconds_bucket{job=~".*etcd.*", grpc_method!="Defragment", grpc_type="unary"}[5m]))) > 0.15`},
	{"etcdMemberCommunicationSlow", "warning", 10 * time.Minute,
		`histogram_quantile(0.99, rate(etcd_network_peer_round_trip_time_seconds_bucket{job=~".*etcd.*"}[5m])) > 0.15`},
	{"etcdHighNumberOfFailedProposals", "warning", 15 * time.Minute, `rate(etcd_server_proposals_failed_total{job=~".*etcd.*"}[15m]) > 5`},
	{"etcdHighFsyncDurations", "warning", 10 * time.Minute, walSync + ` > 0.5`},
	{"etcdHighFsyncDurations", "critical", 10 * time.Minute, walSync + ` > 1`},
	{"etcdHighCommitDurations", "warning", 10 * time.Minute,
		`histogram_quantile(0.99, rate(etcd_disk_backend_commit_duration_seconds_bucket{job=~".*etcd.*"}[5m])) > 0.25`},
	{"etcdDatabaseQuotaLowSpace", "critical", 10 * time.Minute, `(last_over_time(etcd_mvcc_db_total_size_in_bytes{job=~".*etcd.*"}[5m])
    / last_over_time(etcd_server_quota_backend_bytes{job=~".*etcd.*"}[5m])) * 100 > 95`},
	{"etcdExcessiveDatabaseGrowth", "warning", 10 * time.Minute,
		`predict_linear(etcd_mvcc_db_total_size_in_bytes{job=~".*etcd.*"}[4h], 4 * 60 * 60) > etcd_server_quota_backend_bytes{job=~".*etcd.*"}`},
	{"etcdDatabaseHighFragmentationRatio", "warning", 10 * time.Minute, `(last_over_time(etcd_mvcc_db_total_size_in_use_in_bytes{job=~".*etcd.*"}[5m])
    / last_over_time(etcd_mvcc_db_total_size_in_bytes{job=~".*etcd.*"}[5m])) < 0.5
  and etcd_mvcc_db_total_size_in_use_in_bytes{job=~".*etcd.*"} > 104857600`},
}

// panel is one query of a dashboard.
type panel struct{ title, expr string }

// panels are the queries of the mixin's dashboard, with its variables filled in: job and cluster as they are scraped here, and Grafana's
// $__rate_interval, which is four scrapes.
var panels = []panel{
	{"Up", `sum(etcd_server_has_leader{job="etcd", cluster="pontoon"})`},
	{"RPC rate", `sum(rate(grpc_server_started_total{job="etcd", cluster="pontoon", grpc_type="unary"}[2m]))`},
	{"RPC failed rate", `sum(rate(grpc_server_handled_total{job="etcd", cluster="pontoon", grpc_type="unary",
    grpc_code=~"Unknown|FailedPrecondition|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded"}[2m]))`},
	{"Watch streams", `sum(grpc_server_started_total{job="etcd", cluster="pontoon", grpc_service="etcdserverpb.Watch", grpc_type="bidi_stream"})
    - sum(grpc_server_handled_total{job="etcd", cluster="pontoon", grpc_service="etcdserverpb.Watch", grpc_type="bidi_stream"})`},
	{"Lease streams", `sum(grpc_server_started_total{job="etcd", cluster="pontoon", grpc_service="etcdserverpb.Lease", grpc_type="bidi_stream"})
    - sum(grpc_server_handled_total{job="etcd", cluster="pontoon", grpc_service="etcdserverpb.Lease", grpc_type="bidi_stream"})`},
	{"DB size", `etcd_mvcc_db_total_size_in_bytes{job="etcd", cluster="pontoon"}`},
	{"WAL fsync", `histogram_quantile(0.99, sum by (instance, le) (rate(etcd_disk_wal_fsync_duration_seconds_bucket{job="etcd", cluster="pontoon"}[2m])))`},
	{"DB fsync", `histogram_quantile(0.99, sum by (instance, le) (rate(etcd_disk_backend_commit_duration_seconds_bucket{job="etcd", cluster="pontoon"}[2m])))`},
	{"Memory", `process_resident_memory_bytes{job="etcd", cluster="pontoon"}`},
	{"Client traffic in", `rate(etcd_network_client_grpc_received_bytes_total{job="etcd", cluster="pontoon"}[2m])`},
	{"Client traffic out", `rate(etcd_network_client_grpc_sent_bytes_total{job="etcd", cluster="pontoon"}[2m])`},
	{"Peer traffic in", `sum by (instance) (rate(etcd_network_peer_received_bytes_total{job="etcd", cluster="pontoon"}[2m]))`},
	{"Peer traffic out", `sum by (instance) (rate(etcd_network_peer_sent_bytes_total{job="etcd", cluster="pontoon"}[2m]))`},
	{"Leader elections", `changes(etcd_server_leader_changes_seen_total{job="etcd", cluster="pontoon"}[1d])`},
	{"Peer round trip time", `histogram_quantile(0.99, sum by (instance, le) (rate(etcd_network_peer_round_trip_time_seconds_bucket{job="etcd", cluster="pontoon"}[2m])))`},
	{"Proposals failed", `sum(rate(etcd_server_proposals_failed_total{job="etcd", cluster="pontoon"}[2m]))`}, // this and the next three are in older dashboards
	{"Proposals pending", `sum(etcd_server_proposals_pending{job="etcd", cluster="pontoon"})`},
	{"Proposals committed", `sum(rate(etcd_server_proposals_committed_total{job="etcd", cluster="pontoon"}[2m]))`},
	{"Proposals applied", `sum(rate(etcd_server_proposals_applied_total{job="etcd", cluster="pontoon"}[2m]))`},
}
