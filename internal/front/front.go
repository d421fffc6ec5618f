package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"pontoon/internal/backend"
	"pontoon/internal/etcdapi"
	"pontoon/internal/gateway"
	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
	"pontoon/internal/recipes"
	"pontoon/internal/tlsport"
	"pontoon/internal/token"
	"pontoon/internal/tuning/linger"
	"pontoon/internal/underway"
	"pontoon/shard"
	"pontoon/shard/router"
	"pontoon/watchfanout"
)

// Front serves clients over a backend. Use Open, Run, Close, in this order and each once.
type Front struct {
	cfg     Config
	log     *slog.Logger
	backend *backend.Backend

	router *router.Router
	hub    *watchfanout.Hub
	feeds  *feeds
	// mirrors is nil where nothing is mirrored.
	mirrors *mirrors
	// chain is nil where this is no gateway.
	chain  *chain
	api    *etcdapi.API
	tokens *token.Tokens
	door   *door
	node   *node
	room   *underway.Room // for requests of clients
	lists  lists
	ports  ports

	retiring atomic.Bool // nobody is to begin to use this front

	ready   chan struct{}
	closers []func() error // what Close does, last first
}

// ports are the servers on the ports that clients know.
type ports struct {
	grpc    *grpc.Server
	inner   *grpc.Server // serves the loopback alone: it goes on while those who are connected to the other are asked to go elsewhere
	away    func()       // asks them; it returns when they are gone, or ports has been stopped
	http    *http.Server
	http2   *httpapi.HTTP2
	metrics *http.Server
	split   []*httpapi.Port // of those that take both
	own     *loopback
	queued  func() int // connections that nobody has accepted yet
}

// Open makes a front; nothing is served before Run. Errors name what could not be made; nothing is left then.
func Open(cfg Config) (*Front, error) {
	cfg.setDefaults()
	queued := httpapi.Queued(slices.Concat(cfg.Client, cfg.ClientHTTP))
	most, others := httpapi.Connections()
	clients, metrics := httpapi.NewRoom(most, cfg.Logger), httpapi.NewRoom(others, cfg.Logger)
	cfg.Client = httpapi.Secured(clients.Listeners(httpapi.Patients(cfg.Client, cfg.Logger), cfg.unacked()), cfg.TLS.Listen)
	cfg.ClientHTTP = httpapi.Secured(clients.Listeners(httpapi.Patients(cfg.ClientHTTP, cfg.Logger), 0), cfg.TLS.Listen)
	cfg.Metrics = httpapi.Secured(metrics.Listeners(httpapi.Patients(cfg.Metrics, cfg.Logger), 0), cfg.TLS.Listen)
	f := &Front{cfg: cfg, log: cfg.Logger, backend: cfg.Backend, ready: make(chan struct{}), ports: ports{queued: queued}}
	f.opened(func() error {
		return httpapi.CloseAll(slices.Concat(cfg.Client, cfg.ClientHTTP, cfg.Metrics, cfg.links()))
	})
	err := cfg.Validate()
	for _, step := range f.steps() {
		if err == nil {
			err = cfg.fault(step.name)
		}
		if err == nil {
			err = step.open()
		}
		if err != nil {
			return nil, fmt.Errorf("front: %w", errors.Join(err, f.Close()))
		}
	}
	return f, nil
}

type step struct {
	name string
	open func() error
}

// steps are those of Open, in order.
func (f *Front) steps() []step {
	return []step{
		{"router", f.openRouter}, {"hub", f.openHub}, {"api", f.openAPI}, {"door", f.openDoor}, {"ports", f.openPorts},
		{"metrics", f.registerMetrics},
	}
}

// opened notes how to close what has been opened.
func (f *Front) opened(undo func() error) { f.closers = append(f.closers, undo) }

// Close closes what is open, last first. Run has returned, or was never called.
func (f *Front) Close() error {
	var errs []error
	for _, undo := range slices.Backward(f.closers) {
		errs = append(errs, undo())
	}
	f.closers = nil
	return errors.Join(errs...)
}

// Ready is closed once clients are served.
func (f *Front) Ready() <-chan struct{} { return f.ready }

// Retire tells those who watch the node's health that it is about to go, and, where clients keep streams open, has clients connect elsewhere and
// ends these streams, one behind the other. Requests are served on, over the connections that are there.
func (f *Front) Retire(ctx context.Context) {
	f.retiring.Store(true)
	f.api.SetServing(false)
	f.feeds.moves.retire()
	f.chain.leave()
	endStreams(ctx, f)
	f.chain.awaitLeft(ctx)
}

// endStreams ends the streams of clients, one behind the other.
func endStreams(ctx context.Context, f *Front) {
	n := f.api.Streams()
	if n == 0 || f.cfg.DrainPeriod == 0 {
		return
	}
	f.log.Info("ending the streams of clients", "streams", n, "drain-period", f.cfg.DrainPeriod)
	go f.ports.away()
	began := time.Now()
	f.api.Drain(ctx, f.cfg.DrainPeriod)
	f.log.Info("ended the streams of clients", "streams", n, "took", time.Since(began))
}

// Run serves until ctx ends. It has no errors of its own: a front holds nothing that it could lose.
func (f *Front) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		f.followMap(ctx)
		return nil
	})
	f.serveMetrics(g)
	g.Go(func() error {
		if f.cfg.Await(ctx) == nil && ctx.Err() == nil {
			f.serveClients(g)
			f.api.SetServing(true)
			close(f.ready)
			f.chain.run(ctx, g)
			if f.mirrors != nil {
				g.Go(func() error {
					f.mirrors.set.Run(ctx)
					return nil
				})
			}
			if f.node.presence != nil {
				g.Go(func() error {
					f.node.presence.run(ctx)
					return nil
				})
			}
			g.Go(func() error {
				f.compact(ctx)
				return nil
			})
			g.Go(func() error {
				f.compareReplicas(ctx)
				return nil
			})
		}
		<-ctx.Done()
		f.drain()
		return nil
	})
	return g.Wait()
}

// followMap tells the hub of every new range map.
func (f *Front) followMap(ctx context.Context) {
	for {
		changed := f.backend.Cluster.Client.Changed()
		f.hub.MapChanged()
		if f.mirrors != nil {
			f.mirrors.set.MapChanged()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (f *Front) openRouter() (err error) {
	f.router, err = router.New(router.Config{
		Peers: f.backend.Peers, Cluster: f.backend.Cluster, Local: f.backend.Local, Patience: f.cfg.Patience, Logger: f.log, Listed: listed(f),
	})
	f.node = &node{backend: f.backend, router: f.router, listing: newSemaphore(listsAtOnce), members: f.cfg.Members, election: f.cfg.Election}
	return err
}

// listed is what the router tells of lists, if anybody is to know.
func listed(f *Front) func(id shard.RangeID, span shard.Span, bytes, sofar int) {
	if f.cfg.Mirror.AutoSize == 0 {
		return nil
	}
	return func(id shard.RangeID, span shard.Span, bytes, sofar int) {
		f.mirrors.set.Listed(id, span, bytes, sofar) // the router is asked when all is open
	}
}

// feedLinger is for how long a range's feed goes on that nobody watches any more: whoever has lost a connection is back by then.
const feedLinger = time.Minute

// openFeeds connects feeds with the hub, and with the mirrors and other gateways where there are any; elsewhere, as on members, nothing stands between. begin and end
// are the hub's hooks.
func openFeeds(f *Front) (begin, end func(shard.RangeID)) {
	hub := func(id shard.RangeID, item shard.FeedItem) { f.hub.Publish(id, item) }
	t := &tee{ranges: map[shard.RangeID]*teed{}}
	if f.cfg.Gateway != nil {
		f.chain = newChain(f.cfg.Gateway.Chain, f.backend, t, f.log)
		f.opened(f.chain.close)
	}
	passes := f.chain != nil && f.chain.passing != nil
	if !f.cfg.Mirror.some() && !passes {
		f.feeds = newFeeds(f.backend, f.chain, f.log, hub)
		f.feeds.narrow.wanted = func(id shard.RangeID) []shard.Span { return f.hub.Wanted(id) }
		return f.feeds.subscribe, f.feeds.unsubscribe
	}
	t.to[0] = hub
	f.feeds = newFeeds(f.backend, f.chain, f.log, t.publish)
	t.open, t.close, t.widen = f.feeds.subscribe, f.feeds.unsubscribe, f.feeds.narrow.widen
	f.feeds.narrow.wanted = func(id shard.RangeID) []shard.Span {
		if !t.onlyHub(id) {
			return nil
		}
		return f.hub.Wanted(id)
	}
	if f.cfg.Mirror.some() {
		f.mirrors = newMirrors(f.cfg.Mirror, f.backend, f.router, t, f.log)
		t.to[1] = f.mirrors.set.Publish
	}
	if passes {
		t.to[2] = f.chain.passing.publish
	}
	return t.subscriber(ofHub)
}

func (f *Front) openHub() error {
	begin, end := openFeeds(f)
	cluster := f.backend.Cluster
	f.hub = watchfanout.NewHub(watchfanout.Config{
		History:   &history{backend: f.backend},
		Closer:    f.backend.Closer,
		Current:   cluster.Current,
		RingBytes: f.cfg.RingBytes, DeliveryBytes: f.cfg.DeliveryBytes, FeedLinger: feedLinger,
		Map: cluster.Map, AskMap: cluster.Client.RefreshSoon, Subscribe: begin, Unsubscribe: end, Widen: f.feeds.narrow.widen,
		Logger: f.log,
	})
	f.opened(func() error {
		f.hub.Close()
		f.feeds.close()
		return nil
	})
	if f.cfg.Gateway != nil {
		f.node.presence = newPresence(f)
	}
	return nil
}

func (f *Front) openAPI() (err error) {
	n, a := f.node, f.cfg.Auth
	f.room = underway.NewRoom(f.cfg.RequestsMax, f.cfg.RequestsMaxBytes)
	if f.tokens, err = token.New(token.Config{Spec: a.Token, TTL: a.TokenTTL, CertificateNames: a.CertificateNames, Logger: f.log}); err != nil {
		return err
	}
	f.lists.room, f.lists.who = underway.NewLists(f.cfg.ListsMaxBytes), asks(accessOf(f.backend), f.tokens)
	if f.mirrors != nil {
		f.mirrors.admit(&f.lists)
	}
	var beats etcdapi.Beats
	if f.cfg.DeliveryLinger > 0 {
		beats = linger.New(linger.Config{Max: f.cfg.DeliveryLinger, Untimed: true})
	}
	f.api, err = etcdapi.New(etcdapi.Config{
		Beats: beats,
		KV:    bounded{f.router, f.room, &f.lists, f.mirrors}, Leases: &leases{client: f.backend.Cluster.Client, router: f.router},
		Watch:   func(o watchfanout.StreamOptions) etcdapi.WatchStream { return f.hub.NewStream(o) },
		Cluster: n, Maintenance: newMaintenance(n, f.log), Snapshots: f.cfg.Snapshots, Header: n, Leadership: n, Learner: n.stillLearner,
		Settings: f.backend.Cluster.Client.Settings,
		Access:   accessOf(f.backend), Tokens: f.tokens, Passwords: token.NewPasswords(a.BcryptCost, f.log),
		MaxRequestBytes: f.cfg.MaxRequestBytes, MaxTxnOps: f.cfg.MaxTxnOps, MaxConcurrentStreams: f.cfg.MaxConcurrentStreams,
		ProgressInterval: f.cfg.ProgressInterval, ElectionTimeout: f.cfg.Election, OrphanStreams: f.cfg.OrphanStreams, SlowRequest: f.cfg.SlowRequest,
		Registerer: f.cfg.Registry, ExtensiveMetrics: f.cfg.ExtensiveMetrics, Logger: f.log,
	})
	if err == nil {
		f.backend.Cluster.Client.OnSettings(f.api.AccessChanged)
	}
	return err
}

func (f *Front) openDoor() error {
	f.door = newDoor(f.backend, f.api.Door(), f.tokens, f.cfg.Election, f.cfg.Patience, f.log)
	f.opened(f.door.close)
	return nil
}

// headerTimeout bounds how long an HTTP client may take to send its request's header.
const headerTimeout = 10 * time.Second

// jsonFactor is how much larger than a message its JSON may be: bytes grow by a third, and there are names.
const jsonFactor = 2

func (f *Front) openPorts() error {
	opts := append(f.api.ServerOptions(),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: f.cfg.KeepAliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: f.cfg.KeepAliveInterval, Timeout: f.cfg.KeepAliveTimeout,
			MaxConnectionAge: f.cfg.MaxConnectionAge, MaxConnectionAgeGrace: f.cfg.MaxConnectionAgeGrace,
		}),
	)
	if f.cfg.TLS != nil {
		opts = append(opts, grpc.Creds(tlsport.Accepted()))
	}
	f.ports.grpc, f.ports.inner = grpc.NewServer(opts...), grpc.NewServer(f.api.ServerOptions()...)
	f.ports.away = sync.OnceFunc(f.ports.grpc.GracefulStop)
	peer.NewRoutingServer(f.backend.Identity, f.door).Register(f.ports.grpc)
	if err := f.openLoopback(); err != nil {
		return err
	}
	f.api.Register(f.ports.grpc)
	f.api.Register(f.ports.inner)
	if err := errors.Join(judged(f.ports.grpc), judged(f.ports.inner)); err != nil {
		return err
	}
	h, err := f.clientHandler()
	if err != nil {
		return err
	}
	f.ports.http = &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
	f.ports.http2 = httpapi.NewHTTP2(f.ports.http, f.cfg.MaxConcurrentStreams)
	f.ports.metrics = &http.Server{Handler: httpapi.NewMetrics(f.httpConfig()), ReadHeaderTimeout: headerTimeout}
	if len(f.cfg.ClientHTTP) == 0 {
		for _, l := range f.cfg.Client {
			f.ports.split = append(f.ports.split, httpapi.NewPort(l))
		}
	}
	f.opened(func() error {
		f.ports.stop()
		return nil
	})
	return nil
}

// openLoopback opens the node's own way to its gRPC server, and what goes by it, before that server serves.
func (f *Front) openLoopback() (err error) {
	if f.ports.own, err = newLoopback(); err != nil {
		return err
	}
	f.opened(f.ports.own.close)
	r := recipes.New(f.ports.own.conn)
	f.opened(r.Close)
	r.Register(f.ports.grpc)
	r.Register(f.ports.inner)
	return nil
}

// clientHandler serves HTTP on the ports for clients.
func (f *Front) clientHandler() (http.Handler, error) {
	cfg := f.httpConfig()
	if f.cfg.JSON {
		gw, err := gateway.New(f.ports.own.conn, jsonFactor*f.api.MessageBytesMax())
		if err != nil {
			return nil, err
		}
		f.opened(gw.Close)
		cfg.JSON = gw
	}
	return httpapi.New(cfg), nil
}

func (f *Front) httpConfig() httpapi.Config {
	changes := &ops{client: f.backend.Cluster.Client, admission: f.api.Door(), members: f.node.member}
	var starved func() int
	if f.chain != nil { // members go by the leaders of what they hold
		starved = f.feeds.starved
	}
	return httpapi.Config{
		Starved: starved,
		Allow:   (&privileged{access: accessOf(f.backend), tokens: f.tokens, names: f.cfg.Auth.CertificateNames, json: f.cfg.JSON}).Allow,
		Health:  health{f.node}, Ranges: f.node, Meta: f.node.Meta, Transfers: &transfers{node: f.node, admission: f.api.Door()},
		Ops: changes, Borders: changes,
		Gateways: gatewayList{f.backend.Cluster.Client},
		Plans:    &plans{client: f.backend.Cluster.Client, admission: f.api.Door(), names: f.node.names}, Nodes: f.node.Nodes, Drains: &drains{client: f.backend.Cluster.Client}, Gatherer: f.cfg.Registry, Registerer: f.cfg.Registry,
		ClusterVersion: f.node.clusterVersion, Stopping: f.retiring.Load,
		Pprof: f.cfg.Pprof, CORS: f.cfg.CORS, Hosts: f.cfg.Hosts,
		RequestTimeout: f.cfg.Patience, Logger: f.log,
	}
}

// loop runs an accept loop. Its listener is patient: it ends when it is told to.
func (f *Front) loop(g *errgroup.Group, what string, run func() error) {
	g.Go(func() error {
		err := run()
		if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			f.log.Error("a port is not served any more", "port", what, "error", err)
		}
		return nil
	})
}

// serveMetrics opens the metrics URLs, which answer from the start: a node that waits for a
// quorum can be watched doing so.
func (f *Front) serveMetrics(g *errgroup.Group) {
	for _, l := range f.cfg.Metrics {
		f.log.Info("serving metrics", "url", l.URL)
		f.loop(g, "metrics "+l.URL, func() error { return f.ports.metrics.Serve(l) })
	}
}

// serveClients opens the client ports.
func (f *Front) serveClients(g *errgroup.Group) {
	f.loop(g, "loopback", func() error { return f.ports.inner.Serve(f.ports.own.listener) })
	for i, l := range f.cfg.Client {
		traffic := "grpc"
		if len(f.ports.split) == 0 {
			f.loop(g, "client "+l.URL, func() error { return f.ports.grpc.Serve(l) })
		} else {
			traffic = "grpc+http"
			port := f.ports.split[i]
			f.loop(g, "client "+l.URL, port.Run)
			f.loop(g, "client gRPC "+l.URL, func() error { return f.ports.grpc.Serve(port.GRPC()) })
			f.loop(g, "client HTTP "+l.URL, func() error { return f.ports.http.Serve(port.HTTP()) })
			f.loop(g, "client HTTP/2 "+l.URL, func() error { return f.ports.http2.Serve(port.HTTP2()) })
		}
		f.announce(traffic, l)
	}
	for _, l := range f.cfg.ClientHTTP {
		f.loop(g, "http "+l.URL, func() error { return f.ports.http.Serve(l) })
		f.announce("http", l)
	}
}

// announce says in the log that a port is served.
func (f *Front) announce(traffic string, l httpapi.Listener) {
	address := l.Addr().String()
	if l.TLS {
		f.log.Info("serving client traffic securely", "traffic", traffic, "address", address)
	}
	if l.Plain || !l.TLS {
		f.log.Info("serving client traffic insecurely; this is strongly discouraged outside of a trusted network", "traffic", traffic, "address", address)
	}
}

// drain ends client traffic: streams are told, calls under way get a moment.
func (f *Front) drain() {
	f.api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), f.cfg.Grace)
	defer cancel()
	done := make(chan struct{})
	go func() {
		f.door.mesh.Farewell(ctx) // its streams end by nothing else
		f.ports.drainHTTP(ctx, f.cfg.Grace/2)
		f.ports.inner.GracefulStop()
		f.ports.away()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		f.ports.inner.Stop()
		f.ports.grpc.Stop()
		<-done
	}
	f.ports.stop()
}

// drainHTTP lets requests end that are under way by HTTP, before the server that some of them ask ends.
func (p *ports) drainHTTP(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = p.http.Shutdown(ctx) // what is left is closed later
}

// stop ends everything at once. Of HTTP connections only idle ones are left: nothing can be lost.
func (p *ports) stop() {
	p.inner.Stop()
	p.grpc.Stop()
	_ = p.http.Close()
	p.http2.Close()
	for _, port := range p.split {
		_ = port.Close()
	}
	_ = p.metrics.Close()
}
