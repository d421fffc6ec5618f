package etcdapi

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"pontoon/internal/admission"
	"pontoon/internal/token"
	"pontoon/placement"
	"pontoon/shard"
	"pontoon/watchfanout"
)

// Version is the etcd API level that is spoken. kube-apiserver decides by it whether it may
// ask for watch progress.
var Version = version.Version

const (
	defaultMaxRequestBytes = 1536 * 1024
	// requestOverheadBytes is what gRPC may receive beyond MaxRequestBytes, as in etcd: the
	// finer check then answers with etcd's error instead of gRPC's.
	requestOverheadBytes = 512 * 1024

	// Flow control windows are fixed: a window that follows the connection's delay costs a ping and a
	// window update per round trip of every connection, which is more than the requests themselves
	// where those are small. A whole request of the usual limits fits into the stream's.
	streamWindow     = defaultMaxRequestBytes + requestOverheadBytes
	connectionWindow = 16 << 20

	// writeBuffer is what goes to a connection in one system call, if so much is waiting. It is taken from a
	// pool for as long as something is, which with a client that takes nothing is for ever. Four times as much
	// delivers a tenth less of events of 10 KiB: it is copied, and too large for a processor's own memory.
	writeBuffer = 32 << 10

	// streamWorkers run the handlers of calls: their stacks have grown already. Beyond them a call gets a
	// goroutine of its own.
	streamWorkers = 256

	defaultMaxTxnOps        = 128
	defaultProgressInterval = 10 * time.Minute
	minProgressInterval     = 100 * time.Millisecond
	defaultElectionTimeout  = time.Second
	defaultSlowRequest      = 300 * time.Millisecond
)

// Config names the parts and limits of an API. It is copied.
type Config struct {
	KV          KV
	Leases      Leases
	Watch       func(watchfanout.StreamOptions) WatchStream // the hub's NewStream
	Cluster     Cluster
	Maintenance Maintenance
	Snapshots   Snapshots // nil: there are none, as where nothing can be written
	Header      Header
	// Leadership may be nil: then there always is a leader.
	Leadership Leadership
	// Learner tells whether this node is a learner among the members, which refuses most requests. It is asked for each, and blocks at most where
	// the node was one. nil: it never is.
	Learner func(ctx context.Context) bool

	// Settings are the newest of the cluster that the node knows; it must not block. nil: no alarm is ever raised.
	Settings func() *placement.Settings
	// Access says what is known of users and roles; nil: nothing is asked for, and there are none.
	Access Access
	// Tokens says who requests come from, and Passwords who logs in; both are required with Access.
	Tokens    *token.Tokens
	Passwords *token.Passwords

	// MaxRequestBytes bounds a write request. Default 1.5 MiB.
	MaxRequestBytes int
	// MaxTxnOps bounds each list of a transaction. Default 128.
	MaxTxnOps int
	// MaxConcurrentStreams per client connection. Default: no limit.
	MaxConcurrentStreams uint32
	// Beats bring the moments at which what watchers are due is sent; nil: it is sent at once.
	Beats Beats
	// ProgressInterval is the pause between two progress notifications of a quiet watch, with
	// up to a tenth added at random. Default 10 min, at least 100 ms.
	ProgressInterval time.Duration
	// ElectionTimeout is how long the lead may be vacant three times in a row before streams
	// that ask for a leader are ended. Default 1 s.
	ElectionTimeout time.Duration
	// OrphanStreams is for how long streams may stay open that do not ask for a leader, while there is none; they end with Unavailable then, half of it later at
	// most. 0: they stay, as in etcd.
	OrphanStreams time.Duration
	// LeaseTimeout bounds a lease request whose client set no deadline. Default 5 s plus two
	// election timeouts. KV requests are bounded by KV itself.
	LeaseTimeout time.Duration
	// SlowRequest is the duration from which a unary request is logged as a warning. Default 300 ms.
	SlowRequest time.Duration

	// Registerer takes the metrics; nil: none are kept.
	Registerer prometheus.Registerer
	// ExtensiveMetrics adds the histogram of handling times.
	ExtensiveMetrics bool
	Logger           *slog.Logger
}

func (c *Config) setDefaults() {
	if c.MaxRequestBytes <= 0 {
		c.MaxRequestBytes = defaultMaxRequestBytes
	}
	if c.MaxTxnOps <= 0 {
		c.MaxTxnOps = defaultMaxTxnOps
	}
	if c.MaxConcurrentStreams == 0 {
		c.MaxConcurrentStreams = math.MaxUint32
	}
	if c.ProgressInterval <= 0 {
		c.ProgressInterval = defaultProgressInterval
	}
	c.ProgressInterval = max(c.ProgressInterval, minProgressInterval)
	if c.ElectionTimeout <= 0 {
		c.ElectionTimeout = defaultElectionTimeout
	}
	if c.LeaseTimeout <= 0 {
		c.LeaseTimeout = 5*time.Second + 2*c.ElectionTimeout
	}
	if c.SlowRequest <= 0 {
		c.SlowRequest = defaultSlowRequest
	}
	if c.Leadership == nil {
		c.Leadership = alwaysLed{}
	}
	if c.Learner == nil {
		c.Learner = func(context.Context) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) door() *admission.Door {
	return admission.New(admission.Limits{MaxRequestBytes: c.MaxRequestBytes, MaxTxnOps: c.MaxTxnOps})
}

// Validate names the first required part that is missing.
func (c *Config) Validate() error {
	parts := []struct {
		name    string
		missing bool
	}{
		{"Tokens", c.Access != nil && c.Tokens == nil}, {"Passwords", c.Access != nil && c.Passwords == nil},
		{"KV", c.KV == nil}, {"Leases", c.Leases == nil}, {"Watch", c.Watch == nil},
		{"Cluster", c.Cluster == nil}, {"Maintenance", c.Maintenance == nil}, {"Header", c.Header == nil},
	}
	for _, p := range parts {
		if p.missing {
			return fmt.Errorf("etcdapi: %w: Config.%s is required", shard.ErrInvalid, p.name)
		}
	}
	return nil
}

type alwaysLed struct{}

func (alwaysLed) HasLeader([]shard.Span) bool { return true }

// API serves etcd's services. Safe for concurrent use.
type API struct {
	cfg     Config
	door    *admission.Door
	log     *slog.Logger
	metrics *metrics
	figures *figures
	turned  *turnFigures
	health  *health.Server
	guard   Guard
	turns   turnQueue // of watch streams
	streams streamSet // those of watches
	endless endless   // these, and those of keep-alives

	connections connections // with watch streams
	questions   questions   // of these
}

// New returns an API. It starts nothing.
func New(cfg Config) (*API, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	a := &API{cfg: cfg, door: cfg.door(), log: cfg.Logger, health: health.NewServer(), guard: NewGuard(cfg.Access, cfg.Tokens, cfg.Settings, cfg.KV.Current)}
	a.metrics, a.figures, a.turned = newMetrics(cfg.Registerer, cfg.ExtensiveMetrics), newFigures(cfg.Registerer), newTurnFigures(cfg.Registerer)
	a.questions.init(a.current, a.log)
	a.SetServing(false)
	return a, nil
}

// NewKV returns the KV service alone, to be called in process instead of over a connection. Of
// cfg only KV, Header and the limits of a request are used.
func NewKV(cfg Config) (etcdserverpb.KVServer, error) {
	if cfg.KV == nil || cfg.Header == nil {
		return nil, fmt.Errorf("etcdapi: %w: Config.KV and Config.Header are required", shard.ErrInvalid)
	}
	cfg.setDefaults()
	return &kvServer{api: &API{cfg: cfg, door: cfg.door(), log: cfg.Logger, guard: NewGuard(nil, nil, cfg.Settings, cfg.KV.Current)}}, nil
}

// Door is what this API lets requests in through; so must all that reach the same store in another way.
func (a *API) Door() *admission.Door { return a.door }

// MessageBytesMax bounds what is received of a message: a larger one never comes to a service.
func (a *API) MessageBytesMax() int { return a.cfg.MaxRequestBytes + requestOverheadBytes }

// ServerOptions are the options that a server which registers this API must be made with:
// limits, codec and interceptors.
func (a *API) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec(a.metrics)),
		grpc.ChainUnaryInterceptor(a.logUnary, a.metrics.unary, a.recoverUnary, a.checkUnary),
		grpc.StreamInterceptor(a.interceptStream),
		grpc.MaxRecvMsgSize(a.MessageBytesMax()),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(a.cfg.MaxConcurrentStreams),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.WriteBufferSize(writeBuffer),
	}
}

// Register adds every service to s: etcd's six, gRPC health and reflection.
func (a *API) Register(s *grpc.Server) {
	(&kvServer{api: a}).register(s)
	etcdserverpb.RegisterWatchServer(s, &watchServer{api: a})
	etcdserverpb.RegisterLeaseServer(s, &leaseServer{api: a})
	etcdserverpb.RegisterClusterServer(s, &clusterServer{api: a})
	etcdserverpb.RegisterMaintenanceServer(s, &maintenanceServer{api: a})
	etcdserverpb.RegisterAuthServer(s, &authServer{api: a})
	healthpb.RegisterHealthServer(s, a.health)
	registerReflection(s)
	a.metrics.initialise(s)
}

// SetServing tells gRPC health clients whether this node serves. A new API does not.
func (a *API) SetServing(serving bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		st = healthpb.HealthCheckResponse_SERVING
	}
	for _, name := range append([]string{""}, serviceNames...) {
		a.health.SetServingStatus(name, st)
	}
}

var serviceNames = []string{
	etcdserverpb.KV_ServiceDesc.ServiceName,
	etcdserverpb.Watch_ServiceDesc.ServiceName,
	etcdserverpb.Lease_ServiceDesc.ServiceName,
	etcdserverpb.Cluster_ServiceDesc.ServiceName,
	etcdserverpb.Maintenance_ServiceDesc.ServiceName,
}

// header makes a response header; revision 0 takes the newest one that this node knows.
func (a *API) header(revision int64) *etcdserverpb.ResponseHeader {
	h := &etcdserverpb.ResponseHeader{}
	a.fillHeader(h, revision)
	return h
}

func (a *API) fillHeader(h *etcdserverpb.ResponseHeader, revision int64) {
	if revision == 0 {
		revision = a.cfg.Header.Revision()
	}
	h.ClusterId = a.cfg.Header.ClusterID()
	h.MemberId = a.cfg.Header.MemberID()
	h.Revision = revision
	h.RaftTerm = a.cfg.Header.Term()
}
