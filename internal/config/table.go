package config

import (
	"net/url"
	"strings"
	"time"
)

func urlList(field func(*Config) *[]url.URL) func(*Config, string) error {
	return func(c *Config, v string) error {
		us, err := parseURLs(v)
		*field(c) = us
		return err
	}
}

// groups is the table of all flags in the order of the help.
func groups() []flagGroup {
	return []flagGroup{
		{"Member", append(memberFlags(), listenFlags()...)},
		{"Clustering", append(clusterFlags(), discoveryFlags()...)},
		{"Pontoon", append(pontoonFlags(), gatewayFlags()...)},
		{"Security", securityFlags()},
		{"Auth", authFlags()},
		{"Profiling and Monitoring", monitorFlags()},
		{"Logging", loggingFlags()},
		{"Distributed tracing", tracingFlags()},
		{"Features", featureFlags()},
		{"Unsafe feature", unsafeFlags()},
	}
}

func memberFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "name", "default", "This node's name, unique in the cluster.",
			text(func(c *Config) *string { return &c.Name })),
		used(kindString, "data-dir", "${name}.pontoon", "Directory of everything durable.",
			text(func(c *Config) *string { return &c.DataDir })),
		used(kindString, "wal-dir", "", "Directory of the shared Raft log, where it has a disk of its own.",
			text(func(c *Config) *string { return &c.WALDir })),
		ignored(kindUint, "snapshot-count", "10000",
			"No effect: logs are cut as soon as a range's file holds what they say."),
		used(kindUint, "heartbeat-interval", "100", "Milliseconds between Raft heartbeats.",
			millis(func(c *Config) *time.Duration { return &c.HeartbeatInterval })),
		used(kindUint, "election-timeout", "1000", "Milliseconds without a leader before an election.",
			millis(func(c *Config) *time.Duration { return &c.ElectionTimeout })),
		ignored(kindBool, "initial-election-tick-advance", "true", "No effect."),
		deprecated(kindUint, "max-snapshots", "5", "No effect: a snapshot is streamed, not kept.",
			"--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
		ignored(kindUint, "max-wals", "5", "No effect: the shared log removes its own files."),
		ignored(kindBool, "memory-mlock", "false", "No effect."),
		used(kindInt, "quota-backend-bytes", "0", "Bytes that this node's ranges may take, then NOSPACE is raised (0: what the disk allows, negative: none).",
			signed(func(c *Config) *int64 { return &c.QuotaBackendBytes })),
		ignored(kindString, "backend-bbolt-freelist-type", "map", "No effect."),
		ignored(kindDuration, "backend-batch-interval", "0s", "No effect."),
		ignored(kindInt, "backend-batch-limit", "0", "No effect."),
		used(kindUint, "max-txn-ops", "128", "Operations that one transaction may have.",
			number(32, func(c *Config) *uint { return &c.MaxTxnOps })),
		used(kindUint, "max-request-bytes", "1572864", "Bytes that one request may have.",
			number(32, func(c *Config) *uint { return &c.MaxRequestBytes })),
		used(kindUint, "max-concurrent-streams", "4294967295", "Streams that one client connection may have open.",
			number(32, func(c *Config) *uint32 { return &c.MaxConcurrentStreams })),
		used(kindDuration, "grpc-keepalive-min-time", "5s", "Least pause between the pings of a client.",
			duration(func(c *Config) *time.Duration { return &c.GRPCKeepAliveMinTime })),
		used(kindDuration, "grpc-keepalive-interval", "2h", "How often an idle client is pinged (0: never).",
			duration(func(c *Config) *time.Duration { return &c.GRPCKeepAliveInterval })),
		used(kindDuration, "grpc-keepalive-timeout", "20s", "How long such a ping is waited for (0: for ever).",
			duration(func(c *Config) *time.Duration { return &c.GRPCKeepAliveTimeout })),
	}
}

func listenFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "listen-peer-urls", defaultPeerURL,
			"URLs to listen on for other nodes (IP addresses or localhost).",
			urlList(func(c *Config) *[]url.URL { return &c.ListenPeerURLs })),
		used(kindString, "listen-client-urls", defaultClientURL,
			"URLs to listen on for clients: gRPC, and HTTP unless --listen-client-http-urls is given.",
			urlList(func(c *Config) *[]url.URL { return &c.ListenClientURLs })),
		used(kindString, "listen-client-http-urls", "", "URLs to listen on for HTTP alone.",
			urlList(func(c *Config) *[]url.URL { return &c.ListenClientHTTPURLs })),
		ignored(kindBool, "socket-reuse-port", "false", "No effect."),
		ignored(kindBool, "socket-reuse-address", "false", "No effect."),
		used(kindBool, "enable-grpc-gateway", "true", "Serves etcd's API as JSON under /v3/ wherever HTTP is served for clients.",
			boolean(func(c *Config) *bool { return &c.EnableGRPCGateway })),
		ignored(kindDuration, "raft-read-timeout", "5s", "No effect."),
		ignored(kindDuration, "raft-write-timeout", "5s", "No effect."),
	}
}

func clusterFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "initial-advertise-peer-urls", defaultPeerURL, "This node's URLs for other nodes.",
			urlList(func(c *Config) *[]url.URL { return &c.AdvertisePeerURLs })),
		used(kindString, "initial-cluster", "default=http://localhost:2380",
			"All nodes of a new cluster: name=peer-url, comma separated.",
			text(func(c *Config) *string { return &c.InitialCluster })),
		used(kindString, "initial-cluster-state", "new", "'new' or 'existing'. Without meaning once the node has data.",
			oneOf("initial-cluster-state", []string{ClusterNew, ClusterExisting}, func(c *Config) *string { return &c.InitialClusterState })),
		used(kindString, "initial-cluster-token", "etcd-cluster",
			"Keeps clusters apart that could reach one another by mistake.",
			text(func(c *Config) *string { return &c.InitialClusterToken })),
		used(kindString, "advertise-client-urls", defaultClientURL, "This node's URLs for clients.",
			urlList(func(c *Config) *[]url.URL { return &c.AdvertiseClientURLs })),
		used(kindBool, "strict-reconfig-check", "true", "Refuse changes of the members that could cost a majority.",
			boolean(func(c *Config) *bool { return &c.StrictReconfigCheck })),
		ignored(kindBool, "pre-vote", "true", "No effect: pre-vote is always on."),
		used(kindString, "auto-compaction-retention", "0",
			"How much history is kept: a duration, or a number of hours, or of revisions (0: all, until a client compacts).",
			text(func(c *Config) *string { return &c.AutoCompactionRetention })),
		used(kindString, "auto-compaction-mode", CompactPeriodic,
			"What --auto-compaction-retention counts: 'periodic', time; 'revision', revisions.", setCompactionMode),
		deprecated(kindString, "v2-deprecation", "write-only", "No effect.",
			"--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.",
			"write-only", "write-only-drop-data", "gone"),
	}
}

func pontoonFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "initial-split-keys", "",
			`Where a new cluster's key space is cut, comma separated; Go's escapes are understood (\x00, `+
				`\u5965, \x2c for a comma). Every node of a new cluster must be told the same.`, setSplitKeys),
		used(kindUint, "initial-ranges", "1",
			"Cuts a new cluster's key space into so many parts of equal width. Every node of a new cluster "+
				"must be told the same.", setRanges),
		used(kindUint, "replication-factor", "3",
			"Replicas of a range, where there are nodes enough; odd.", setReplication),
		used(kindString, "cache-size", "64MiB",
			"Memory for hot records: bytes, or a number with KiB, MiB or GiB.", setCacheSize),
		used(kindString, "ring-size", "64MiB",
			"Memory for the events of the last minutes, from which watches go on that come back (0: none): bytes, or a number with KiB, MiB or GiB.", setRingSize),
		used(kindString, "delivery-memory", "25%",
			"Memory for what waits to be sent to watchers, at least 16MiB: bytes, a number with KiB, MiB or GiB, or a share, with %, of what the process may use (GOMEMLIMIT, "+
				"its container's limit, the machine's). Over it those who are furthest behind are parked: they read what they miss again, once they take something.", setDeliveryMemory),
		used(kindString, "oracle-mode", OracleLease,
			"'lease': revisions are handed out under a leader lease. 'quorum': under one quorum round per "+
				"batch, where no clock is trusted.",
			oneOf("oracle-mode", []string{OracleLease, OracleQuorum}, func(c *Config) *string { return &c.OracleMode })),
		used(kindString, "placement", PlacementOn,
			"What the cluster does by itself. 'on': replicas of dead nodes are replaced, failure domains are kept apart, ranges that have become "+
				"too large or too busy are cut, those that are small and idle are merged, and replicas, bytes, load and leaders are evened out. 'repair': only the first two. 'off': only what "+
				"somebody has asked for. All nodes should be told the same.",
			oneOf("placement", []string{PlacementOff, PlacementRepair, PlacementOn}, func(c *Config) *string { return &c.Placement })),
		used(kindDuration, "dead-after", "5m0s",
			"How long a node is silent before its replicas are replaced on other nodes, at least 1s. All nodes should be told the same.",
			duration(func(c *Config) *time.Duration { return &c.DeadAfter })),
		used(kindDuration, "merge-after", "10m0s",
			"How long two neighbouring ranges that are small have been idle, and nothing was done to them, before they are merged, at least 1s. All "+
				"nodes should be told the same.",
			duration(func(c *Config) *time.Duration { return &c.MergeAfter })),
		used(kindString, "range-max-bytes", "256MiB",
			"The size of its file in use from which on a range is cut in two, at least 1MiB: bytes, or a number with "+
				"KiB, MiB or GiB. All nodes should be told the same.", setRangeMaxBytes),
		used(kindString, "snapshot-rate", "32MiB",
			"How much of the states of ranges the node sends in a second at most, where replicas are made elsewhere, and as much it takes; "+
				"at least 1MiB: bytes, or a number with KiB, MiB or GiB.", setSnapshotRate),
		used(kindUint, "requests-max", "65536",
			"How many requests of clients may be under way on the node at a time, and as many writes to ranges that it leads; beyond, they are refused: "+
				"too many requests.", setRequestsMax),
		used(kindString, "requests-max-bytes", "512MiB",
			"How many bytes these may take, at least 1MiB: bytes, or a number with KiB, MiB or GiB. One request of any size is always let in.", setRequestsMaxBytes),
		used(kindString, "lists-max-bytes", "256MiB",
			"How many bytes the large lists of clients may take together while they are put together, at least 16MiB: bytes, or a number with KiB, MiB or GiB. Who finds no room "+
				"waits, up to the client's deadline, one list of each user or connection at a time. One list of any size is always let in.", setListsMaxBytes),
		used(kindDuration, "shutdown-timeout", "10s",
			"How long a node that is stopped hands the lead of its ranges over at most, before it ends.",
			duration(func(c *Config) *time.Duration { return &c.ShutdownTimeout })),
		used(kindDuration, "drain-period", "30s",
			"How long a node or gateway that is stopped takes at most to end the streams of watches, one behind the other (0: all at once). Few streams take less: 200 "+
				"end in a second.",
			duration(func(c *Config) *time.Duration { return &c.DrainPeriod })),
		used(kindDuration, "max-connection-age", "0s",
			"From which age on, a tenth more or less, the connection of a gRPC client is to be opened anew, wherever that leads it (0: from none). At least 1s.",
			duration(func(c *Config) *time.Duration { return &c.MaxConnectionAge })),
		used(kindDuration, "max-connection-age-grace", "1m0s",
			"How long the streams and requests of such a connection may go on, at least 1s.",
			duration(func(c *Config) *time.Duration { return &c.MaxConnectionAgeGrace })),
		used(kindString, "tuning", TuningAuto,
			"'auto': the node adapts to its machine. 'off': it asks nothing special of the system and the "+
				"runtime; the three flags below hold only if they are given.",
			oneOf("tuning", []string{TuningAuto, TuningOff}, func(c *Config) *string { return &c.Tuning })),
		used(kindString, "cpu-scheduling", SchedulingBatch,
			"'batch': the node runs in longer pieces where processors are short, which lets messages share "+
				"frames and writes. 'normal': as the system treats any process.",
			oneOf("cpu-scheduling", []string{SchedulingBatch, SchedulingNormal}, func(c *Config) *string { return &c.CPUScheduling })),
		used(kindDuration, "delivery-linger-max", "20ms",
			"Longest time that what watchers are due waits for more to go out with it, where processors are short (0: it does not wait).",
			duration(func(c *Config) *time.Duration { return &c.DeliveryLingerMax })),
		used(kindDuration, "batch-linger-max", "15ms",
			"How long a write may wait at most for others to share its log entry, while goroutines wait for "+
				"processors (0: never).",
			duration(func(c *Config) *time.Duration { return &c.BatchLingerMax })),
		used(kindDuration, "timer-slack", "0s",
			"By how much Linux may be late with the node's timers, such as 5ms; the process then executes "+
				"itself again at its start (0: as the system has it).",
			duration(func(c *Config) *time.Duration { return &c.TimerSlack })),
	}
}

func authFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "auth-token", "simple",
			"How tokens are made: 'simple', which any member can check, or 'jwt,sign-method=…,pub-key=…,priv-key=…,ttl=5m'.",
			text(func(c *Config) *string { return &c.AuthToken })),
		used(kindUint, "bcrypt-cost", "10", "How costly the hash of a password is, 4 to 31.",
			number(31, func(c *Config) *uint { return &c.BcryptCost })),
		used(kindUint, "auth-token-ttl", "300", "Seconds for which a simple token is valid that is not used.",
			seconds(func(c *Config) *time.Duration { return &c.AuthTokenTTL })),
	}
}

func monitorFlags() []flagSpec {
	return []flagSpec{
		used(kindBool, "enable-pprof", "false", "Serves profiles on the client URLs under /debug/pprof/.",
			boolean(func(c *Config) *bool { return &c.EnablePprof })),
		used(kindString, "metrics", "basic", "'extensive' adds histograms of gRPC calls to /metrics.",
			func(c *Config, v string) error { c.MetricsExtensive = v == "extensive"; return nil }),
		used(kindString, "listen-metrics-urls", "", "Further URLs for /metrics and the health endpoints.",
			urlList(func(c *Config) *[]url.URL { return &c.ListenMetricsURLs })),
	}
}

func loggingFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "logger", "zap", "Only 'zap', for etcd's sake: lines have its form.", setLogger),
		used(kindString, "log-outputs", "default", "Comma separated: 'stderr', 'stdout', 'default' (stderr), files.",
			func(c *Config, v string) error { c.LogOutputs = unique(strings.Split(v, ",")); return nil }),
		used(kindString, "log-level", "info", "debug, info, warn, error, panic or fatal.",
			text(func(c *Config) *string { return &c.LogLevel })),
		used(kindString, "log-format", "json", "'json' or 'console'.",
			text(func(c *Config) *string { return &c.LogFormat })),
		ignored(kindBool, "enable-log-rotation", "false", "No effect yet."),
		ignored(kindString, "log-rotation-config-json", "", "No effect yet."),
		used(kindDuration, "warning-unary-request-duration", "300ms", "From which duration on a request is worth a line in the log.",
			duration(func(c *Config) *time.Duration { return &c.WarningUnaryRequestDuration })),
	}
}

func tracingFlags() []flagSpec {
	return []flagSpec{
		ignored(kindBool, "enable-distributed-tracing", "false", "No effect."),
		ignored(kindString, "distributed-tracing-address", "localhost:4317", "No effect."),
		ignored(kindString, "distributed-tracing-service-name", "etcd", "No effect."),
		ignored(kindString, "distributed-tracing-instance-id", "", "No effect."),
		ignored(kindInt, "distributed-tracing-sampling-rate", "0", "No effect."),
	}
}

func featureFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "feature-gates", "", "CompactHashCheck and InitialCorruptCheck compare replicas; etcd's other gates have no effect.", setFeatureGates),
		used(kindDuration, "corrupt-check-time", "0s", "Pause between two comparisons of all replicas, on the leader of the meta group. 0: none.",
			duration(func(c *Config) *time.Duration { return &c.CorruptCheckTime })),
		used(kindDuration, "compact-hash-check-time", "1m", "How often it is looked whether something was compacted, and replicas are to be compared there, with the gate CompactHashCheck.", setCompactHashCheck),
		ignored(kindInt, "compaction-batch-limit", "1000", "No effect: compaction is paced by its own budget."),
		ignored(kindDuration, "compaction-sleep-interval", "10ms", "No effect."),
		used(kindDuration, "watch-progress-notify-interval", "10m", "Pause between progress notifications of a watch.",
			duration(func(c *Config) *time.Duration { return &c.WatchProgressNotifyInterval })),
		used(kindDuration, "warning-apply-duration", "100ms", "From which duration on it is worth a line in the log that a range has applied committed entries.",
			duration(func(c *Config) *time.Duration { return &c.WarningApplyDuration })),
		used(kindUint, "bootstrap-defrag-threshold-megabytes", "0", "How many MiB defragmentation would give back, from which on a node does it once it has started. 0: it does not.",
			number(32, func(c *Config) *uint32 { return &c.BootstrapDefragThresholdMegabytes })),
		used(kindUint, "max-learners", "1", "How many learners the cluster may have.",
			number(32, func(c *Config) *uint32 { return &c.MaxLearners })),
		ignored(kindDuration, "downgrade-check-time", "5s", "No effect."),
		used(kindUint, "snapshot-catchup-entries", "5000",
			"Entries that stay in a log behind a cut, for followers that are a little late.",
			number(64, func(c *Config) *uint64 { return &c.SnapshotCatchUpEntries })),
	}
}

func unsafeFlags() []flagSpec {
	return []flagSpec{
		refused(kindBool, "force-new-cluster", "false",
			"making a new cluster of one node is not supported in this version of Pontoon: start a majority of its nodes again, "+
				"or copy what a node still serves (etcdctl get --consistency=s --prefix '') into a new cluster"),
		ignored(kindBool, "unsafe-no-fsync", "false", "No effect: what is acknowledged is always synced."),
	}
}

// oldFlags were etcd's once; etcd still takes them and does nothing.
func oldFlags() []flagSpec {
	var out []flagSpec
	for _, name := range []string{
		"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force",
		"max-result-buffer", "max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout",
		"retry-interval", "snapshot", "v", "vv",
	} {
		out = append(out, ignored(kindString, name, "", "No effect."))
	}
	return out
}
