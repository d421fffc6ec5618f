package etcdapi

import (
	"context"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
	"pontoon/watchfanout"
)

// KV is the store as the gateway sees it, over any number of ranges. Errors are those of
// package shard, or the context's. Every method may block and is bounded by ctx; where no
// leader can be found it gives up by itself with shard.ErrUnavailable.
type KV interface {
	// Range answers with sorting, filters, limit, count and more already right. The op has
	// been normalised: no negative limit or revision, and a sort order only where the result
	// must differ from ascending key order.
	Range(ctx context.Context, op *pb.RangeOp, serializable bool) (*RangeResult, error)
	// RangeEncoded is Range whose keys may come as pieces of etcd's RangeResponse instead, which are
	// shared and never written.
	RangeEncoded(ctx context.Context, op *pb.RangeOp, serializable bool) (*RangeResult, error)
	// RangePages answers in key order at one pinned revision, in pages of about maxBytes. fn
	// owns the page. Count and More are those of the last page.
	RangePages(ctx context.Context, op *pb.RangeOp, serializable bool, maxBytes int, fn func(*RangeResult) error) error
	// WriteBy performs a put, a range delete or a transaction that has been checked so far. The op is the store's to keep.
	WriteBy(ctx context.Context, op *pb.Op, by shard.Checked) (*WriteResult, error)
	// Compact forgets history below rev; physical waits until the data is gone. The result is
	// the current revision for the header.
	Compact(ctx context.Context, rev int64, physical bool) (int64, error)
	// Current asks the oracle: at least every revision acknowledged before the call.
	Current(ctx context.Context) (int64, error)
}

// RangeResult is what a read found; its Revision is the header's.
type RangeResult = router.RangeResult

// WriteResult is what a write did; its Revision is the header's.
type WriteResult = router.WriteResult

// Leases is the lease service. A lease that does not exist is shard.ErrLeaseNotFound.
type Leases interface {
	// Grant creates a lease; id 0 lets the cluster choose. The TTL may be raised.
	Grant(ctx context.Context, id, ttl int64) (Lease, error)
	// Revoke returns when the lease and its keys are gone, with the revision of the deletes, or the one
	// that was current if there were none.
	Revoke(ctx context.Context, id int64) (rev int64, err error)
	// KeepAlive renews, and tells the TTL that was granted.
	KeepAlive(ctx context.Context, id int64) (Lease, error)
	// TimeToLive tells the remaining and the granted TTL, and the keys if they are asked for. With
	// shard.ErrLeaseNotFound it tells the revision.
	TimeToLive(ctx context.Context, id int64, keys bool) (Lease, error)
	// List names all leases, and tells the revision that was current.
	List(ctx context.Context) (ids []int64, rev int64, err error)
}

// Lease is a lease as clients see it. Revision is the header's; 0 takes the newest one that
// this node knows.
type Lease struct {
	ID         int64
	TTL        int64 // remaining, seconds
	GrantedTTL int64 // seconds
	Keys       [][]byte
	Revision   int64
}

// Cluster tells who belongs to the cluster, and changes that.
type Cluster interface {
	// Members lists the members by id. linearizable asks the meta group, otherwise what this
	// node knows will do.
	Members(ctx context.Context, linearizable bool) ([]shard.Member, error)
	// ChangeMember decides a change, by the node's rules, and returns the members as they are then, and which it was. Errors are those
	// that package shard lists with Member. It keeps req.
	ChangeMember(ctx context.Context, req *pb.ChangeMemberRequest) (members []shard.Member, changed shard.NodeID, err error)
}

// Beats gathers what goes out to many connections: a linger.Linger.
type Beats interface {
	// Next calls fn once at the next beat, perhaps before it returns. It does not block.
	Next(fn func())
}

// Maintenance is what operators ask a node.
type Maintenance interface {
	// Status describes this node and the meta group as this node knows it. It does not block
	// on other nodes, so that it answers without a quorum.
	Status(ctx context.Context) (Status, error)
	// HashKV hashes all keys at rev (0: the current revision).
	HashKV(ctx context.Context, rev int64) (HashResult, error)
	// Alarms lists the raised alarms.
	Alarms(ctx context.Context) ([]Alarm, error)
	// SetAlarm raises or clears an alarm and returns it.
	SetAlarm(ctx context.Context, a Alarm, raise bool) ([]Alarm, error)
	// MoveLeader hands the lead of the meta group from this node to another and returns when that is
	// done. *shard.NotLeaderError where this node does not lead, shard.ErrInvalid where the other one
	// cannot.
	MoveLeader(ctx context.Context, to shard.NodeID) error
	// Defragment gives the free pages of this node's files back to its disk, and returns when that is done. It goes on where
	// ctx ends before.
	Defragment(ctx context.Context) error
}

// Status describes one node. The Raft fields are those of the meta group.
type Status struct {
	DBSize, DBSizeInUse                   int64 // bytes
	DBSizeQuota                           int64 // bytes; 0 where nothing limits them
	Leader                                shard.NodeID
	RaftIndex, RaftAppliedIndex, RaftTerm uint64
	StorageVersion                        string  // "3.7.0": etcd prints it, scripts compare it
	Alarms                                []Alarm // that this node knows of
	IsLearner                             bool
}

// HashResult is the hash of the store at HashRevision.
type HashResult struct {
	Hash            uint64
	Revision        int64 // header
	HashRevision    int64
	CompactRevision int64
}

// Alarm kinds, with etcd's numbers.
const (
	AlarmNone    int32 = 0
	AlarmNoSpace int32 = 1
	AlarmCorrupt int32 = 2
)

// Alarm is one raised alarm; Member 0 stands for all members in a request.
type Alarm struct {
	Member shard.NodeID
	Kind   int32
}

// Header tells what goes into every response header. Its methods do not block and may be
// called at any time.
type Header interface {
	ClusterID() uint64
	MemberID() uint64
	// Term is the meta group's, as this node knows it.
	Term() uint64
	// Revision is the newest revision that this node has seen; never above Current().
	Revision() int64
}

// Leadership answers clients that asked for a leader (metadata hasleader: true).
type Leadership interface {
	// HasLeader reports whether, as far as this node knows, the meta group has a leader and
	// so has every range that overlaps one of the spans. Does not block.
	HasLeader(spans []shard.Span) bool
}

// WatchStream is the hub's side of one client's watch stream: *watchfanout.Stream. One
// goroutine at a time uses it. None of its methods blocks. A watcher whose end was polled is gone.
type WatchStream interface {
	// Watch adds a watcher; watchfanout.ErrWatcherExists if its id is taken.
	Watch(r watchfanout.WatchRequest) error
	// Cancel removes a watcher, of which nothing is polled any more; false if there is none.
	Cancel(id int64) bool
	// Spans returns what is watched.
	Spans() []shard.Span
	// Watched lists every watcher, by id, with what it watches.
	Watched() map[int64]shard.Span
	// Poll appends up to limit deliveries, in order per watcher.
	Poll(dst []watchfanout.Delivery, limit int) []watchfanout.Delivery
	// Close removes all watchers.
	Close()
	WatchProgress
}

// WatchProgress asks a hub how far it is. The answers come as deliveries without events.
type WatchProgress interface {
	// RequestProgress asks for a watchfanout.StreamWide marker at or above rev.
	RequestProgress(rev int64)
	// RequestWatcherProgress asks for a marker of one watcher at or above rev.
	RequestWatcherProgress(id, rev int64)
}
