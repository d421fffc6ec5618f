package front

import (
	"context"

	"pontoon/internal/etcdapi"
	"pontoon/internal/pb"
	"pontoon/internal/underway"
	"pontoon/shard"
	"pontoon/shard/router"
)

// bounded is the router for as many requests at a time as there is room for: beyond, they are refused at once, in etcd's words. Reads count, and take no
// bytes of it: large lists wait for room of their own.
type bounded struct {
	*router.Router
	room    *underway.Room
	lists   *lists
	mirrors *mirrors
}

var _ etcdapi.KV = bounded{}

// Range implements etcdapi.KV.
func (b bounded) Range(ctx context.Context, op *pb.RangeOp, serializable bool) (*router.RangeResult, error) {
	if !b.room.Enter(0) {
		return nil, shard.ErrTooManyRequests
	}
	defer b.room.Leave(0)
	if op.CountOnly {
		if res, served, err := b.mirrors.read(ctx, op, serializable); served {
			return res, err
		}
	}
	return b.lists.read(ctx, op, func(ctx context.Context) (*router.RangeResult, error) { return b.Router.Range(ctx, op, serializable) })
}

// RangeEncoded implements etcdapi.KV.
func (b bounded) RangeEncoded(ctx context.Context, op *pb.RangeOp, serializable bool) (*router.RangeResult, error) {
	if !b.room.Enter(0) {
		return nil, shard.ErrTooManyRequests
	}
	defer b.room.Leave(0)
	if res, served, err := b.mirrors.read(ctx, op, serializable); served {
		return res, err
	}
	return b.lists.read(ctx, op, func(ctx context.Context) (*router.RangeResult, error) {
		return b.Router.RangeEncoded(ctx, op, serializable)
	})
}

// RangePages implements etcdapi.KV.
func (b bounded) RangePages(ctx context.Context, op *pb.RangeOp, serializable bool, maxBytes int, fn func(*router.RangeResult) error) error {
	if !b.room.Enter(0) {
		return shard.ErrTooManyRequests
	}
	defer b.room.Leave(0)
	if served, err := b.mirrors.pages(ctx, op, serializable, maxBytes, fn); served {
		return err
	}
	return b.Router.RangePages(ctx, op, serializable, maxBytes, fn)
}

// WriteBy implements etcdapi.KV.
func (b bounded) WriteBy(ctx context.Context, op *pb.Op, by shard.Checked) (*router.WriteResult, error) {
	size := op.SizeVT()
	if !b.room.Enter(size) {
		return nil, shard.ErrTooManyRequests
	}
	defer b.room.Leave(size)
	return b.Router.WriteBy(ctx, op, by)
}
