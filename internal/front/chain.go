package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/backend"
	"pontoon/internal/httpapi"
	"pontoon/internal/link"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/tlsport"
	"pontoon/shard"
)

// ChainConfig is where a gateway stands among others. The zero value is one that has its feeds from members, and passes none on.
type ChainConfig struct {
	// Upstreams are peer URLs of gateways that feeds are to come from, before they come from members.
	Upstreams []string
	// Nodes finds them; required with Upstreams.
	Nodes UpstreamNodes
	// Links are where other gateways are served, by what members call each other with. They are the front's from Open on. None: nobody is served.
	Links []httpapi.Listener
	// TLS is that of Links.
	TLS *tlsport.Endpoint
}

// chain is a gateway's place among others: from which its feeds come, and which have feeds from it.
type chain struct {
	cfg     ChainConfig
	backend *backend.Backend
	log     *slog.Logger
	ups     *upstreams
	passing *passing // nil: no feed is passed on
	server  *grpc.Server
}

// newChain makes it. The feeds that are passed on come by way of a tee.
func newChain(cfg ChainConfig, b *backend.Backend, t *tee, log *slog.Logger) *chain {
	c := &chain{cfg: cfg, backend: b, log: log, ups: newUpstreams(cfg.Upstreams, b.Identity.Node, b.Identity.ClusterID, cfg.Nodes, log)}
	if len(cfg.Links) == 0 {
		return c
	}
	c.cfg.Links = httpapi.PeerPorts(cfg.Links, peer.Unacknowledged, cfg.TLS.Listen, log)
	c.passing = newPassing(t, link.Limits{}, c.ups.current())
	c.ups.follow(c.passing.outlets.SetWay)
	opts := peer.ServerOptions()
	if cfg.TLS != nil {
		opts = append(opts, grpc.Creds(tlsport.Accepted()))
	}
	c.server = grpc.NewServer(opts...)
	peer.NewServer(b.Identity, c, nil, c, nil).Register(c.server)
	return c
}

// run finds upstream gateways and serves others until ctx ends.
func (c *chain) run(ctx context.Context, g *errgroup.Group) {
	if c == nil {
		return
	}
	g.Go(func() error {
		c.ups.run(ctx)
		return nil
	})
	if c.passing == nil {
		return
	}
	g.Go(func() error {
		c.passing.run(ctx)
		return nil
	})
	for _, l := range c.cfg.Links {
		c.log.Info("serving feeds to other gateways", "address", l.Addr().String())
		g.Go(func() error {
			if err := c.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
				c.log.Error("other gateways are not served any more", "url", l.URL, "error", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		c.server.Stop()
		return nil
	})
}

// close ends what is served.
func (c *chain) close() error {
	if c.server != nil {
		c.server.Stop()
	}
	return nil
}

// upstreams adds the gateways from which feeds may be had.
func (c *chain) upstreams(nodes []shard.NodeID) []shard.NodeID {
	if c == nil {
		return nodes
	}
	return c.ups.candidates(nodes)
}

// broke says that the link to a node has broken.
func (c *chain) broke(node shard.NodeID) {
	if c != nil {
		c.ups.broke(node)
	}
}

// learn takes the way by which the feeds of a link come. An error ends it.
func (c *chain) learn(node shard.NodeID, way *pb.LinkWay) error {
	if c == nil || way == nil {
		return nil
	}
	return c.ups.learn(node, way)
}

// leave tells gateways below that this process is about to stop.
func (c *chain) leave() {
	if c != nil && c.passing != nil {
		c.passing.outlets.Leave()
	}
}

// awaitLeft returns when those below have their feeds from elsewhere, or do not find them there.
func (c *chain) awaitLeft(ctx context.Context) {
	if c != nil && c.passing != nil {
		c.passing.outlets.AwaitLeft(ctx)
	}
}

// starved hears that nobody is found who has the feed of a range.
func (c *chain) starved(id shard.RangeID) {
	if c != nil && c.passing != nil {
		c.passing.end(id)
	}
}

// register tells how it fares.
func (c *chain) register(gauge, counter func(name, help string, fn func() float64)) {
	gauge("pontoon_gateway_level", "How many gateways stand one behind the other on the way of this one's feeds, with it.", func() float64 { return float64(c.ups.current().Level) })
	if c.passing == nil {
		return
	}
	counter("pontoon_feed_items_dropped_total", "Items of feeds that another gateway did not take in time; its watchers read them from history.", func() float64 { return float64(c.passing.outlets.Drops()) })
	gauge("pontoon_links_served", "Links by which other gateways have feeds from this one.", func() float64 { return float64(c.passing.outlets.Links()) })
}

// Admit implements peer.Door: whoever is no member may have feeds.
func (c *chain) Admit(shard.NodeID) error {
	return status.Error(codes.FailedPrecondition, "peer: refused: a gateway has feeds for gateways, and nothing for members")
}

// Discover implements peer.Door.
func (c *chain) Discover(context.Context, *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	v := c.backend.Cluster.Client.View()
	return &pb.DiscoverResponse{
		ClusterId: c.backend.Identity.ClusterID, NodeId: uint64(c.backend.Identity.Node), Members: pb.FromMembers(v.Members), ClusterVersion: uint32(v.Version),
		Bootstrapped: v.Map != nil, Way: c.ups.current(),
	}, nil
}

var errNoCalls = status.Error(codes.Unimplemented, "peer: a gateway answers no calls of others: members do")

// TakesCalls implements peer.CallService.
func (c *chain) TakesCalls() error { return errNoCalls }

// ServeCalls implements peer.CallService.
func (c *chain) ServeCalls(shard.NodeID, pb.Peer_CallsServer) error { return errNoCalls }

// ServeLink implements peer.CallService.
func (c *chain) ServeLink(_ shard.NodeID, stream pb.Peer_LinkServer) error {
	err := c.passing.outlets.Serve(stream.Context(), stream)
	if err == nil || stream.Context().Err() != nil {
		return stream.Context().Err()
	}
	return status.Error(codes.Aborted, fmt.Sprint(err))
}
