package httpapi

import (
	"context"
	"encoding/json"
	"expvar"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ServerVersion is the version of etcd's API that is spoken.
const ServerVersion = "3.7.3"

// VersionUndecided is the cluster version while no quorum has been seen.
const VersionUndecided = "not_decided"

// Config is what the handlers need.
type Config struct {
	// Health answers the health checks; may block up to the context's end.
	Health Health
	// Ranges lists the ranges; nil serves none.
	Ranges RangeLister
	// Meta tells where the meta group is, as far as this node has heard; nil serves none. It must not block.
	Meta func() Range
	// Transfers moves leaders of ranges; nil serves none.
	Transfers Transferrer
	// Ops changes the ranges; nil serves none.
	Ops Ops
	// Borders takes back that a border is to stay; nil: nobody can.
	Borders Borders
	// Plans tells what the planner would do; nil serves none.
	Plans Planner
	// Gateways lists the processes without replicas; nil serves none.
	Gateways GatewayLister
	// Nodes lists the members as gossip sees them, by id; nil serves none. It must not block.
	Nodes func() []Node
	// Drains marks members that are to be emptied; nil serves none.
	Drains Drainer
	// Allow says why a request is refused, and with which status; nil refuses none.
	Allow func(r *http.Request) (status int, err error)
	// JSON serves etcd's API under /v3/; nil serves none.
	JSON http.Handler
	// Gatherer is served as /metrics.
	Gatherer prometheus.Gatherer
	// Registerer takes the counters of health checks, and of those who ask for metrics; nil counts nothing.
	Registerer prometheus.Registerer
	// ClusterVersion is "3.7.0", or VersionUndecided; must not block.
	ClusterVersion func() string
	// Stopping reports whether nobody is to begin to use this server; must not block.
	Stopping func() bool
	// Starved is of how many ranges feeds are wanted here, and nobody is found who has them; must not block. Nil: none.
	Starved func() int
	// Pprof serves /debug/pprof.
	Pprof bool
	// CORS lists the origins that browsers may come from; "*" or none allows all.
	CORS []string
	// Hosts lists the host names that requests may name; "*" or none allows all.
	Hosts []string
	// RequestTimeout bounds a health check. Default 7 s, etcd's with its default election timeout.
	RequestTimeout time.Duration
	// Logger gets failed checks. Required.
	Logger *slog.Logger
}

// Range is one range as /pontoon/v1/ranges shows it.
type Range struct {
	ID         uint64    `json:"id"`
	Start      []byte    `json:"start"`
	End        []byte    `json:"end"` // empty: to the last key
	StartText  string    `json:"start_text"`
	EndText    string    `json:"end_text"`
	Generation uint64    `json:"generation"`
	Leader     uint64    `json:"leader"` // node id, 0 when unknown
	Term       uint64    `json:"term"`
	Replicas   []Replica `json:"replicas"`
	Keys       int64     `json:"keys"`
	Size       int64     `json:"size"`
	SizeInUse  int64     `json:"size_in_use"`
	Revision   int64     `json:"revision"`
	Applied    uint64    `json:"applied"`
	Quiescent  bool      `json:"quiescent"`
	// Sticky: the border at Start is to stay, because somebody has asked for it; the planner does not merge it away.
	Sticky      bool   `json:"sticky"`
	StickyUntil string `json:"sticky_until,omitempty"` // RFC 3339; absent: until it is taken back
}

// Replica is one copy of a range.
type Replica struct {
	Replica uint64 `json:"replica"`
	Node    uint64 `json:"node"`
	Name    string `json:"name"`
	// State is empty for a replica that serves, as far as the node that answers knows; it knows of
	// its own: "rebuilding" is one that was damaged and waits for its state.
	State string `json:"state,omitempty"`
}

// Node is one member as /pontoon/v1/nodes shows it: a hint, from where the answering node stands.
type Node struct {
	Node     uint64 `json:"node"`
	Name     string `json:"name"`
	Address  string `json:"address"` // of its peer port
	Locality string `json:"locality,omitempty"`
	State    string `json:"state"` // alive, suspect (no connection from here) or dead
	Since    string `json:"since,omitempty"`
}

// RangeLister lists all ranges of the cluster in key order. It may ask other nodes, up to the
// context's end; what nobody answered stays zero.
type RangeLister interface {
	Ranges(ctx context.Context) ([]Range, error)
}

// New returns the handler for the client URLs.
func New(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mountBasics(mux, &cfg)
	mux.HandleFunc("/version", cfg.serveVersion)
	mux.Handle("/debug/vars", expvar.Handler())
	mux.HandleFunc("/pontoon/v1/ranges", cfg.serveRanges)
	mux.HandleFunc("/pontoon/v1/nodes", cfg.serveNodes)
	if cfg.Meta != nil {
		mux.HandleFunc("GET /pontoon/v1/meta", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, cfg.Meta()) })
	}
	if cfg.Drains != nil {
		mux.HandleFunc("GET /pontoon/v1/nodes/{node}", cfg.servePlacement)
		mux.HandleFunc("POST /pontoon/v1/nodes/{node}/drain", cfg.serveDrain)
		mux.HandleFunc("POST /pontoon/v1/nodes/{node}/undrain", cfg.serveUndrain)
	}
	if cfg.Transfers != nil {
		mux.HandleFunc("POST /pontoon/v1/ranges/{id}/leader", cfg.serveTransfer)
	}
	if cfg.Ops != nil {
		mux.HandleFunc("POST /pontoon/v1/ops", cfg.serveBeginOp)
		mux.HandleFunc("GET /pontoon/v1/ops", cfg.serveOps)
		mux.HandleFunc("GET /pontoon/v1/ops/{id}", cfg.serveOp)
	}
	if cfg.Borders != nil {
		mux.HandleFunc("POST /pontoon/v1/ranges/unstick", cfg.serveUnstick)
	}
	if cfg.Plans != nil {
		mux.HandleFunc("GET /pontoon/v1/plan", cfg.servePlan)
	}
	if cfg.Gateways != nil {
		mux.HandleFunc("GET /pontoon/v1/gateways", cfg.serveGateways)
	}
	if cfg.JSON != nil {
		mux.Handle("/v3/", cfg.JSON)
	}
	if cfg.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return cfg.guard(mux)
}

// NewMetrics returns the handler for the metrics URLs: metrics and health alone. It counts its
// checks together with those of New where both have the same Registerer.
func NewMetrics(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mountBasics(mux, &cfg)
	return mux
}

func mountBasics(mux *http.ServeMux, cfg *Config) {
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 7 * time.Second
	}
	metrics := promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{})
	if cfg.Registerer != nil { // how often it is asked for, too
		metrics = promhttp.InstrumentMetricHandler(cfg.Registerer, metrics)
	}
	mux.Handle("/metrics", metrics)
	mountHealth(mux, cfg)
}

// guard checks the host that a request names, unless it came by TLS, and answers browsers' questions about origins.
func (cfg *Config) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := hostOnly(r.Host); r.TLS == nil && !allowed(cfg.Hosts, host) {
			cfg.Logger.Warn("rejecting HTTP request to prevent DNS rebinding attacks", "host", host)
			http.Error(w, fmt.Sprintf(unknownHost, host), http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		origin := r.Header.Get("Origin")
		switch {
		case allowed(cfg.CORS, "*"):
			h.Set("Access-Control-Allow-Origin", "*")
		case origin != "" && allowed(cfg.CORS, origin):
			h.Set("Access-Control-Allow-Origin", origin)
		}
		if h.Get("Access-Control-Allow-Origin") != "" {
			h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
			h.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
		}
		if r.Method == http.MethodOptions {
			return
		}
		r = underV3(r)
		if cfg.Allow != nil {
			if status, err := cfg.Allow(r); err != nil {
				http.Error(w, err.Error(), status)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// unknownHost is etcd's text, which tells how to get in.
const unknownHost = `
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist %q

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).
`

// underV3 is a request by the path that it has today, if it names the one of a time when the API was new.
func underV3(r *http.Request) *http.Request {
	rest, old := strings.CutPrefix(r.URL.Path, "/v3beta/")
	if !old {
		return r
	}
	out, u := *r, *r.URL
	u.Path, u.RawPath = "/v3/"+rest, ""
	out.URL = &u
	return &out
}

func allowed(list []string, what string) bool {
	return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, what)
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// onlyGet refuses other methods as etcd does.
func onlyGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

type versions struct {
	Server  string `json:"etcdserver"`
	Cluster string `json:"etcdcluster"`
	Storage string `json:"storage"`
}

func (cfg *Config) serveVersion(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	v := versions{Server: ServerVersion, Cluster: VersionUndecided, Storage: "unknown"}
	if cv := cfg.ClusterVersion(); cv != VersionUndecided {
		v.Cluster, v.Storage = cv, cv
	}
	writeJSON(w, v)
}

func (cfg *Config) serveRanges(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	rs := []Range{}
	if cfg.Ranges != nil {
		ctx, cancel := context.WithTimeout(r.Context(), cfg.RequestTimeout)
		defer cancel()
		var err error
		if rs, err = cfg.Ranges.Ranges(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	writeJSON(w, rs)
}

func (cfg *Config) serveNodes(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	ns := []Node{}
	if cfg.Nodes != nil {
		ns = append(ns, cfg.Nodes()...)
	}
	writeJSON(w, ns)
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // a client that is gone is nobody's error
}
