package backend

import (
	"context"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/placement/gossip"
	"pontoon/shard"
	"pontoon/shard/router"
	"pontoon/watchfanout"
)

// Backend is what a front serves from. Every field is set.
type Backend struct {
	// Identity is the process's: headers of answers name it.
	Identity peer.Identity
	// Peers calls nodes, this process included where it is one.
	Peers Peers
	// Cluster is the meta group as this process knows it.
	Cluster *Cluster
	// Local is what is held in this process.
	Local Local
	// Feeds are those of the ranges that are held in this process.
	Feeds Feeds
	// Closer hears that a watcher waits for revisions to be closed.
	Closer watchfanout.Closer
}

// Peers calls nodes and opens links to them, as peerrpc.Mesh does.
type Peers interface {
	router.Peers
	// OpenLink opens a link, has it used, and returns why it has ended. It breaks when use returns, and with its ctx.
	OpenLink(ctx context.Context, node shard.NodeID, use func(ctx context.Context, l peerrpc.Link) error) error
}

// Local is what is held in this process: replicas, and what is known of the others from their place.
type Local interface {
	router.Local
	Node
}

// Node is a node as it describes itself. None of its methods blocks but Handle's reply, MoveLeader and Defragment.
type Node interface {
	// Handle answers a call that is for this node, as a peerrpc.Handler.
	Handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse))
	// Meta is the meta group as this node knows it. Cheap: every header asks.
	Meta() MetaState
	// Sizes adds up the replicas of this node: it looks at each of them.
	Sizes() Sizes
	// Replica says how it stands with this node's replica of a range.
	Replica(id shard.RangeID) ReplicaState
	// Nodes lists the members as gossip sees them from here.
	Nodes() []gossip.Member
	// MoveLeader hands the lead of the meta group from this node to another and returns when that is done, or
	// *shard.NotLeaderError. It blocks.
	MoveLeader(ctx context.Context, to shard.NodeID) error
	// Defragment writes the files of this node's ranges anew, without their free pages, while everything goes on, and returns when that is done. It
	// blocks, and goes on where ctx ends before.
	Defragment(ctx context.Context) error
}

// MetaState is the meta group as a node knows it; what it does not know is 0.
type MetaState struct {
	Leader                shard.NodeID
	Term, Commit, Applied uint64
}

// Sizes are those of the replicas of a node: bytes of their files, bytes in use there, and keys; and how
// many lead, and how many sleep.
type Sizes struct {
	File, InUse, Keys  int64
	Taken              int64 // what the quota counts: of files without those of empty stores, and what waits to be written
	Quota              int64 // below zero: none
	Leading, Quiescent int
}

// ReplicaState is how it stands with a replica: Held, or waiting for its state; and whether the range has a
// leader as it knows.
type ReplicaState struct {
	Held, Rebuilding, HasLeader bool
}

// Feeds brings the feeds of ranges to a hub of this process, as long as they are held here.
type Feeds interface {
	// Subscribe begins a range's feed. It calls to.Held before it returns, and again whenever the range comes
	// or goes, until Unsubscribe returns. One subscriber at a time.
	Subscribe(id shard.RangeID, to Subscriber)
	// Unsubscribe ends it.
	Unsubscribe(id shard.RangeID)
	// History answers what a hub lacks from the range's replica in this process, as watchfanout.History does;
	// shard.ErrUnavailable where none is open. It reads the store, and no context ends it. The events are the
	// caller's.
	History(req *pb.HistoryRequest) (evs []*shard.Event, next int64, err error)
}

// Subscriber takes feeds. It must not block, nor call Feeds.
type Subscriber interface {
	// Publish takes the next item, per range from one goroutine at a time. The item is the subscriber's.
	Publish(id shard.RangeID, item shard.FeedItem)
	// Held says whether the range's items come from here. None is published before it returns with held true,
	// nor after it was called with false: then the feed is to be had from other nodes. Behind an item with a Border
	// those of the child follow, to whoever took that; Subscribe then says that they do.
	Held(id shard.RangeID, held bool)
}
