package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/backend"
	"pontoon/internal/calls"
	"pontoon/internal/etcdapi"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
)

const (
	// clientBytesMax bounds the requests of a routing client's stream that are being served, and the answers that it
	// has not taken yet: beyond it, the former are refused and the next are not received.
	clientBytesMax = 64 << 20
	// clientPageBytesMax bounds a page that a client asks for.
	clientPageBytesMax = 4 << 20
)

// door serves routing clients on the client port.
type door struct {
	backend  *backend.Backend
	limits   etcdapi.Limits
	election time.Duration
	patience time.Duration
	mesh     *peerrpc.Mesh
}

var _ peer.RoutingService = (*door)(nil)

// newDoor makes what serves routing clients. Its mesh answers little, calls nobody and learns nothing, because a
// client's word must not move the node.
func newDoor(b *backend.Backend, limits etcdapi.Limits, election, patience time.Duration, log *slog.Logger) *door {
	d := &door{backend: b, limits: limits, election: election, patience: patience}
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
	v := client.View()
	return &pb.DiscoverResponse{
		ClusterId: d.backend.Identity.ClusterID, NodeId: uint64(d.backend.Identity.Node),
		Members: pb.FromMembers(v.Members), Meta: pb.FromDescriptor(v.Meta),
		MaxRequestBytes: int64(d.limits.MaxRequestBytes), MaxTxnOps: int64(d.limits.MaxTxnOps),
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
	vetted, err := vetClient(req, d.limits)
	if err != nil {
		reply(failed(err))
		return
	}
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
	d.backend.Cluster.Client.CurrentFunc(func(_ int64, _ shard.Epoch, err error) {
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

var errRefusedToClient = errors.New("only nodes may make this call")

// vetClient returns what a client may ask: exactly what routing a request of etcd's KV service
// takes. Everything else is refused, whatever comes with it.
func vetClient(req *pb.PeerRequest, limits etcdapi.Limits) (*pb.PeerRequest, error) {
	kind, _ := calls.Of(req)
	if calls.Table[kind].Client != calls.Vetted {
		return nil, fmt.Errorf("%w: %w", shard.ErrInvalid, errRefusedToClient)
	}
	return vets[kind](req, limits)
}

// vets make anew what was checked of the calls that the table lets clients make. The epoch goes with them: of an
// oracle that is older nothing is answered.
var vets = [calls.Kinds]func(req *pb.PeerRequest, limits etcdapi.Limits) (*pb.PeerRequest, error){
	calls.Write: vetWrite,
	calls.Fence: vetFence,
	calls.Read: func(req *pb.PeerRequest, _ etcdapi.Limits) (*pb.PeerRequest, error) {
		read, err := vetRead(req.Read)
		return &pb.PeerRequest{Epoch: req.Epoch, Read: read}, err
	},
	calls.Oracle: func(req *pb.PeerRequest, _ etcdapi.Limits) (*pb.PeerRequest, error) {
		if req.Oracle.Count != 0 { // to allocate is a range's business
			return nil, fmt.Errorf("%w: %w", shard.ErrInvalid, errRefusedToClient)
		}
		return &pb.PeerRequest{Epoch: req.Epoch, Oracle: &pb.OracleRequest{}}, nil
	},
	calls.Descriptors: func(req *pb.PeerRequest, _ etcdapi.Limits) (*pb.PeerRequest, error) {
		return &pb.PeerRequest{Epoch: req.Epoch, Descriptors: &pb.DescriptorsRequest{KnownVersion: req.Descriptors.KnownVersion}}, nil
	},
	calls.Compact: func(req *pb.PeerRequest, _ etcdapi.Limits) (*pb.PeerRequest, error) {
		c := &pb.CompactRequest{Revision: req.Compact.Revision, Physical: req.Compact.Physical}
		return &pb.PeerRequest{Epoch: req.Epoch, Compact: c}, nil
	},
}

func vetWrite(req *pb.PeerRequest, limits etcdapi.Limits) (*pb.PeerRequest, error) {
	op, err := etcdapi.VetOp(req.Write.Op, limits)
	if err != nil {
		return nil, err
	}
	out := pb.NewWrite()
	out.Epoch = req.Epoch
	w := out.Write
	w.RangeId, w.Generation, w.Op, w.Multi = req.Write.RangeId, req.Write.Generation, op, req.Write.Multi
	return out, nil
}

func vetFence(req *pb.PeerRequest, _ etcdapi.Limits) (*pb.PeerRequest, error) {
	f := req.Fence
	if err := vetSpan(f.Span, f.Revision); err != nil {
		return nil, err
	}
	fence := &pb.FenceRequest{RangeId: f.RangeId, Generation: f.Generation, Span: f.Span, Revision: f.Revision, Epoch: f.Epoch}
	out := &pb.PeerRequest{Epoch: req.Epoch, Fence: fence}
	if f.Read == nil {
		return out, nil
	}
	if f.Read.Revision > f.Revision {
		return nil, fmt.Errorf("%w: a read above its fence", shard.ErrInvalid)
	}
	var err error
	fence.Read, err = vetRead(f.Read)
	return out, err
}

func vetRead(r *pb.ReadRequest) (*pb.ReadRequest, error) {
	if err := vetSpan(r.Span, r.Revision); err != nil {
		return nil, err
	}
	return &pb.ReadRequest{
		RangeId: r.RangeId, Generation: r.Generation, Span: r.Span, Revision: r.Revision, MinIndex: r.MinIndex,
		Limit: max(r.Limit, 0), KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		MinModRevision: r.MinModRevision, MaxModRevision: r.MaxModRevision,
		MinCreateRevision: r.MinCreateRevision, MaxCreateRevision: r.MaxCreateRevision,
		MaxBytes: min(max(r.MaxBytes, 0), clientPageBytesMax), SkipCount: r.SkipCount, Reverse: r.Reverse,
	}, nil
}

// vetSpan refuses what no read has: no key at all, or a revision that is none.
func vetSpan(s *pb.Span, rev int64) error {
	if s == nil || pb.ToSpan(s).Empty() {
		return fmt.Errorf("%w: an empty span", shard.ErrInvalid)
	}
	if rev <= 0 {
		return fmt.Errorf("%w: revision %d", shard.ErrInvalid, rev)
	}
	return nil
}
