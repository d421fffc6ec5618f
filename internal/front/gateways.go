package front

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"pontoon/internal/httpapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/watchfanout"
)

const (
	// beatEvery is how often a gateway says that it lives. The leader of the meta group forgets it after three of these pauses.
	beatEvery = 5 * time.Second
	// beatPatience bounds one of these calls.
	beatPatience = 2 * time.Second
)

// GatewayConfig is what a process without replicas says of itself.
type GatewayConfig struct {
	Name       string
	ClientURLs []string
	Version    string
	// Members lists the members of the cluster to clients that ask for them. Else they are told of the gateways, so that those stay among them
	// which follow the list.
	Members bool
	// Chain is where it stands among other gateways.
	Chain ChainConfig
}

// presence is this process among the gateways.
type presence struct {
	cfg     GatewayConfig
	id      shard.NodeID
	client  *metaclient.Client
	stats   func() watchfanout.Stats
	mirrors *mirrors // nil: nothing is mirrored
	chain   *chain
	feeds   func(from shard.NodeID) int // how many come from there
	log     *slog.Logger

	group atomic.Pointer[[]shard.Member] // those that live, as far as was heard
}

func newPresence(f *Front) *presence {
	b := f.backend
	g := &presence{cfg: *f.cfg.Gateway, id: b.Identity.Node, client: b.Cluster.Client, stats: f.hub.Stats, mirrors: f.mirrors, chain: f.chain, feeds: f.feeds.from, log: f.log}
	g.learn(nil)
	return g
}

// run says that this gateway lives until ctx ends, and then that it does not.
func (g *presence) run(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	failed := false
	for {
		err := g.beat(ctx, false)
		switch {
		case ctx.Err() != nil:
		case err != nil && !failed:
			g.log.Warn("this gateway is not in the list of gateways", "error", err)
		case err == nil && failed:
			g.log.Info("this gateway is in the list of gateways again")
		}
		failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = g.beat(context.WithoutCancel(ctx), true) // it is forgotten by itself
			return
		}
	}
}

func (g *presence) beat(ctx context.Context, ends bool) error {
	ctx, cancel := context.WithTimeout(ctx, beatPatience)
	defer cancel()
	all, err := g.client.Gateways(ctx, g.own(), ends)
	if err == nil {
		g.learn(all)
	}
	return err
}

// own is what this gateway says of itself.
func (g *presence) own() *pb.Gateway {
	st := g.stats()
	keys, bytes := g.mirrors.held()
	return &pb.Gateway{
		Id: uint64(g.id), Name: g.cfg.Name, ClientUrls: g.cfg.ClientURLs, Version: g.cfg.Version, Watchers: st.Watchers, Streams: st.Streams,
		MirrorKeys: keys, MirrorBytes: bytes, Level: g.chain.ups.current().Level, Upstreams: g.chain.ups.tell(g.feeds),
	}
}

// learn takes the gateways that live. This one does.
func (g *presence) learn(all []*pb.Gateway) {
	group := []shard.Member{{ID: g.id, Name: g.cfg.Name, ClientURLs: g.cfg.ClientURLs}}
	for _, o := range all {
		if shard.NodeID(o.Id) != g.id {
			group = append(group, shard.Member{ID: shard.NodeID(o.Id), Name: o.Name, ClientURLs: o.ClientUrls})
		}
	}
	slices.SortFunc(group, func(a, b shard.Member) int { return cmp.Compare(a.ID, b.ID) })
	g.group.Store(&group)
}

// members is what clients are told of instead of the members; nil: of these.
func (g *presence) members() []shard.Member {
	if g == nil || g.cfg.Members {
		return nil
	}
	return *g.group.Load()
}

// gatewayList tells of the gateways by HTTP.
type gatewayList struct{ client *metaclient.Client }

// Gateways implements httpapi.GatewayLister.
func (l gatewayList) Gateways(ctx context.Context) ([]httpapi.Gateway, error) {
	all, err := l.client.Gateways(ctx, nil, false)
	if errors.Is(err, shard.ErrUnimplemented) {
		all, err = nil, nil // a release that knows none
	}
	out := make([]httpapi.Gateway, 0, len(all))
	for _, g := range all {
		out = append(out, httpapi.Gateway{
			Gateway: g.Id, Name: g.Name, ClientURLs: g.ClientUrls, Version: g.Version, Watchers: g.Watchers, Streams: g.Streams,
			MirrorKeys: g.MirrorKeys, MirrorBytes: g.MirrorBytes, AgeMillis: int64(g.AgeMs), Level: g.Level, Upstreams: upstreamsOf(g),
		})
	}
	return out, httpError(err)
}

// upstreamsOf are those that a gateway was told to have feeds from.
func upstreamsOf(g *pb.Gateway) (out []httpapi.Upstream) {
	for _, u := range g.Upstreams {
		out = append(out, httpapi.Upstream{URL: u.Url, Gateway: u.Gateway, Feeds: u.Feeds, Refused: u.Refused})
	}
	return out
}
