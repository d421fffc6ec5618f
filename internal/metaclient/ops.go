package metaclient

import (
	"context"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// ops asks for changes of the range map.
type ops struct{ calls *caller }

// Begin begins what req asks for, which has one of its fields set: Split cuts the range that holds a key there, which becomes the first of the right
// part; Move moves a range's replica; Merge makes the range that begins at a key part of its left neighbour. It returns when that is decided: Op tells
// what becomes of it. shard.ErrInvalid: it cannot be. shard.ErrOpInWay: not now. shard.ErrUnimplemented: the cluster's version is too old.
// shard.ErrAmbiguous: the op may be under way. Every error says what is in the way.
func (o *ops) Begin(ctx context.Context, req *pb.BeginOpRequest) (shard.OpState, error) {
	return firstOp(o.calls.one(ctx, &pb.PeerRequest{BeginOp: req}, true, false))
}

// Unstick takes back that the border at key is to stay; shard.ErrInvalid if it need not.
func (o *ops) Unstick(ctx context.Context, key []byte) error {
	_, err := o.calls.one(ctx, &pb.PeerRequest{Unstick: &pb.UnstickRequest{Key: key}}, true, false)
	return err
}

// Borders returns until when borders are to stay, in Unix time in milliseconds, by their keys; shard.Forever: until that is taken back.
func (o *ops) Borders(ctx context.Context) (map[string]int64, error) {
	resp, err := o.calls.one(ctx, &pb.PeerRequest{Borders: &pb.BordersRequest{}}, false, false)
	out := make(map[string]int64, len(resp.GetBorders().GetBorders()))
	for _, b := range resp.GetBorders().GetBorders() {
		out[string(b.Key)] = b.UntilMs
	}
	return out, err
}

// Op returns one op; shard.ErrInvalid if nobody remembers it.
func (o *ops) Op(ctx context.Context, id shard.OpID) (shard.OpState, error) {
	if id == 0 {
		return shard.OpState{}, fmt.Errorf("%w: no op has the id 0", shard.ErrInvalid)
	}
	return firstOp(o.calls.one(ctx, &pb.PeerRequest{Ops: &pb.OpsRequest{Id: uint64(id)}}, false, false))
}

// Ops lists those that are under way, and the last that are over, by id.
func (o *ops) Ops(ctx context.Context) ([]shard.OpState, error) {
	return toOps(o.calls.one(ctx, &pb.PeerRequest{Ops: &pb.OpsRequest{}}, false, false))
}

func toOps(resp *pb.PeerResponse, err error) ([]shard.OpState, error) {
	if err != nil {
		return nil, err
	}
	list := resp.GetOps()
	out := make([]shard.OpState, len(list.GetOps()))
	for i, op := range list.GetOps() {
		out[i].Op = pb.ToOp(op)
		if i < len(list.Waiting) {
			out[i].Waiting = list.Waiting[i]
		}
	}
	return out, nil
}

func firstOp(resp *pb.PeerResponse, err error) (shard.OpState, error) {
	list, err := toOps(resp, err)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w: an answer without an op", shard.ErrCorrupt)
	}
	if err != nil {
		return shard.OpState{}, err
	}
	return list[0], nil
}
