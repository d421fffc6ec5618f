package front

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/admission"
	"pontoon/internal/backend"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/internal/token"
	"pontoon/shard"
)

const (
	// clientBytesMax bounds the requests of a routing client's stream that are being served, and the answers that it
	// has not taken yet: beyond it, the former are refused and the next are not received.
	clientBytesMax = 64 << 20
)

// door serves routing clients on the client port.
type door struct {
	backend   *backend.Backend
	admission *admission.Door
	election  time.Duration
	patience  time.Duration
	rights    doorRights
	mesh      *peerrpc.Mesh
}

var _ peer.RoutingService = (*door)(nil)

// newDoor makes what serves routing clients. Its mesh answers little, calls nobody and learns nothing, because a
// client's word must not move the node.
func newDoor(b *backend.Backend, adm *admission.Door, tokens *token.Tokens, election, patience time.Duration, log *slog.Logger) *door {
	d := &door{backend: b, admission: adm, election: election, patience: patience, rights: doorRights{accessOf(b), tokens}}
	d.mesh = peerrpc.New(peerrpc.Config{
		Node: b.Identity.Node, Handler: d.handle, Logger: log,
		Dial: func(node shard.NodeID) (grpc.ClientConnInterface, error) {
			return nil, fmt.Errorf("%w: %v: clients are not called", peer.ErrUnknownNode, node)
		},
		Hints: func() (int64, uint64) {
			rev, epoch := b.Cluster.Newest()
			return rev, uint64(epoch)
		},
		BytesMax: clientBytesMax,
	})
	return d
}

func (d *door) close() error { return d.mesh.Close() }

// Discover implements peer.RoutingService. It asks the meta group first: what this node has
// seen may be older than the client URLs of its members.
func (d *door) Discover(ctx context.Context) (*pb.DiscoverResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	client := d.backend.Cluster.Client
	if err := client.Refresh(ctx); err != nil {
		return nil, status.Errorf(codes.Unavailable, "the cluster's state is not known: %v", err)
	}
	v, limits := client.View(), d.admission.Limits()
	return &pb.DiscoverResponse{
		ClusterId: d.backend.Identity.ClusterID, NodeId: uint64(d.backend.Identity.Node),
		Members: pb.FromMembers(v.Members), Meta: pb.FromDescriptor(v.Meta),
		MaxRequestBytes: int64(limits.MaxRequestBytes), MaxTxnOps: int64(limits.MaxTxnOps),
		ElectionTimeoutMs: d.election.Milliseconds(),
	}, nil
}

// ServeCalls implements peer.RoutingService.
func (d *door) ServeCalls(from shard.NodeID, stream pb.Peer_CallsServer) error {
	return d.mesh.ServeCalls(from, stream)
}

// handle answers a call of a routing client. Only a request made anew from what was
// checked goes on to the parts that serve nodes.
func (d *door) handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	vetted, err := d.admission.Call(req)
	if err != nil {
		reply(failed(err))
		return
	}
	d.rights.judge(ctx, vetted, func(err error) {
		if err != nil {
			reply(failed(err))
			return
		}
		d.serve(ctx, from, vetted, reply)
	})
}

// serve answers a call that has been let in.
func (d *door) serve(ctx context.Context, from shard.NodeID, vetted *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	if vetted.Fence == nil {
		d.backend.Local.Handle(ctx, from, vetted, reply)
		return
	}
	d.believe(vetted.Fence, func(err error) {
		if err != nil {
			reply(failed(err))
			return
		}
		d.backend.Local.Handle(ctx, from, vetted, reply)
	})
}

func failed(err error) *pb.PeerResponse { return &pb.PeerResponse{Error: pb.ErrorToPB(err)} }

// believe makes sure that the oracle has handed out what a client's fence names. A fence raises
// the range's epoch for good, and its revision counts as handed out: a made up one would keep the
// range from ever being written again. What this node has seen itself is true; else the oracle
// is asked, whose answer is at or above everything that it has answered before.
func (d *door) believe(f *pb.FenceRequest, done func(error)) {
	seen := func() bool {
		rev, epoch := d.backend.Cluster.Newest()
		return f.Revision <= rev && f.Epoch <= uint64(epoch)
	}
	if seen() {
		done(nil)
		return
	}
	d.backend.Cluster.Client.NowFunc(func(_ shard.Now, err error) {
		switch {
		case err != nil:
			done(fmt.Errorf("%w: %w", shard.ErrUnavailable, err))
		case !seen():
			done(fmt.Errorf("%w: revision %d of epoch %d was never handed out", shard.ErrInvalid, f.Revision, f.Epoch))
		default:
			done(nil)
		}
	})
}
