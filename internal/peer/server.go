package peer

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// RaftService serves the streams of Raft frames and snapshots (raftgroup/transport). Each
// method runs until the stream ends; from is who opened it.
type RaftService interface {
	ServeRaft(from shard.NodeID, stream pb.Peer_RaftServer) error
	ServeSnapshot(from shard.NodeID, stream pb.Peer_SnapshotServer) error
}

// CallService serves calls and links (internal/peerrpc).
type CallService interface {
	// TakesCalls says why no stream of calls is taken any more; nil: one is.
	TakesCalls() error
	ServeCalls(from shard.NodeID, stream pb.Peer_CallsServer) error
	ServeLink(from shard.NodeID, stream pb.Peer_LinkServer) error
}

// GossipService serves the membership protocol (placement/gossip).
type GossipService interface {
	ServePackets(from shard.NodeID, stream pb.Peer_GossipPacketsServer) error
	ServeStream(from shard.NodeID, stream pb.Peer_GossipStreamServer) error
}

// Door is who may come in by the peer port, and what anybody may ask there.
type Door interface {
	// Admit refuses a node that has stated its id, with a status error: one that does not belong to the cluster, or that is not known to (yet). It
	// must not block.
	Admit(from shard.NodeID) error
	// Discover tells of the cluster whoever asks.
	Discover(ctx context.Context, req *pb.DiscoverRequest) (*pb.DiscoverResponse, error)
}

// Server is the one service of the peer port. A part that is nil answers Unimplemented; without a door everybody comes in.
type Server struct {
	pb.UnimplementedPeerServer
	id     Identity
	door   Door
	raft   RaftService
	calls  CallService
	gossip GossipService
}

var _ pb.PeerServer = (*Server)(nil)

// NewServer composes the peer service of its parts.
func NewServer(id Identity, door Door, raft RaftService, calls CallService, gossip GossipService) *Server {
	return &Server{id: id, door: door, raft: raft, calls: calls, gossip: gossip}
}

// accept checks the caller of a stream and tells it that it is accepted.
func (s *Server) accept(stream grpc.ServerStream) (shard.NodeID, error) {
	md, _ := metadata.FromIncomingContext(stream.Context())
	from, err := s.id.check(md)
	if err == nil {
		err = bind(stream.Context(), from)
	}
	if err == nil && s.door != nil && first(md, keyFront) == "" {
		err = s.door.Admit(from)
	}
	if err != nil {
		return 0, err
	}
	if err := stream.SendHeader(metadata.Pairs(keyFrom, formatID(uint64(s.id.Node)))); err != nil {
		return 0, fmt.Errorf("peer: accept node %v: %w", from, err)
	}
	return from, nil
}

// bind holds a connection with TLS to the id that was stated on it first. Its certificate says that the caller belongs to the cluster, and not which of
// its nodes it is.
func bind(ctx context.Context, from shard.NodeID) error {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil
	}
	if c, ok := p.AuthInfo.(interface{ Owns(id uint64) bool }); ok && !c.Owns(uint64(from)) {
		return refuse("the caller states id %v on a connection of another node", from)
	}
	return nil
}

// acceptMember is accept for what only replicas and members have to say.
func (s *Server) acceptMember(stream grpc.ServerStream) (shard.NodeID, error) {
	if md, _ := metadata.FromIncomingContext(stream.Context()); first(md, keyFront) != "" {
		return 0, refuse("who is no member has no replica")
	}
	return s.accept(stream)
}

// Discover implements pb.PeerServer.
func (s *Server) Discover(ctx context.Context, req *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	if s.door == nil {
		return s.UnimplementedPeerServer.Discover(ctx, req)
	}
	return s.door.Discover(ctx, req)
}

// Register adds the service to gs, which was built with ServerOptions.
func (s *Server) Register(gs *grpc.Server) { pb.RegisterPeerServer(gs, s) }

// Raft implements pb.PeerServer.
func (s *Server) Raft(stream pb.Peer_RaftServer) error {
	if s.raft == nil {
		return s.UnimplementedPeerServer.Raft(stream)
	}
	from, err := s.acceptMember(stream)
	if err != nil {
		return err
	}
	return s.raft.ServeRaft(from, stream)
}

// Snapshot implements pb.PeerServer.
func (s *Server) Snapshot(stream pb.Peer_SnapshotServer) error {
	if s.raft == nil {
		return s.UnimplementedPeerServer.Snapshot(stream)
	}
	from, err := s.acceptMember(stream)
	if err != nil {
		return err
	}
	return s.raft.ServeSnapshot(from, stream)
}

// Calls implements pb.PeerServer.
func (s *Server) Calls(stream pb.Peer_CallsServer) error {
	if s.calls == nil {
		return s.UnimplementedPeerServer.Calls(stream)
	}
	if err := s.calls.TakesCalls(); err != nil {
		return err
	}
	from, err := s.accept(stream)
	if err != nil {
		return err
	}
	return s.calls.ServeCalls(from, stream)
}

// Link implements pb.PeerServer.
func (s *Server) Link(stream pb.Peer_LinkServer) error {
	if s.calls == nil {
		return s.UnimplementedPeerServer.Link(stream)
	}
	from, err := s.accept(stream)
	if err != nil {
		return err
	}
	return s.calls.ServeLink(from, stream)
}

// GossipPackets implements pb.PeerServer.
func (s *Server) GossipPackets(stream pb.Peer_GossipPacketsServer) error {
	if s.gossip == nil {
		return s.UnimplementedPeerServer.GossipPackets(stream)
	}
	from, err := s.acceptMember(stream)
	if err != nil {
		return err
	}
	return s.gossip.ServePackets(from, stream)
}

// GossipStream implements pb.PeerServer.
func (s *Server) GossipStream(stream pb.Peer_GossipStreamServer) error {
	if s.gossip == nil {
		return s.UnimplementedPeerServer.GossipStream(stream)
	}
	from, err := s.acceptMember(stream)
	if err != nil {
		return err
	}
	return s.gossip.ServeStream(from, stream)
}
