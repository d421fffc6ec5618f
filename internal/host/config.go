package host

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"pontoon/internal/httpapi"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/tlsport"
	"pontoon/placement"
	"pontoon/shard"
)

// Config is what a host is built of. The listeners are the host's from Open on, whatever Open returns. Zero
// values take the defaults; without one a field is required.
type Config struct {
	Name     string
	Identity peer.Identity
	Members  []shard.Member // of the initial cluster, this node included, in the order of ids
	// Joined: the cluster was there before the node, and Members are those of that time. It has no part in laying it out.
	Joined bool
	// Bootstrap is the plan of a cluster that begins with a snapshot, of which DataDir has the files. Nil: a new cluster begins empty.
	Bootstrap *pb.MetaBootstrap

	DataDir string
	// LogDir holds the shared Raft log. Default: below DataDir.
	LogDir string

	Peer []httpapi.Listener
	// TLS is that of the peer port: of the listeners which speak it, and of calls to members whose URLs ask for it. Nil: no listener does.
	TLS        *tlsport.Endpoint
	ClientURLs []string // advertised

	// SplitKeys cut the key space when this node bootstraps the cluster.
	SplitKeys         [][]byte
	ReplicationFactor int // default 3

	// Placement is what the planner may do by itself, RangeMaxBytes the size in use from which on it cuts ranges in two, 0: none, and DeadAfter how
	// long a node is silent before its replicas are replaced, default 5 min. MergeAfter is how long nothing was done to two small and idle neighbours before they
	// are merged, default 10 min. What counts is what the leader of the meta group was told.
	Placement     placement.Mode
	RangeMaxBytes int64
	// QuotaBytes is how much the ranges of this node may take; 0: what its disk allows; below zero: there is no quota.
	QuotaBytes int64
	DeadAfter  time.Duration
	MergeAfter time.Duration

	Heartbeat time.Duration // one Raft tick; default 100 ms
	Election  time.Duration // default 1 s
	// QuorumOracle makes the oracle prove its lead by a quorum round per batch instead of a lease.
	QuorumOracle bool
	// Patience bounds a request that comes without a deadline. Default 5 s and two election timeouts.
	Patience time.Duration
	// LingerMax bounds the time that a write waits for others to share its log entry, where processors
	// are short; 0: it does not wait.
	LingerMax time.Duration

	// ShutdownTimeout bounds how long a node that stops hands its leaderships over. Default 10 s.
	ShutdownTimeout time.Duration

	// SnapshotRate bounds the bytes of snapshots that are sent in a second, and those that are received; 0: no bound.
	SnapshotRate int

	// RequestsMax and RequestsMaxBytes bound the writes to the ranges that this node leads which are under way, over all of them. Defaults underway.RoomCount and
	// underway.RoomBytes.
	RequestsMax      int
	RequestsMaxBytes int64

	CatchUpEntries uint64 // kept behind the cut of a log for slow followers; default 5000
	CacheBytes     int64  // of the node's record cache; default 64 MiB
	// UnsettledBytes bounds the versions that the stores of the node hold in memory until they have
	// settled them: larger means fewer writes of pages to disk and a longer start. Default 128 MiB.
	UnsettledBytes int64

	// DefragmentAtStart is how many bytes a node's files can give back, from which on they are written anew when it has started; 0: never.
	DefragmentAtStart int64

	// SlowApply is from when on it is logged, and counted, that a replica took that long to apply committed entries. Default 100 ms.
	SlowApply time.Duration

	// Registry takes the host's metrics. Default: a new one.
	Registry prometheus.Registerer
	Logger   *slog.Logger

	// fault fails a step of Open, in tests.
	fault func(step string) error
}

const defaultHeartbeat = 100 * time.Millisecond

// DefaultElection is the election timeout that goes with a heartbeat; 0: the default one.
func DefaultElection(heartbeat time.Duration) time.Duration {
	orDefault(&heartbeat, defaultHeartbeat)
	return 10 * heartbeat
}

func (c *Config) setDefaults() {
	orDefault(&c.ReplicationFactor, 3)
	orDefault(&c.Heartbeat, defaultHeartbeat)
	orDefault(&c.Election, DefaultElection(c.Heartbeat))
	orDefault(&c.Patience, 5*time.Second+2*c.Election)
	orDefault(&c.ShutdownTimeout, 10*time.Second)
	orDefault(&c.SlowApply, 100*time.Millisecond)
	orDefault(&c.CatchUpEntries, 5000)
	orDefault(&c.CacheBytes, 64<<20)
	orDefault(&c.UnsettledBytes, 128<<20)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.fault == nil {
		c.fault = func(string) error { return nil }
	}
}

func orDefault[T int | int64 | uint64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// credentials are those of calls to other members.
func (c *Config) credentials() func(addr string) credentials.TransportCredentials {
	return peer.SecureBy(c.TLS.Dial())
}

// Validate names the first thing that is missing or does not fit.
func (c *Config) Validate() error {
	switch {
	case c.Identity.Node == 0 || c.Identity.ClusterID == 0:
		return errors.New("node and cluster id are required")
	case c.DataDir == "":
		return errors.New("a data dir is required")
	case len(c.Peer) == 0:
		return errors.New("a peer listener is required")
	case c.TLS == nil && slices.ContainsFunc(c.Peer, func(l httpapi.Listener) bool { return l.TLS }):
		return errors.New("a certificate for the peer port is required")
	case c.ReplicationFactor > 0 && c.ReplicationFactor%2 == 0:
		return errors.New("the replication factor must be odd")
	}
	for _, m := range c.Members {
		if m.ID == c.Identity.Node {
			return nil
		}
	}
	return fmt.Errorf("node %v is not among the members of the initial cluster", c.Identity.Node)
}
