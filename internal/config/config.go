package config

import (
	"log/slog"
	"math"
	"net/url"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"

	"pontoon/shard"
)

// Values of Config.CPUScheduling.
const (
	SchedulingBatch  = "batch"
	SchedulingNormal = "normal"
)

// Values of Config.Tuning.
const (
	TuningAuto = "auto"
	TuningOff  = "off"
)

// Values of Config.OracleMode.
const (
	// PlacementOn lets the cluster replace replicas, cut ranges and even out by itself.
	PlacementOn = "on"
	// PlacementRepair lets it replace replicas, and keep failure domains apart.
	PlacementRepair = "repair"
	// PlacementOff leaves that to people.
	PlacementOff = "off"

	// OracleLease lets the revision oracle answer under a leader lease.
	OracleLease = "lease"
	// OracleQuorum makes the oracle prove its leadership by a quorum round for each batch.
	OracleQuorum = "quorum"
)

// Values of Config.InitialClusterState.
const (
	// ClusterNew bootstraps a cluster from the members of InitialCluster.
	ClusterNew = "new"
	// ClusterExisting joins a cluster that runs already.
	ClusterExisting = "existing"
)

// DefaultName is the name of a node that was given none.
const DefaultName = "default"

const (
	defaultPeerURL   = "http://localhost:2380"
	defaultClientURL = "http://localhost:2379"

	electionTimeoutMax   = 50 * time.Second
	electionPerHeartbeat = 5
	batchLingerLimit     = time.Second
	rangeBytesMin        = 1 << 20
	shutdownLimit        = 10 * time.Minute
	timerSlackLimit      = 100 * time.Millisecond
	rangesMax            = 10000
)

// Notice is something that the operator should read once the logger works.
type Notice struct {
	Level slog.Level
	Msg   string
	Attrs []any
}

// Config is everything that one node is told. Parse fills it; a field that is not mentioned
// keeps the default that its comment names.
type Config struct {
	// Role is RoleMember (the default) or RoleGateway.
	Role string
	// JoinURLs are peer URLs of members, which a gateway asks for all of them. A member has none.
	JoinURLs []url.URL
	// UpstreamURLs are peer URLs of gateways from which a gateway has feeds. Default none.
	UpstreamURLs []url.URL
	// MemberList is ListGateways (the default) or ListMembers: whom a gateway's clients are told of.
	MemberList string
	// MirrorPrefixes are those of the keys that a gateway answers lists of from memory. Default none. MirrorSize bounds what they take there, in bytes (default
	// 1 GiB), MirrorAutoSize what ranges take of it that are listed often (default 10 %; 0: there are none), MirrorHistory is for how long earlier states are remembered (default 75 s), MirrorAuditInterval is the pause between two comparisons with replicas
	// (default 10 minutes; 0: there are none).
	MirrorPrefixes      []string
	MirrorSize          int64
	MirrorAutoSize      Memory
	MirrorHistory       time.Duration
	MirrorAuditInterval time.Duration

	// Name is the node's name, unique in the cluster. Default "default".
	Name string
	// DataDir holds everything durable. Default "<name>.pontoon".
	DataDir string
	// WALDir holds the shared Raft log instead of DataDir, for a disk of its own. Default "".
	WALDir string

	// ListenPeerURLs is where other nodes are listened for. Default http://localhost:2380. A gateway listens there for other gateways. Its default is none.
	ListenPeerURLs []url.URL
	// ListenClientURLs is where gRPC, and HTTP too unless ListenClientHTTPURLs is set, are
	// served. Default http://localhost:2379.
	ListenClientURLs []url.URL
	// ListenClientHTTPURLs moves HTTP away from ListenClientURLs. Default none.
	ListenClientHTTPURLs []url.URL
	// ListenMetricsURLs serves /metrics and the health endpoints in addition. Default none.
	ListenMetricsURLs []url.URL
	// AdvertisePeerURLs is told to the other nodes; it must agree with InitialCluster.
	AdvertisePeerURLs []url.URL
	// AdvertiseClientURLs is told to clients by MemberList.
	AdvertiseClientURLs []url.URL

	// InitialCluster names all first members: "n1=http://host:2380,n2=…".
	InitialCluster string
	// InitialClusterState is ClusterNew or ClusterExisting; without meaning once there is data.
	InitialClusterState string
	// InitialClusterToken keeps clusters with the same URLs apart: it is part of all ids.
	InitialClusterToken string
	// Members is InitialCluster, resolved, in the order of ids.
	Members []shard.Member
	// NodeID is this node's id within Members.
	NodeID shard.NodeID
	// ClusterID is derived from all members' ids, as in etcd.
	ClusterID uint64
	// Discovery finds Members where InitialCluster does not name them; until it has, Members is this node alone.
	Discovery Discovery
	// Joined: the cluster was there before the node.
	Joined bool

	// AutoCompactionMode is CompactPeriodic (the default) or CompactRevisions.
	AutoCompactionMode string
	// AutoCompactionRetention is how much history is kept, as it was given. Default "0": all.
	AutoCompactionRetention string
	// CompactPeriod is AutoCompactionRetention in CompactPeriodic; 0: all.
	CompactPeriod time.Duration
	// CompactKeep is AutoCompactionRetention in CompactRevisions; 0: all.
	CompactKeep int64

	// StrictReconfigCheck refuses changes of the members that could cost a majority. Default true.
	StrictReconfigCheck bool
	// MaxLearners is how many learners the cluster may have. Default 1.
	MaxLearners uint32

	// InitialSplitKeys cuts the key space of a new cluster: ascending, none empty.
	InitialSplitKeys [][]byte
	// InitialRanges cuts the key space of a new cluster into so many equal parts. 0: not stated,
	// which is one range unless InitialSplitKeys says more.
	InitialRanges int
	// ReplicationFactor is the number of replicas of a range where there are nodes enough.
	// Odd; default 3.
	ReplicationFactor int
	// Tuning is TuningAuto (the default), or TuningOff: then CPUScheduling is SchedulingNormal and BatchLingerMax and DeliveryLingerMax 0,
	// unless they were given.
	Tuning string
	// CPUScheduling is SchedulingBatch (the default) or SchedulingNormal.
	CPUScheduling string
	// BatchLingerMax bounds the time that a write waits for company where processors are short; 0: it
	// does not wait. Default 15 ms.
	BatchLingerMax time.Duration
	// DeliveryLingerMax bounds the time that what watchers are due waits for more where processors are short; 0: it does not wait. Default 20 ms.
	DeliveryLingerMax time.Duration
	// TimerSlack is by how much Linux may be late with the node's timers; 0 (the default) leaves that as it is.
	// With any other value the process executes itself again at its start.
	TimerSlack time.Duration
	// ShutdownTimeout bounds how long a node that is stopped hands its leaderships over. Default 10 s.
	ShutdownTimeout time.Duration
	// OrphanStreams is for how long a watch stays open while nothing is heard of the cluster; 0: for ever. Default 30 s at a gateway, 0 at a member.
	OrphanStreams time.Duration
	// DrainPeriod bounds how long a stop takes to end the streams of clients; 0: all end at once. Default 30 s.
	DrainPeriod time.Duration
	// MaxConnectionAge is when a client is asked to connect anew, a tenth more or less; 0 (the default): never. At least 1 s. MaxConnectionAgeGrace is
	// how long what is under way on the connection may go on then. Default 1 min.
	MaxConnectionAge, MaxConnectionAgeGrace time.Duration
	// Placement is PlacementOn (the default), PlacementRepair, or PlacementOff: then nothing happens that nobody has asked for.
	Placement string
	// DeadAfter is how long a node is silent before its replicas are replaced. At least 1 s; default 5 min.
	DeadAfter time.Duration
	// BootstrapDefragThresholdMegabytes is how many MiB defragmentation would give back, from which on a node does it once it has started. Default 0: never.
	BootstrapDefragThresholdMegabytes uint32
	// CorruptCheckTime is the pause between two comparisons of all replicas. Default 0: none.
	CorruptCheckTime time.Duration
	// CompactHashCheck compares them at compactions, too; CompactHashCheckTime is how often that is looked for. Default off, 1 min.
	CompactHashCheck     bool
	CompactHashCheckTime time.Duration
	// InitialCorruptCheck compares what a node holds once, when it has started. Default off.
	InitialCorruptCheck bool
	// MergeAfter is how long nothing was done to two small and idle neighbours before they are merged. At least 1 s; default 10 min.
	MergeAfter time.Duration
	// QuotaBackendBytes is how many bytes the ranges of this node may take; 0: what its disk allows; below zero: there is no quota. Default 0.
	QuotaBackendBytes int64
	// RangeMaxBytes is the size from which on a range is cut in two. At least 1 MiB; default 256 MiB.
	RangeMaxBytes int64
	// SnapshotRate is how many bytes of snapshots are sent in a second at most, and received. At least 1 MiB; default 32 MiB.
	SnapshotRate int64
	// RequestsMax and RequestsMaxBytes bound what a node has under way at a time: requests of its clients, and as many writes to ranges that it leads. Defaults
	// 65536 and 512 MiB.
	RequestsMax      uint
	RequestsMaxBytes int64
	// ListsMaxBytes bounds the large lists that are put together at a time. Default 256 MiB.
	ListsMaxBytes int64
	// OracleMode is OracleLease (the default) or OracleQuorum.
	OracleMode string
	// CacheBytes limits the node's cache of hot records. Default 64 MiB.
	CacheBytes int64
	// RingBytes limits what is remembered of events, for watches that come back; 0: nothing is. Default 64 MiB.
	RingBytes int64
	// DeliveryMemory limits what waits to be sent to watchers. Default 25 %.
	DeliveryMemory Memory

	// HeartbeatInterval is one Raft heartbeat. Default 100 ms.
	HeartbeatInterval time.Duration
	// ElectionTimeout must be at least five heartbeats, at most 50 s. Default 1 s.
	ElectionTimeout time.Duration
	// SnapshotCatchUpEntries is how many entries stay behind a cut for followers that are a little
	// late. Default 5000.
	SnapshotCatchUpEntries uint64

	// MaxRequestBytes limits a client's request. Default 1.5 MiB.
	MaxRequestBytes uint
	// MaxTxnOps limits the operations of one transaction. Default 128.
	MaxTxnOps uint
	// MaxConcurrentStreams limits the streams of one client connection. Default: no limit.
	MaxConcurrentStreams uint32
	// GRPCKeepAliveMinTime is the least pause between a client's pings. Default 5 s.
	GRPCKeepAliveMinTime time.Duration
	// GRPCKeepAliveInterval is how often an idle client is pinged; 0 never. Default 2 h.
	GRPCKeepAliveInterval time.Duration
	// GRPCKeepAliveTimeout is how long such a ping is waited for; 0 for ever. Default 20 s.
	GRPCKeepAliveTimeout time.Duration
	// WatchProgressNotifyInterval is the pause between progress notifications on a watch that
	// asked for them. Default 10 m.
	WatchProgressNotifyInterval time.Duration

	// ClientTLS is what the client port presents and whom it lets in. Default: no TLS.
	ClientTLS transport.TLSInfo
	// ClientAutoTLS makes the client port's certificate where ClientTLS names none.
	ClientAutoTLS bool
	// PeerTLS and PeerAutoTLS are the same for the peer port.
	PeerTLS     transport.TLSInfo
	PeerAutoTLS bool
	// SelfSignedCertValidity is for how many years such a certificate is made. Default 1.
	SelfSignedCertValidity uint
	// CipherSuites are the suites that TLS 1.2 may use, by name. Default: Go's.
	CipherSuites []string
	// TLSMinVersion and TLSMaxVersion are "TLS1.2" (the default of the first), "TLS1.3", or "": as Go has it.
	TLSMinVersion, TLSMaxVersion string

	// AuthToken says how tokens are made. Default "simple".
	AuthToken string
	// AuthTokenTTL is for how long a simple one is valid that is not used. Default 300 s.
	AuthTokenTTL time.Duration
	// BcryptCost is the cost of a password's hash. Default 10.
	BcryptCost uint

	// CORS lists the origins that browsers may come from; none or "*" allows all.
	CORS []string
	// HostWhitelist lists the host names that HTTP requests may name; none or "*" allows all.
	HostWhitelist []string
	// EnableGRPCGateway serves the API as JSON under /v3/. Default true.
	EnableGRPCGateway bool
	// EnablePprof serves /debug/pprof on the client URLs.
	EnablePprof bool
	// MetricsExtensive adds histograms of gRPC calls to /metrics.
	MetricsExtensive bool

	// WarningApplyDuration is from when on it is logged that a range has applied entries. Default 100 ms.
	WarningApplyDuration time.Duration
	// WarningUnaryRequestDuration is from when on a request is logged; 0: the default, 300 ms.
	WarningUnaryRequestDuration time.Duration

	// LogLevel is debug, info, warn, error, panic or fatal. Default info.
	LogLevel string
	// LogFormat is json or console. Default json.
	LogFormat string
	// LogOutputs are "default", "stderr", "stdout" and file paths.
	LogOutputs []string

	// Notices is what should be logged before the node starts.
	Notices []Notice

	explicit map[string]bool
}

// newConfig returns the defaults.
func newConfig() *Config {
	return &Config{
		Role:                        RoleMember,
		MemberList:                  ListGateways,
		MirrorSize:                  1 << 30,
		MirrorAutoSize:              Memory{Percent: 10},
		MirrorHistory:               75 * time.Second,
		MirrorAuditInterval:         10 * time.Minute,
		Name:                        DefaultName,
		AuthToken:                   "simple",
		AuthTokenTTL:                5 * time.Minute,
		BcryptCost:                  10,
		ListenPeerURLs:              mustURLs(defaultPeerURL),
		ListenClientURLs:            mustURLs(defaultClientURL),
		AdvertisePeerURLs:           mustURLs(defaultPeerURL),
		AdvertiseClientURLs:         mustURLs(defaultClientURL),
		InitialClusterState:         ClusterNew,
		InitialClusterToken:         "etcd-cluster",
		Discovery:                   newDiscovery(),
		AutoCompactionMode:          CompactPeriodic,
		AutoCompactionRetention:     "0",
		StrictReconfigCheck:         true,
		MaxLearners:                 1,
		ReplicationFactor:           3,
		Placement:                   PlacementOn,
		DeadAfter:                   5 * time.Minute,
		CompactHashCheckTime:        time.Minute,
		MergeAfter:                  10 * time.Minute,
		RangeMaxBytes:               256 << 20,
		SnapshotRate:                32 << 20,
		RequestsMax:                 65536,
		RequestsMaxBytes:            512 << 20,
		ListsMaxBytes:               256 << 20,
		OracleMode:                  OracleLease,
		Tuning:                      TuningAuto,
		CPUScheduling:               SchedulingBatch,
		BatchLingerMax:              15 * time.Millisecond,
		DeliveryLingerMax:           20 * time.Millisecond,
		ShutdownTimeout:             10 * time.Second,
		OrphanStreams:               30 * time.Second,
		DrainPeriod:                 30 * time.Second,
		MaxConnectionAgeGrace:       time.Minute,
		CacheBytes:                  64 << 20,
		RingBytes:                   64 << 20,
		DeliveryMemory:              Memory{Percent: 25},
		HeartbeatInterval:           100 * time.Millisecond,
		ElectionTimeout:             time.Second,
		SnapshotCatchUpEntries:      5000,
		MaxRequestBytes:             1536 << 10,
		MaxTxnOps:                   128,
		MaxConcurrentStreams:        math.MaxUint32,
		GRPCKeepAliveMinTime:        5 * time.Second,
		GRPCKeepAliveInterval:       2 * time.Hour,
		GRPCKeepAliveTimeout:        20 * time.Second,
		WatchProgressNotifyInterval: 10 * time.Minute,
		EnableGRPCGateway:           true,
		SelfSignedCertValidity:      1,
		TLSMinVersion:               string(tlsutil.TLSVersion12),
		WarningApplyDuration:        100 * time.Millisecond,
		WarningUnaryRequestDuration: 300 * time.Millisecond,
		LogLevel:                    "info",
		LogFormat:                   "json",
		LogOutputs:                  []string{"default"},
		explicit:                    map[string]bool{},
	}
}

// RaftLogDir is where the shared Raft log lives.
func (c *Config) RaftLogDir() string {
	if c.WALDir != "" {
		return c.WALDir
	}
	return filepath.Join(c.DataDir, "raftlog")
}

// RequestTimeout is how long a request may take before its client is told that it timed out:
// etcd's formula, so that clients see the patience they know.
func (c *Config) RequestTimeout() time.Duration {
	return 5*time.Second + 2*c.ElectionTimeout
}

// ElectionTicks is the election timeout counted in heartbeats.
func (c *Config) ElectionTicks() int { return int(c.ElectionTimeout / c.HeartbeatInterval) }

// IsNewCluster tells whether the node may bootstrap a cluster.
func (c *Config) IsNewCluster() bool { return c.InitialClusterState == ClusterNew }

// Explicit tells whether a flag was given: on the command line, by the environment or in the file.
func (c *Config) Explicit(flagName string) bool { return c.explicit[flagName] }

func (c *Config) warn(msg string, attrs ...any) {
	c.Notices = append(c.Notices, Notice{Level: slog.LevelWarn, Msg: msg, Attrs: attrs})
}

func (c *Config) info(msg string, attrs ...any) {
	c.Notices = append(c.Notices, Notice{Level: slog.LevelInfo, Msg: msg, Attrs: attrs})
}
