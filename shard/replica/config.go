package replica

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"pontoon/internal/tuning/linger"
	"pontoon/mvcc"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/lead"
)

// Group is the Raft group of the range: *raftgroup.Host.
type Group interface {
	// ProposeFunc appends to the log in the order of the calls, without blocking.
	ProposeFunc(id shard.RangeID, term uint64, data []byte, dropped func(error)) error
	// Confirm starts to confirm the leadership now.
	Confirm(id shard.RangeID, term uint64, done func(ok bool, commit uint64))
	// HandOver hands the leadership over. done gets why it has not moved, or nil.
	HandOver(id shard.RangeID, term uint64, to shard.ReplicaID, done func(error)) error
	// AbortHandOver ends that: done gets the reason, unless the leadership has moved.
	AbortHandOver(id shard.RangeID, term uint64)
	raftgroup.Mover
}

// Oracle allocates revisions. Callbacks may come at once or from another goroutine.
type Oracle interface {
	// Allocate answers with the first of the revisions; shard.ErrOldSettings: none were allocated, because of the condition.
	Allocate(ask shard.Ask, cb func(shard.Now, error))
	NowFunc(cb func(shard.Now, error))
	// Compacted is the highest compaction revision that an answer has named. It must not block.
	Compacted() int64
}

// Quota is how much a node may take.
type Quota interface {
	// Admit reports whether there is room for a request that makes the store larger by so much. It must not block.
	Admit(cost int64) bool
	// Refuse is called where there is none. answer gets nil if there is some after all, else the error for the request. It must not block.
	Refuse(cost int64, answer func(error))
}

// Leases attaches a lease to a span in the meta group. It returns ErrLeaseNotFound for a lease that does not exist
// or is ending. It may block until ctx ends.
type Leases interface {
	Attach(ctx context.Context, lease int64, grantIndex uint64, span shard.Span) (uint64, error)
}

// TxnStats counts what the replicas of a node do for transactions over several ranges.
type TxnStats = lead.TxnStats

// FeedSink takes the range's feed, item by item in order. It must not block.
type FeedSink interface {
	Publish(id shard.RangeID, item shard.FeedItem)
}

// Config describes a replica. Zero values take the defaults.
type Config struct {
	// Desc is the range's descriptor at its creation, which a new file begins with. A file that is there says itself what the range is:
	// the id is enough for it. Required.
	Desc shard.Descriptor
	// Self is this replica. Required.
	Self shard.Replica
	// Dir holds one directory per range. Required.
	Dir    string
	Host   Group  // required
	Oracle Oracle // required
	Leases Leases // nil: no lease exists
	// Settings are the newest that the node knows. It must not block. nil: the first are in force for ever.
	Settings func() *placement.Settings
	Quota    Quota  // nil: there is none
	Ranges   Ranges // nil: no transaction over several ranges
	Nodes    Nodes  // nil: the range is not cut by a leader here
	Births   Births // nil: no range comes into being here
	// Neighbours are the other replicas of this node; nil: no range becomes part of another here.
	Neighbours Neighbours
	Feed       FeedSink
	// Closed is what is known to be final in a range that has just been cut off another. Default: what its file says.
	Closed int64
	// Copying bounds the copies of parts at a time; the replicas of a node share it. Default: one of its own.
	Copying chan struct{}
	Cache   *mvcc.Cache
	// Store is passed to mvcc.Open; Path, RangeID and Cache are set here.
	Store mvcc.Options

	// Patience bounds what comes without a deadline of its own. Default 10 s.
	Patience time.Duration
	// TxnPatience bounds how long an attempt at a transaction over several ranges holds its first lock before it has all,
	// aborts and tries again; it holds it for longer only where the log of the first range is slow. A range that has held a
	// lock for as long inquires after the outcome. No drain takes longer, and no leader transfer more than a quarter of it.
	// Default 1 s: an election timeout.
	TxnPatience time.Duration
	// TxnStats is where transactions are counted; replicas may share it. Default: its own.
	TxnStats *lead.TxnStats
	// CoordinationsMax bounds the transactions over several ranges that are coordinated at a time. More are
	// refused with ErrTooManyRequests. Default 1024.
	CoordinationsMax int
	// TickInterval is how often deadlines are checked, while something waits. Default 25 ms.
	TickInterval time.Duration
	// InflightCount and InflightBytes bound the in-flight table. More requests are refused with
	// ErrTooManyRequests. The bytes also bound, each by itself, what waits for an entry of the own term, the keys
	// of fences, the keys of reads that wait, and coordinated transactions. Default 16384 and 64 MiB.
	InflightCount, InflightBytes int
	// FencesMax bounds the fences that wait. Default 65536.
	FencesMax int
	// BatchCount and BatchBytes bound the requests of one log entry. Default 1024 and 1 MiB.
	BatchCount, BatchBytes int
	// AllocationsMax bounds the allocations in flight. Two hide the oracle's round trip. But where their answers
	// come out of order, one is dropped and leaves a gap in the revisions. Default 1.
	AllocationsMax int
	// ProposalsMax bounds the entries that are proposed and not applied. Beyond, requests wait for the next batch.
	// Default 2: one is replicated while the one before is applied. More means smaller entries, and each costs as
	// much as several requests in it.
	ProposalsMax int
	// Linger gives the ticks on which batches are closed. The replicas of a node share it. Default: none, a batch
	// is closed as soon as it may be.
	Linger *linger.Linger
	// Retries bounds how often the leader restarts a request that certainly had no effect.
	// Default 64.
	Retries int
	// ReadBytes is the soft limit of one answer of a read. Default 2 MiB.
	ReadBytes int64

	// Damaged is called, once, when the store's file is found damaged while it is open: the error names the file.
	// It must not block. Default: none; every call that runs into the damage fails.
	Damaged func(shard.RangeID, error)
	// Removed is called when the range has given this replica up. It must not block. Default: none.
	Removed func(shard.RangeID)
	// Wake is called when Maintain has something to do. Urgent: a request waits for it. It must not block.
	// Default: none.
	Wake func(id shard.RangeID, urgent bool)
	// Now and AfterFunc are the clock. Default: package time's.
	Now       func() time.Time
	AfterFunc func(d time.Duration, f func())
	Logger    *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Desc.ID == 0 || c.Self.ID == 0 || c.Dir == "" || c.Host == nil || c.Oracle == nil {
		return c, fmt.Errorf("replica: %w: Desc, Self, Dir, Host and Oracle are required", shard.ErrInvalid)
	}
	setDefault(&c.Patience, 10*time.Second)
	setDefault(&c.TxnPatience, defaultTxnPatience)
	setDefault(&c.CoordinationsMax, 1024)
	setDefault(&c.TickInterval, 25*time.Millisecond)
	setDefault(&c.InflightCount, 16384)
	setDefault(&c.InflightBytes, 64<<20)
	setDefault(&c.FencesMax, 65536)
	setDefault(&c.BatchCount, 1024)
	setDefault(&c.BatchBytes, 1<<20)
	setDefault(&c.AllocationsMax, 1)
	setDefault(&c.ProposalsMax, 2)
	setDefault(&c.Retries, 64)
	setDefault(&c.ReadBytes, 2<<20)
	if c.TxnStats == nil {
		c.TxnStats = &lead.TxnStats{}
	}
	if c.Copying == nil {
		c.Copying = make(chan struct{}, 1)
	}
	if c.Removed == nil {
		c.Removed = func(shard.RangeID) {}
	}
	if c.Wake == nil {
		c.Wake = func(shard.RangeID, bool) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.AfterFunc == nil {
		c.AfterFunc = func(d time.Duration, f func()) { time.AfterFunc(d, f) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func (c *Config) limits() lead.Limits {
	return lead.Limits{
		TableCount: c.InflightCount, TableBytes: c.InflightBytes, Attaching: c.InflightCount,
		Fences: c.FencesMax, FenceBytes: c.InflightBytes,
		BatchCount: c.BatchCount, BatchBytes: c.BatchBytes, Allocs: c.AllocationsMax,
		Proposals: c.ProposalsMax, BatchDelay: c.Linger != nil, Retries: c.Retries, EarlyWaiting: c.InflightCount,
		Coordinations: c.CoordinationsMax, CoordinationBytes: c.InflightBytes,
		Resolutions: 4 * c.CoordinationsMax, ResolutionBytes: c.InflightBytes, LockTimeout: c.TxnPatience, Election: c.TxnPatience, Clock: c.Now, Settings: c.Settings,
	}
}
