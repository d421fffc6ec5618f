package front

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/etcdapi"
	"pontoon/internal/pb"
	"pontoon/internal/underway"
	"pontoon/shard"
	"pontoon/shard/router"
)

// bounded is the router for as many requests at a time as there is room for: beyond, they are refused at once, in etcd's words. Reads count, and take no
// bytes of it.
type bounded struct {
	*router.Router
	room *underway.Room
}

var _ etcdapi.KV = bounded{}

// Range implements etcdapi.KV.
func (b bounded) Range(ctx context.Context, op *pb.RangeOp, serializable bool) (*router.RangeResult, error) {
	if !b.room.Enter(0) {
		return nil, shard.ErrTooManyRequests
	}
	defer b.room.Leave(0)
	return b.Router.Range(ctx, op, serializable)
}

// RangeEncoded implements etcdapi.KV.
func (b bounded) RangeEncoded(ctx context.Context, op *pb.RangeOp, serializable bool) (*router.RangeResult, error) {
	if !b.room.Enter(0) {
		return nil, shard.ErrTooManyRequests
	}
	defer b.room.Leave(0)
	return b.Router.RangeEncoded(ctx, op, serializable)
}

// RangePages implements etcdapi.KV.
func (b bounded) RangePages(ctx context.Context, op *pb.RangeOp, serializable bool, maxBytes int, fn func(*router.RangeResult) error) error {
	if !b.room.Enter(0) {
		return shard.ErrTooManyRequests
	}
	defer b.room.Leave(0)
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

// registerRoom tells how many requests of clients are under way.
func registerRoom(reg prometheus.Registerer, room *underway.Room) {
	labels := prometheus.Labels{"at": "gateway"}
	gauge := func(name, help string, fn func() int64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(fn()) }))
	}
	gauge("pontoon_requests_under_way", "Requests that have come in and are not answered: at the gateway, those of its clients; at the leader, writes of any node to ranges that this one leads.", room.Count)
	gauge("pontoon_requests_under_way_bytes", "What these take.", room.Bytes)
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pontoon_requests_refused_total", Help: "Requests that found no room, and were refused: too many requests.", ConstLabels: labels},
		func() float64 { return float64(room.Refused()) }))
}
