package admission

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// pageBytesMax bounds a page that a routing client asks for.
const pageBytesMax = 4 << 20

var errRefusedToClient = errors.New("only nodes may make this call")

// Call returns what of a routing client's call may be served: exactly what routing a request of etcd's KV service
// takes, that a range's leader hands over, and that a range is cut. Everything else is refused, whatever comes with it.
func (d *Door) Call(req *pb.PeerRequest) (*pb.PeerRequest, error) {
	kind, _ := calls.Of(req)
	if calls.Table[kind].Client != calls.Vetted {
		return nil, fmt.Errorf("%w: %w", shard.ErrInvalid, errRefusedToClient)
	}
	return callsAdmitted[kind](d, req)
}

// callsAdmitted make anew what was checked of the calls that the table lets clients make. The epoch goes with them: of an
// oracle that is older nothing is answered.
var callsAdmitted = [calls.Kinds]func(d *Door, req *pb.PeerRequest) (*pb.PeerRequest, error){
	calls.Write: (*Door).admitWrite,
	calls.Fence: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) { return admitFence(req) },
	calls.Read: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		read, err := admitRead(req.Read)
		return &pb.PeerRequest{Epoch: req.Epoch, Read: read}, err
	},
	calls.Transfer: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		return &pb.PeerRequest{Epoch: req.Epoch, Transfer: &pb.TransferRequest{RangeId: req.Transfer.RangeId, Node: req.Transfer.Node}}, nil
	},
	calls.Oracle: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		if req.Oracle.Count != 0 { // to allocate is a range's business
			return nil, fmt.Errorf("%w: %w", shard.ErrInvalid, errRefusedToClient)
		}
		return &pb.PeerRequest{Epoch: req.Epoch, Oracle: &pb.OracleRequest{}}, nil
	},
	calls.Descriptors: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		return &pb.PeerRequest{Epoch: req.Epoch, Descriptors: &pb.DescriptorsRequest{
			KnownVersion: req.Descriptors.KnownVersion, Differences: req.Descriptors.Differences}}, nil
	},
	calls.Compact: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		c := &pb.CompactRequest{Revision: req.Compact.Revision, Physical: req.Compact.Physical}
		return &pb.PeerRequest{Epoch: req.Epoch, Compact: c}, nil
	},
	calls.BeginOp: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) { return admitBeginOp(req) },
	calls.Ops: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		return &pb.PeerRequest{Epoch: req.Epoch, Ops: &pb.OpsRequest{Id: req.Ops.Id}}, nil
	},
	calls.Plan: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		return &pb.PeerRequest{Epoch: req.Epoch, Plan: &pb.PlanRequest{Mode: req.Plan.Mode, NodesOnly: req.Plan.NodesOnly}}, nil
	},
	calls.Unstick: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		err := checkBorder(req.Unstick.Key, "the key space begins at the empty key, and no border is there: name the first key of the right range")
		return &pb.PeerRequest{Epoch: req.Epoch, Unstick: &pb.UnstickRequest{Key: req.Unstick.Key}}, err
	},
	calls.Borders: func(_ *Door, req *pb.PeerRequest) (*pb.PeerRequest, error) {
		return &pb.PeerRequest{Epoch: req.Epoch, Borders: &pb.BordersRequest{}}, nil
	},
}

// reasonBytesMax bounds what every node keeps of why an op was begun.
const reasonBytesMax = 1 << 10

func admitBeginOp(req *pb.PeerRequest) (*pb.PeerRequest, error) {
	asked, op := req.BeginOp, &pb.BeginOpRequest{}
	kinds := 0
	var err error
	if split := asked.Split; split != nil {
		kinds++
		op.Split = &pb.SplitOp{Key: split.Key, Reason: split.Reason, StickyS: split.StickyS}
		err = errors.Join(checkReason(split.Reason), checkBorder(split.Key, "the key space begins at the empty key, and cannot be cut there: name the first key that the right part is to have"))
	}
	if merge := asked.Merge; merge != nil {
		kinds++
		op.Merge = &pb.MergeOp{Key: merge.Key, Reason: merge.Reason}
		err = errors.Join(checkReason(merge.Reason), checkBorder(merge.Key, "the key space begins at the empty key, and there is nothing to the left of it: name the first key of the range that is to become part of its left neighbour"))
	}
	if move := asked.Move; move != nil {
		kinds++
		op.Move = &pb.MoveOp{RangeId: move.RangeId, From: move.From, To: move.To, Generation: move.Generation, Reason: move.Reason}
		err = checkReason(move.Reason)
	}
	switch {
	case kinds != 1:
		return nil, fmt.Errorf("%w: an op of no kind that is known here", shard.ErrInvalid)
	case err != nil:
		return nil, err
	}
	return &pb.PeerRequest{Epoch: req.Epoch, BeginOp: op}, nil
}

func checkReason(reason string) error {
	if len(reason) > reasonBytesMax || !utf8.ValidString(reason) {
		return fmt.Errorf("%w: the reason is to be a text of at most %d bytes", shard.ErrInvalid, reasonBytesMax)
	}
	return nil
}

// checkBorder refuses a key that can be no border; none says why the empty one is none.
func checkBorder(key []byte, none string) error {
	switch {
	case len(key) == 0:
		return fmt.Errorf("%w: %s", shard.ErrInvalid, none)
	case len(key) > shard.BorderBytesMax:
		return fmt.Errorf("%w: a key of %d bytes; a range is cut at one of at most %d: any shorter key between the same two will do", shard.ErrInvalid, len(key), shard.BorderBytesMax)
	}
	return nil
}

func (d *Door) admitWrite(req *pb.PeerRequest) (*pb.PeerRequest, error) {
	op, err := d.Op(req.Write.Op)
	if err != nil {
		return nil, err
	}
	out := pb.NewWrite()
	out.Epoch = req.Epoch
	w := out.Write
	w.RangeId, w.Generation, w.Op, w.Multi = req.Write.RangeId, req.Write.Generation, op, req.Write.Multi
	return out, nil
}

func admitFence(req *pb.PeerRequest) (*pb.PeerRequest, error) {
	f := req.Fence
	if err := checkSpan(f.Span, f.Revision); err != nil {
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
	fence.Read, err = admitRead(f.Read)
	return out, err
}

func admitRead(r *pb.ReadRequest) (*pb.ReadRequest, error) {
	if err := checkSpan(r.Span, r.Revision); err != nil {
		return nil, err
	}
	return &pb.ReadRequest{
		RangeId: r.RangeId, Generation: r.Generation, Span: r.Span, Revision: r.Revision, MinIndex: r.MinIndex,
		Limit: max(r.Limit, 0), KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		MinModRevision: r.MinModRevision, MaxModRevision: r.MaxModRevision,
		MinCreateRevision: r.MinCreateRevision, MaxCreateRevision: r.MaxCreateRevision,
		MaxBytes: min(max(r.MaxBytes, 0), pageBytesMax), SkipCount: r.SkipCount, Reverse: r.Reverse,
	}, nil
}

// checkSpan refuses what no read has: no key at all, or a revision that is none.
func checkSpan(s *pb.Span, rev int64) error {
	if s == nil || pb.ToSpan(s).Empty() {
		return fmt.Errorf("%w: an empty span", shard.ErrInvalid)
	}
	if rev <= 0 {
		return fmt.Errorf("%w: revision %d", shard.ErrInvalid, rev)
	}
	return nil
}
