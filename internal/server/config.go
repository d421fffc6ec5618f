package server

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// Listener is an open socket and the URL that it was opened for.
type Listener = httpapi.Listener

// Config is what a node is built of. It is copied. The listeners belong to the server from
// New on, whatever New returns.
type Config struct {
	Name      string
	NodeID    shard.NodeID
	ClusterID uint64
	Members   []shard.Member // of the initial cluster, this node included, in the order of ids

	DataDir string
	// LogDir holds the shared Raft log. Default: below DataDir.
	LogDir string

	Peer       []Listener
	Client     []Listener // gRPC, and HTTP too unless ClientHTTP is set
	ClientHTTP []Listener
	Metrics    []Listener

	ClientURLs []string // advertised

	// SplitKeys cut the key space when this node bootstraps the cluster.
	SplitKeys         [][]byte
	ReplicationFactor int // default 3

	Heartbeat time.Duration // one Raft tick; default 100 ms
	Election  time.Duration // default 1 s
	// QuorumOracle makes the oracle prove its lead by a quorum round per batch instead of a lease.
	QuorumOracle bool

	// LingerMax bounds the time that a write waits for others to share its log entry, where processors
	// are short; 0: it does not wait.
	LingerMax time.Duration

	CatchUpEntries uint64 // kept behind the cut of a log for slow followers; default 5000
	CacheBytes     int64  // of the node's record cache; default 64 MiB
	// UnsettledBytes bounds the versions that the stores of the node hold in memory until they have
	// settled them: larger means fewer writes of pages to disk and a longer start. Default 128 MiB.
	UnsettledBytes int64

	MaxRequestBytes      int
	MaxTxnOps            int
	MaxConcurrentStreams uint32
	ProgressInterval     time.Duration
	KeepAliveMinTime     time.Duration // the least pause between a client's pings; default 5 s
	KeepAliveInterval    time.Duration // how often an idle client is pinged; default 2 h
	KeepAliveTimeout     time.Duration // default 20 s

	Pprof            bool
	ExtensiveMetrics bool
	CORS, Hosts      []string // see httpapi.Config

	// Registry takes the node's metrics. Default: a new one.
	Registry *prometheus.Registry
	Logger   *slog.Logger
}

func (c *Config) setDefaults() {
	if c.Heartbeat <= 0 {
		c.Heartbeat = 100 * time.Millisecond
	}
	if c.Election <= 0 {
		c.Election = 10 * c.Heartbeat
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// patience is how long a request may take before its client hears that it timed out: etcd's formula.
func (c *Config) patience() time.Duration { return 5*time.Second + 2*c.Election }

// host is what the part that holds data is built of.
func (c *Config) host() host.Config {
	return host.Config{
		Name: c.Name, Identity: peer.Identity{ClusterID: c.ClusterID, Node: c.NodeID}, Members: c.Members,
		DataDir: c.DataDir, LogDir: c.LogDir, Peer: c.Peer, ClientURLs: c.ClientURLs,
		SplitKeys: c.SplitKeys, ReplicationFactor: c.ReplicationFactor,
		Heartbeat: c.Heartbeat, Election: c.Election, QuorumOracle: c.QuorumOracle, Patience: c.patience(), LingerMax: c.LingerMax,
		CatchUpEntries: c.CatchUpEntries, CacheBytes: c.CacheBytes, UnsettledBytes: c.UnsettledBytes,
		Registry: c.Registry, Logger: c.Logger,
	}
}

// front is what the part that serves clients is built of. It serves once the host has joined.
func (c *Config) front(h *host.Host) front.Config {
	return front.Config{
		Backend: h.Backend(), Await: h.Join,
		Client: c.Client, ClientHTTP: c.ClientHTTP, Metrics: c.Metrics,
		Election: c.Election, Patience: c.patience(),
		MaxRequestBytes: c.MaxRequestBytes, MaxTxnOps: c.MaxTxnOps, MaxConcurrentStreams: c.MaxConcurrentStreams,
		ProgressInterval: c.ProgressInterval, KeepAliveMinTime: c.KeepAliveMinTime,
		KeepAliveInterval: c.KeepAliveInterval, KeepAliveTimeout: c.KeepAliveTimeout,
		Pprof: c.Pprof, ExtensiveMetrics: c.ExtensiveMetrics, CORS: c.CORS, Hosts: c.Hosts,
		Registry: c.Registry, Logger: c.Logger,
	}
}
