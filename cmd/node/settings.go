package main

import (
	"runtime"
	"strings"

	"pontoon/internal/config"
	"pontoon/internal/httpapi"
)

// v2Deprecation is what etcd 3.7 always has, whatever it is told.
const v2Deprecation = "write-only"

// settingsOf is what a node goes by, under the names that etcd's line at the start has: scripts read that. No password is in it.
func settingsOf(c *config.Config) []any {
	d := &c.Discovery
	return []any{
		"etcd-version", httpapi.ServerVersion, "pontoon-version", version, "go-version", runtime.Version(), "go-os", runtime.GOOS, "go-arch", runtime.GOARCH,
		"name", c.Name, "data-dir", c.DataDir, "wal-dir", c.RaftLogDir(), "wal-dir-dedicated", c.WALDir,
		"heartbeat-interval", c.HeartbeatInterval.String(), "election-timeout", c.ElectionTimeout.String(),
		"snapshot-catchup-entries", c.SnapshotCatchUpEntries,
		"initial-advertise-peer-urls", config.URLStrings(c.AdvertisePeerURLs), "listen-peer-urls", config.URLStrings(c.ListenPeerURLs),
		"advertise-client-urls", config.URLStrings(c.AdvertiseClientURLs), "listen-client-urls", config.URLStrings(c.ListenClientURLs),
		"listen-metrics-urls", config.URLStrings(c.ListenMetricsURLs), "cors", c.CORS, "host-whitelist", c.HostWhitelist,
		"initial-cluster", c.InitialCluster, "initial-cluster-state", c.InitialClusterState, "initial-cluster-token", c.InitialClusterToken,
		"initial-ranges", c.InitialRanges, "replication-factor", c.ReplicationFactor, "oracle-mode", c.OracleMode, "placement", c.Placement,
		"quota-backend-bytes", c.QuotaBackendBytes, "max-request-bytes", c.MaxRequestBytes, "max-concurrent-streams", c.MaxConcurrentStreams, "pre-vote", true,
		"initial-corrupt-check", c.InitialCorruptCheck, "corrupt-check-time-interval", c.CorruptCheckTime.String(),
		"compact-check-time-interval", c.CompactHashCheckTime.String(),
		"auto-compaction-mode", c.AutoCompactionMode, "auto-compaction-retention", c.AutoCompactionRetention,
		"discovery-srv", d.Domain, "discovery-token", d.Token, "discovery-endpoints", strings.Join(d.Endpoints, ","), "discovery-user", d.User,
		"warning-apply-duration", c.WarningApplyDuration.String(), "warning-unary-request-duration", c.WarningUnaryRequestDuration.String(),
		"max-learners", c.MaxLearners, "v2-deprecation", v2Deprecation,
	}
}
