package meta

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// gatewaysMax bounds the gateways that are remembered: more are refused, and serve all the same.
	gatewaysMax = 4096
	// gatewayBytesMax bounds what one of them says of itself.
	gatewayBytesMax = 4 << 10
	// gatewayForgotten is after what silence a gateway is taken to be gone: three of the pauses in which it is to be heard of.
	gatewayForgotten = 15 * time.Second
)

// gateways are the processes without replicas that serve clients, as this leader has heard of them. That is never logged and ends with the
// leadership: they say it again. Methods are called with the lock held.
type gateways struct {
	heard map[uint64]gatewayWord
}

// gatewayWord is what a gateway has said last.
type gatewayWord struct {
	own *pb.Gateway
	at  time.Time
}

// hear takes what a gateway says of itself. shard.ErrTooManyRequests: there is no room.
func (g *gateways) hear(own *pb.Gateway, ends bool, now time.Time) error {
	if own.Id == 0 || own.SizeVT() > gatewayBytesMax {
		return fmt.Errorf("%w: a gateway that names no id, or too much", shard.ErrInvalid)
	}
	if ends {
		delete(g.heard, own.Id)
		return nil
	}
	g.forget(now)
	if _, known := g.heard[own.Id]; !known && len(g.heard) >= gatewaysMax {
		return shard.ErrTooManyRequests
	}
	if g.heard == nil {
		g.heard = map[uint64]gatewayWord{}
	}
	g.heard[own.Id] = gatewayWord{own, now}
	return nil
}

// forget leaves out who has been silent for long.
func (g *gateways) forget(now time.Time) {
	for id, w := range g.heard {
		if now.Sub(w.at) >= gatewayForgotten {
			delete(g.heard, id)
		}
	}
}

// list are those that live, by id.
func (g *gateways) list(now time.Time) []*pb.Gateway {
	g.forget(now)
	out := make([]*pb.Gateway, 0, len(g.heard))
	for _, w := range g.heard {
		v := proto.CloneOf(w.own)
		v.AgeMs = uint64(max(now.Sub(w.at).Milliseconds(), 0))
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *pb.Gateway) int { return cmp.Compare(a.Id, b.Id) })
	return out
}

func (g *gateways) stepDown() { g.heard = nil }

// serveGateways tells of the gateways, after what the asker has said of itself.
func serveGateways(c *call, req *pb.GatewaysRequest) {
	g, now := &c.m.own.gateways, c.m.cfg.Now()
	if req.Own != nil {
		if err := g.hear(req.Own, req.Ends, now); err != nil {
			c.fail(err)
			return
		}
	}
	c.reply(&pb.PeerResponse{Gateways: &pb.GatewaysResponse{Gateways: g.list(now)}}, nil)
}
