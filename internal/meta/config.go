package meta

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// OracleMode says how the leader proves that it leads.
type OracleMode int

const (
	// ModeLease answers while the leader lease is valid, and asks a quorum where it is not.
	ModeLease OracleMode = iota
	// ModeQuorum asks a quorum for every batch: for machines that are paused, or where no clock
	// is trusted.
	ModeQuorum
)

// Host is what the replica needs of raftgroup.Host. None of its methods blocks; callbacks may
// run before they return.
type Host interface {
	ProposeFunc(g shard.RangeID, term uint64, data []byte, dropped func(error)) error
	Confirm(g shard.RangeID, term uint64, done func(ok bool, commit uint64))
	LeaseUntil(g shard.RangeID, term uint64) (time.Time, bool)
	// HandOver hands the leadership to a replica, 0: to any that is fit. done gets nil when it has moved.
	HandOver(g shard.RangeID, term uint64, to shard.ReplicaID, done func(error)) error
	AbortHandOver(g shard.RangeID, term uint64)
	raftgroup.Mover // for moves of the group's own replicas
}

// RangeOps carries out in the ranges what the meta group has decided. All block until every range
// that is meant has done it or ctx ends, and all may be repeated.
type RangeOps interface {
	// ExpireLease deletes the keys of a lease in every range that now overlaps one of spans, and
	// returns the revision of the deletes, 0 if there was nothing to delete. After an error that is
	// neither retryable nor shard.ErrTimeout the keys may be gone, or may go yet. grant is the meta
	// index of the grant that ends; a later one of the same id is left alone.
	ExpireLease(ctx context.Context, lease int64, grant uint64, spans []shard.Span) (rev int64, err error)
	// CompactRanges makes every range log that it is compacted at rev; with physical set it
	// returns when the deletion is done.
	CompactRanges(ctx context.Context, rev int64, physical bool) error
	// Change has the leader of one range carry out a change, or make it impossible for good, and returns what has become of
	// it. It asks only that range. shard.ErrInvalid, shard.ErrNoSpace, shard.ErrUnimplemented: the leader refuses, and would
	// again.
	Change(ctx context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error)
}

// Config configures a Meta. Open copies it and fills in defaults.
type Config struct {
	Node shard.NodeID
	Host Host
	// Dir holds the snapshot file. It must exist.
	Dir string
	// Replica is this replica's id. Default: what Desc has on the node.
	Replica shard.ReplicaID
	// Desc is the meta group's descriptor as far as this node has heard: of the first layout, or of a map. What is in the group's
	// state counts, once there is one.
	Desc shard.Descriptor
	// Removed is called without the lock once the group has given this replica up: it answers nothing any more, and its host takes it
	// away. It may be called again. nil: nobody is told.
	Removed func()
	// Expired is called, with the lock held, when this replica, as the leader, has had a lease revoked that had expired. nil: nobody is told.
	Expired func()
	// Bootstrap is proposed by the first leader of a new cluster. nil: this node only joins.
	Bootstrap *pb.MetaBootstrap
	Ranges    RangeOps
	// Reach tells for how long each other node has been within reach of this one; one that is out of reach is not in it. It is a hint,
	// must not block, and the map is the caller's. nil, also as an answer: all count as within reach.
	Reach     func() map[shard.NodeID]time.Duration
	Placement Placement
	// Push tells nodes of newer settings. nil: they hear with the oracle's answers.
	Push Pusher
	// Now is the host's clock. Default time.Now.
	Now func() time.Time
	// Wall tells the time for people to read: when ops began and ended. Default time.Now.
	Wall func() time.Time
	// RandomID draws the id of a lease whose id the cluster chooses. Default: from math/rand.
	RandomID func() int64
	// Formats is the newest version of the formats that this build speaks; a replica of a cluster whose
	// version is above it stops. Default clusterversion.Newest.
	Formats clusterversion.Version
	// ElectionTimeout bounds one attempt to end a lease; the minimum TTL follows from it.
	// Default 1 s.
	ElectionTimeout time.Duration
	Mode            OracleMode
	// TickInterval is how often expiry, retries and the snapshot are looked after. Default
	// 100 ms. Negative: the owner calls Tick.
	TickInterval time.Duration
	// SnapshotEntries and SnapshotBytes of log since the last snapshot file make a new one.
	// Defaults 10 000 and 4 MiB.
	SnapshotEntries int
	SnapshotBytes   int
	Logger          *slog.Logger
}

// Limits of what a leader holds for its callers. Beyond them callers get ErrTooManyRequests.
const (
	readsMax       = 1 << 16 // questions that wait for a proof, and as many that wait for the oracle
	roundsMax      = 4       // quorum rounds under way
	proposalsMax   = 1 << 16 // proposals under way
	leasesMax      = 1 << 22 // leases: beyond them none is granted
	revocationsMax = 64      // leases that are being removed from ranges at a time, and as many for clients that wait
	// revocationWaitersMax bounds the callers that wait for the end of a lease, or of an attempt to end it.
	revocationWaitersMax = 1 << 16
	renderAtOnce         = 256 // descriptors that are rendered where the oracle has to wait for it: 0.1 ms
	renderingMax         = 2   // larger answers that are rendered at a time
	physicalsMax         = 16  // compactions that somebody waits for until the space is free
	leaverCallsMax       = 64  // calls that wait until no group needs a member that was removed
)

func (c *Config) setDefaults() {
	if c.Replica == 0 {
		self, _ := c.Desc.ReplicaOn(c.Node)
		c.Replica = self.ID
	}
	c.Placement.setDefaults()
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Formats == 0 {
		c.Formats = clusterversion.Newest
	}
	if c.RandomID == nil {
		c.RandomID = func() int64 { return rand.Int64N(1<<63-1) + 1 }
	}
	if c.ElectionTimeout <= 0 {
		c.ElectionTimeout = time.Second
	}
	if c.TickInterval == 0 {
		c.TickInterval = 100 * time.Millisecond
	}
	if c.SnapshotEntries <= 0 {
		c.SnapshotEntries = 10_000
	}
	if c.SnapshotBytes <= 0 {
		c.SnapshotBytes = 4 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) validate() error {
	if c.Host == nil || c.Ranges == nil || c.Dir == "" {
		return errors.New("meta: Config needs a Host, Ranges and a Dir")
	}
	if c.Replica == 0 {
		return errors.New("meta: nothing says which replica is on this node")
	}
	return nil
}

var (
	_ raftgroup.StateMachine = (*Meta)(nil)
	_ raftgroup.Observer     = (*Meta)(nil)
)
