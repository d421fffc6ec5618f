package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/httpapi"
	"pontoon/shard"
)

// Listener is an open socket and the URL that it was opened for.
type Listener struct {
	net.Listener
	URL string
}

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
	if c.ReplicationFactor <= 0 {
		c.ReplicationFactor = 3
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = 100 * time.Millisecond
	}
	if c.Election <= 0 {
		c.Election = 10 * c.Heartbeat
	}
	if c.CatchUpEntries == 0 {
		c.CatchUpEntries = 5000
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 64 << 20
	}
	if c.UnsettledBytes == 0 {
		c.UnsettledBytes = 128 << 20
	}
	if c.KeepAliveMinTime == 0 {
		c.KeepAliveMinTime = 5 * time.Second
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// makePatient sees that no failure to accept a connection ends a port.
func (c *Config) makePatient() {
	for _, set := range []*[]Listener{&c.Peer, &c.Client, &c.ClientHTTP, &c.Metrics} {
		patient := make([]Listener, len(*set))
		for i, l := range *set {
			patient[i] = Listener{Listener: httpapi.Patient(l.Listener, c.Logger), URL: l.URL}
		}
		*set = patient
	}
}

// Validate names the first thing that is missing or does not fit.
func (c *Config) Validate() error {
	switch {
	case c.NodeID == 0 || c.ClusterID == 0:
		return errors.New("server: node and cluster id are required")
	case c.DataDir == "":
		return errors.New("server: a data dir is required")
	case len(c.Peer) == 0:
		return errors.New("server: a peer listener is required")
	case c.ReplicationFactor > 0 && c.ReplicationFactor%2 == 0:
		return errors.New("server: the replication factor must be odd")
	}
	for _, m := range c.Members {
		if m.ID == c.NodeID {
			return nil
		}
	}
	return fmt.Errorf("server: node %v is not among the members of the initial cluster", c.NodeID)
}

// patience is how long a request may take before its client hears that it timed out: etcd's formula.
func (c *Config) patience() time.Duration { return 5*time.Second + 2*c.Election }
