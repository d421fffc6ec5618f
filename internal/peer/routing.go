package peer

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Client is who opens a stream on the client port: nobody in particular. No node has this id,
// so that no service can take a client for a node.
const Client shard.NodeID = 0

// RoutingService serves routing clients. ServeCalls runs until the stream ends; from is Client.
type RoutingService interface {
	Discover(ctx context.Context) (*pb.DiscoverResponse, error)
	ServeCalls(from shard.NodeID, stream pb.Peer_CallsServer) error
}

// RoutingServer is the service for routing clients on the client port.
type RoutingServer struct {
	pb.UnimplementedRoutingServer
	id  Identity
	svc RoutingService
}

var _ pb.RoutingServer = (*RoutingServer)(nil)

// NewRoutingServer returns the service of the node that id names.
func NewRoutingServer(id Identity, svc RoutingService) *RoutingServer {
	return &RoutingServer{id: id, svc: svc}
}

// Register adds the service to gs, whose codec must take messages that are Encoded.
func (s *RoutingServer) Register(gs *grpc.Server) { pb.RegisterRoutingServer(gs, s) }

// Discover implements pb.RoutingServer.
func (s *RoutingServer) Discover(ctx context.Context, _ *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	return s.svc.Discover(ctx)
}

// Calls implements pb.RoutingServer.
func (s *RoutingServer) Calls(stream pb.Routing_CallsServer) error {
	if err := s.id.acceptClient(stream); err != nil {
		return err
	}
	return s.svc.ServeCalls(Client, stream)
}

// acceptClient checks that a stream was meant for this node and comes from no node, and tells
// the client that it is accepted.
func (id Identity) acceptClient(stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if err := id.checkAddressee(md); err != nil {
		return err
	}
	if from := first(md, keyFrom); from != formatID(uint64(Client)) {
		return refuse("the caller states to be node %q, and this is the port for clients", from)
	}
	if err := stream.SendHeader(metadata.Pairs(keyFrom, formatID(uint64(id.Node)))); err != nil {
		return fmt.Errorf("peer: accept a client: %w", err)
	}
	return nil
}

// OpenClientCalls opens a stream of calls on a client port. It is for a mesh whose dialer has a
// client's identity: the id of no node.
func OpenClientCalls(ctx context.Context, cc grpc.ClientConnInterface) (pb.Peer_CallsClient, error) {
	return pb.NewRoutingClient(cc).Calls(ctx)
}
