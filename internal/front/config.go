package front

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/backend"
	"pontoon/internal/compactor"
	"pontoon/internal/corruption"
	"pontoon/internal/etcdapi"
	"pontoon/internal/httpapi"
	"pontoon/internal/tlsport"
)

// Config is what a front is built of. The listeners are the front's from Open on, whatever Open returns. Zero
// values take the defaults; without one a field is required.
type Config struct {
	Backend *backend.Backend
	// Await returns when there is something to serve, and the cluster's settings are known, or with ctx: then the ports for clients are opened.
	Await func(ctx context.Context) error

	Client     []httpapi.Listener // gRPC, and HTTP too unless ClientHTTP is set
	ClientHTTP []httpapi.Listener
	Metrics    []httpapi.Listener
	// TLS is that of the listeners which speak it. Nil where none does.
	TLS *tlsport.Endpoint

	Election time.Duration // default 1 s
	// Patience bounds a request whose client set no deadline: default etcd's formula, 5 s and two election
	// timeouts.
	Patience time.Duration
	// DrainPeriod bounds how long a stop takes to end the streams of clients, one behind the other; 0: all end at once.
	DrainPeriod time.Duration
	// OrphanStreams is for how long a watch's stream stays open while nothing can come on it; 0: for ever.
	OrphanStreams time.Duration
	// Grace is what calls under way get when the front stops. Default 500 ms.
	Grace time.Duration

	// Compaction is how much history is kept, while this node leads the meta group. The zero value keeps all.
	Compaction compactor.Plan
	// Corruption is when this node compares replicas: its own at the start, all while it leads the meta group. The zero value is never.
	Corruption corruption.Plan

	// Snapshots makes files of the whole store. Nil: there are none.
	Snapshots etcdapi.Snapshots
	// Auth says who requests come from.
	Auth AuthConfig

	// Gateway says that this process holds nothing and belongs to the gateways. Nil: it does not.
	Gateway *GatewayConfig

	// Mirror is what is answered from memory. The zero value is nothing.
	Mirror MirrorConfig

	// Members are the rules by which this node has the members changed.
	Members MemberRules

	// RequestsMax and RequestsMaxBytes bound the requests of clients that are under way. Defaults underway.RoomCount and underway.RoomBytes.
	RequestsMax      int
	RequestsMaxBytes int64
	// ListsMaxBytes bounds the large lists that are put together at a time. Default underway.ListsBytes.
	ListsMaxBytes int64

	MaxRequestBytes      int
	MaxTxnOps            int
	MaxConcurrentStreams uint32
	ProgressInterval     time.Duration
	RingBytes            int           // bounds what is remembered of events, for watches that come back; 0: nothing is
	DeliveryBytes        int           // bounds what waits to be sent to watchers; 0: the hub's default
	DeliveryLinger       time.Duration // how long what watchers are due may wait for more, where processors are short; 0: it does not
	KeepAliveMinTime     time.Duration // the least pause between a client's pings; default 5 s
	KeepAliveInterval    time.Duration // how often an idle client is pinged; default 2 h
	KeepAliveTimeout     time.Duration // default 20 s
	// MaxConnectionAge is when a client of gRPC is asked to connect anew, a tenth more or less; 0: never. MaxConnectionAgeGrace is how long what is
	// under way on its connection may go on then; required with it.
	MaxConnectionAge, MaxConnectionAgeGrace time.Duration

	SlowRequest time.Duration // from when on a unary request is logged; default 300 ms

	Pprof            bool
	JSON             bool // serves the API under /v3/
	ExtensiveMetrics bool
	CORS, Hosts      []string // see httpapi.Config

	// Registry takes the front's metrics and is served. Default: a new one.
	Registry *prometheus.Registry
	Logger   *slog.Logger

	// fault fails a step of Open, in tests.
	fault func(step string) error
}

// MemberRules are what flags say of changes of the members.
type MemberRules struct {
	// Strict refuses what could cost a majority.
	Strict bool
	// LearnersMax is how many learners there may be; 0: any number.
	LearnersMax uint32
}

// links are the listeners for other gateways.
func (c *Config) links() []httpapi.Listener {
	if c.Gateway == nil {
		return nil
	}
	return c.Gateway.Chain.Links
}

func (c *Config) setDefaults() {
	orDefault(&c.Election, time.Second)
	orDefault(&c.Patience, 5*time.Second+2*c.Election)
	orDefault(&c.Grace, 500*time.Millisecond)
	orDefault(&c.KeepAliveMinTime, 5*time.Second)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.fault == nil {
		c.fault = func(string) error { return nil }
	}
}

func orDefault(v *time.Duration, def time.Duration) {
	if *v <= 0 {
		*v = def
	}
}

// unacked is how long data of a client's connection may stay unacknowledged: on a port for gRPC alone, as gRPC does
// there; on one that serves both it never did.
func (c *Config) unacked() time.Duration {
	if len(c.ClientHTTP) == 0 {
		return 0
	}
	return cmp.Or(c.KeepAliveTimeout, 20*time.Second)
}

// Validate names the first thing that is missing.
func (c *Config) Validate() error {
	b := c.Backend
	switch {
	case b == nil || b.Peers == nil || b.Cluster == nil || b.Local == nil || b.Feeds == nil || b.Closer == nil:
		return errors.New("a whole backend is required")
	case c.Await == nil:
		return errors.New("Await is required")
	case c.TLS == nil && slices.ContainsFunc(slices.Concat(c.Client, c.ClientHTTP, c.Metrics), func(l httpapi.Listener) bool { return l.TLS }):
		return errors.New("a certificate is required")
	}
	return nil
}
