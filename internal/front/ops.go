package front

import (
	"context"
	"errors"
	"net/http"
	"time"

	"pontoon/internal/admission"
	"pontoon/internal/httpapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// ops changes the ranges for whoever asks by HTTP.
type ops struct {
	client    *metaclient.Client
	admission *admission.Door
	members   func(name string) (shard.Member, error) // by name or id
}

var (
	_ httpapi.Ops     = (*ops)(nil)
	_ httpapi.Borders = (*ops)(nil)
)

// BeginSplit implements httpapi.Ops.
func (o *ops) BeginSplit(ctx context.Context, key []byte, sticky time.Duration, reason string) (httpapi.Op, error) {
	split := &pb.SplitOp{Key: key, Reason: reason, StickyS: int64((sticky + time.Second - 1) / time.Second)}
	if sticky < 0 {
		split.StickyS = -1
	}
	return o.begin(ctx, &pb.BeginOpRequest{Split: split})
}

// Unstick implements httpapi.Borders.
func (o *ops) Unstick(ctx context.Context, key []byte) (httpapi.Border, error) {
	req, err := o.admission.Call(&pb.PeerRequest{Unstick: &pb.UnstickRequest{Key: key}})
	if err == nil {
		err = o.client.Unstick(ctx, req.Unstick.Key)
	}
	return httpapi.Border{Key: key, KeyText: keyText(key)}, httpError(err)
}

// BeginMerge implements httpapi.Ops.
func (o *ops) BeginMerge(ctx context.Context, key []byte, reason string) (httpapi.Op, error) {
	return o.begin(ctx, &pb.BeginOpRequest{Merge: &pb.MergeOp{Key: key, Reason: reason}})
}

// BeginMove implements httpapi.Ops.
func (o *ops) BeginMove(ctx context.Context, id uint64, from, to, reason string) (httpapi.Op, error) {
	move := &pb.MoveOp{RangeId: id, Reason: reason}
	for _, end := range []struct { // which may have the same name
		name string
		node *uint64
	}{{from, &move.From}, {to, &move.To}} {
		if end.name == "" {
			continue
		}
		m, err := o.members(end.name)
		if err != nil {
			return httpapi.Op{}, httpError(err)
		}
		*end.node = uint64(m.ID)
	}
	return o.begin(ctx, &pb.BeginOpRequest{Move: move})
}

// begin has the meta group decide an op, if the door lets it in.
func (o *ops) begin(ctx context.Context, op *pb.BeginOpRequest) (httpapi.Op, error) {
	req, err := o.admission.Call(&pb.PeerRequest{BeginOp: op})
	if err != nil {
		return httpapi.Op{}, httpError(err)
	}
	begun, err := o.client.Begin(ctx, req.BeginOp)
	return opOf(begun), httpError(err)
}

// Op implements httpapi.Ops.
func (o *ops) Op(ctx context.Context, id uint64) (httpapi.Op, error) {
	op, err := o.client.Op(ctx, shard.OpID(id))
	if errors.Is(err, shard.ErrInvalid) {
		return httpapi.Op{}, &httpapi.StatusError{Status: http.StatusNotFound, Err: err}
	}
	return opOf(op), httpError(err)
}

// List implements httpapi.Ops.
func (o *ops) List(ctx context.Context) ([]httpapi.Op, error) {
	list, err := o.client.Ops(ctx)
	out := make([]httpapi.Op, len(list))
	for i := range list {
		out[i] = opOf(list[i])
	}
	return out, httpError(err)
}

func opOf(op shard.OpState) httpapi.Op {
	out := httpapi.Op{
		ID: uint64(op.ID), Kind: op.Kind.String(), Range: uint64(op.Range), Generation: uint64(op.Generation), Key: op.Key, KeyText: keyText(op.Key),
		Child: uint64(op.Child), Reason: op.Reason, Outcome: string(op.Outcome()), Waiting: op.Waiting, Failure: op.Failure,
		Began: unixText(op.Began), StoodMicros: op.Stood.Microseconds(),
	}
	if op.Kind == shard.OpMove {
		out.From, out.To = nodeText(op.From.Node), nodeText(op.To.Node)
	}
	if op.Ended != 0 {
		out.Ended = unixText(op.Ended)
	}
	return out
}

// nodeText renders a node's id, and none as an empty text.
func nodeText(id shard.NodeID) string {
	if id == 0 {
		return ""
	}
	return id.String()
}

// unixText renders a time that is given in milliseconds.
func unixText(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}
