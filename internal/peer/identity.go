package peer

import (
	"context"
	"errors"
	"io"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"pontoon/shard"
)

// Format is the version of the peer protocol. Peers of another one are refused.
const Format = 1

// The metadata of every stream between peers, and of the header that accepts it.
const (
	keyCluster = "pontoon-cluster"
	keyFrom    = "pontoon-node"
	keyTo      = "pontoon-to"
	keyFormat  = "pontoon-format"
	keyFront   = "pontoon-front" // there: the caller holds nothing and is no member
)

// Identity says which node of which cluster this process is.
type Identity struct {
	ClusterID uint64
	Node      shard.NodeID
	// Front says that the process is none of the cluster's members, and has an id that none of them has: it calls, takes feeds, and holds nothing.
	Front bool
}

// outgoing is the metadata of a stream from id to node to.
func (id Identity) outgoing(to shard.NodeID) metadata.MD {
	md := metadata.Pairs(
		keyCluster, formatID(id.ClusterID),
		keyFrom, formatID(uint64(id.Node)),
		keyTo, formatID(uint64(to)),
		keyFormat, strconv.Itoa(Format),
	)
	if id.Front {
		md.Set(keyFront, "1")
	}
	return md
}

// check returns who sent the metadata, or why it is refused, as a status error.
func (id Identity) check(md metadata.MD) (shard.NodeID, error) {
	if err := id.checkAddressee(md); err != nil {
		return 0, err
	}
	from, err := parseID(first(md, keyFrom))
	if err != nil || from == 0 {
		return 0, refuse("no node id was stated")
	}
	if shard.NodeID(from) == id.Node {
		return 0, refuse("the caller states this node's own id %v", id.Node)
	}
	return shard.NodeID(from), nil
}

// checkAddressee refuses what speaks another version, belongs to another cluster or was meant
// for another node.
func (id Identity) checkAddressee(md metadata.MD) error {
	if f := first(md, keyFormat); f != strconv.Itoa(Format) {
		return refuse("the peer protocol's version is %q there and %d here", f, Format)
	}
	cluster, err := parseID(first(md, keyCluster))
	if err != nil {
		return refuse("no cluster id was stated")
	}
	if cluster != id.ClusterID {
		return refuse("cluster id mismatch: the caller belongs to cluster %x, this node to %x", cluster, id.ClusterID)
	}
	if to, err := parseID(first(md, keyTo)); err != nil || to != uint64(id.Node) {
		return refuse("the caller looked for node %x at this address, but this is node %v", to, id.Node)
	}
	return nil
}

// Refused reports whether err is the far side's refusal to talk to this node at all: another
// cluster, another node or another protocol version, or it was removed. Trying again soon does not help.
func Refused(err error) bool { return status.Code(err) == codes.FailedPrecondition }

// ErrRemoved is what a Door refuses a node with that was removed from the cluster.
var ErrRemoved = refuse("the member has been permanently removed from the cluster")

// ErrNotKnownYet is what a Door refuses a node with that it does not know: it asks, and the node may try again at once.
var ErrNotKnownYet = status.Error(codes.Unavailable, "peer: the node is not known here yet")

// ErrLeft is what a node that stops cleanly refuses streams of calls with.
var ErrLeft = status.Error(codes.Unavailable, "peer: the node is stopping")

// AwaitAccepted blocks until the far side has accepted the stream, and returns why if it did not.
// Before that nothing of the stream was seen by the service there.
func AwaitAccepted(stream grpc.ClientStream) error {
	md, err := stream.Header()
	if err != nil {
		return err
	}
	if len(md.Get(keyFrom)) > 0 {
		return nil
	}
	// The stream ended without a header; its status comes out of the next receive.
	if err := stream.RecvMsg(new(Raw)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return status.Error(codes.FailedPrecondition, "peer: no peer service of ours answers at this address")
}

// interceptor adds the identity to every stream of a connection to node to.
func (id Identity) interceptor(to shard.NodeID) grpc.StreamClientInterceptor {
	md := id.outgoing(to)
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(metadata.NewOutgoingContext(ctx, md), desc, cc, method, opts...)
	}
}

func refuse(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, "peer: refused: "+format, args...)
}

func first(md metadata.MD, key string) string {
	if vs := md.Get(key); len(vs) > 0 {
		return vs[0]
	}
	return ""
}

func formatID(id uint64) string { return strconv.FormatUint(id, 16) }

func parseID(s string) (uint64, error) { return strconv.ParseUint(s, 16, 64) }
