package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Health is what the checks ask. Only Read may block.
type Health interface {
	// Alarms names the raised alarms: "NOSPACE", "CORRUPT".
	Alarms() []string
	// HasLeader tells whether the meta group's leader is known.
	HasLeader() bool
	// Learner tells whether this node does not vote.
	Learner() bool
	// Read reads at most one key: locally when serializable, else with all guarantees. Its
	// error's text is shown to clients.
	Read(ctx context.Context, serializable bool) error
}

// check is one named check.
type check struct {
	name string
	run  func(ctx context.Context) error
	// quiet says nothing where it passes: etcd has no such check, and what it says is read by scripts.
	quiet bool
}

// counters are etcd's metrics of health checks; nil counts nothing.
type counters struct {
	success, failures prometheus.Counter
	gauge             *prometheus.GaugeVec
	total             *prometheus.CounterVec
}

func newCounters(reg prometheus.Registerer) *counters {
	if reg == nil {
		return nil
	}
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "etcd", Subsystem: "server", Name: name, Help: help}
	}
	c := &counters{
		success:  prometheus.NewCounter(prometheus.CounterOpts(opts("health_success", "Health checks that succeeded."))),
		failures: prometheus.NewCounter(prometheus.CounterOpts(opts("health_failures", "Health checks that failed."))),
		gauge:    prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("healthcheck", "Last result of each check: 1 is good.")), []string{"type", "name"}),
		total:    prometheus.NewCounterVec(prometheus.CounterOpts(opts("healthchecks_total", "Checks made.")), []string{"type", "name", "status"}),
	}
	c.success = register(reg, c.success)
	c.failures = register(reg, c.failures)
	c.gauge = register(reg, c.gauge)
	c.total = register(reg, c.total)
	return c
}

// register returns the collector that is registered already where there is one.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var dup prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &dup) {
		if old, ok := dup.ExistingCollector.(C); ok {
			return old
		}
	}
	return c
}

func (c *counters) health(good bool) {
	switch {
	case c == nil:
	case good:
		c.success.Inc()
	default:
		c.failures.Inc()
	}
}

func (c *counters) check(kind, name string, err error) {
	if c == nil {
		return
	}
	status, value := "success", 1.0
	if err != nil {
		status, value = "error", 0
	}
	c.gauge.WithLabelValues(kind, name).Set(value)
	c.total.WithLabelValues(kind, name, status).Inc()
}

func mountHealth(mux *http.ServeMux, cfg *Config) {
	h := &healthHandler{cfg: cfg, counters: newCounters(cfg.Registerer)}
	mux.HandleFunc("/health", h.serveHealth)
	h.mount(mux, "livez", []check{{name: "serializable_read", run: h.read(true)}})
	h.mount(mux, "readyz", []check{
		{name: "data_corruption", run: h.noAlarm("CORRUPT")},
		{name: "serializable_read", run: h.read(true)},
		{name: "linearizable_read", run: h.read(false)},
		{name: "non_learner", run: h.notLearner},
		{name: "not_stopping", run: h.notStopping, quiet: true},
		{name: "feeds", run: h.notStarved, quiet: true},
	})
}

type healthHandler struct {
	cfg      *Config
	counters *counters
}

func (h *healthHandler) read(serializable bool) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, h.cfg.RequestTimeout)
		defer cancel()
		if err := h.cfg.Health.Read(ctx, serializable); err != nil {
			return fmt.Errorf("range error: %w", err)
		}
		return nil
	}
}

func (h *healthHandler) noAlarm(name string) func(context.Context) error {
	return func(context.Context) error {
		if slices.Contains(h.cfg.Health.Alarms(), name) {
			return fmt.Errorf("alarm activated: %s", name)
		}
		return nil
	}
}

func (h *healthHandler) notLearner(context.Context) error {
	if h.cfg.Health.Learner() {
		return errors.New("not supported for learner")
	}
	return nil
}

func (h *healthHandler) notStopping(context.Context) error {
	if h.cfg.Stopping() {
		return errors.New("the server is being stopped")
	}
	return nil
}

func (h *healthHandler) notStarved(context.Context) error {
	if h.cfg.Starved == nil {
		return nil
	}
	if n := h.cfg.Starved(); n > 0 {
		return fmt.Errorf("of %d ranges nothing is heard: nobody who has them is reached", n)
	}
	return nil
}

// healthReply is the body of /health.
type healthReply struct {
	Health string `json:"health"`
	Reason string `json:"reason"`
}

func (h *healthHandler) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	q := r.URL.Query()
	reason := h.unhealthy(r.Context(), q["exclude"], q.Get("serializable") == "true")
	h.counters.health(reason == "")
	if reason == "" {
		_, _ = w.Write([]byte(`{"health":"true","reason":""}`))
		return
	}
	b, err := json.Marshal(healthReply{Health: "false", Reason: reason})
	if err != nil {
		b = []byte(`{"health":"false","reason":""}`)
	}
	http.Error(w, string(b), http.StatusServiceUnavailable)
	h.cfg.Logger.Warn("/health error", "output", string(b), "status-code", http.StatusServiceUnavailable)
}

// unhealthy gives the reason, or nothing.
func (h *healthHandler) unhealthy(ctx context.Context, exclude []string, serializable bool) string {
	for _, alarm := range h.cfg.Health.Alarms() {
		if !slices.Contains(exclude, alarm) {
			return "ALARM " + alarm
		}
	}
	if !serializable && !h.cfg.Health.HasLeader() {
		return "RAFT NO LEADER"
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.RequestTimeout)
	defer cancel()
	if err := h.cfg.Health.Read(ctx, serializable); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

// mount serves /kind for all checks and /kind/name for each.
func (h *healthHandler) mount(mux *http.ServeMux, kind string, checks []check) {
	mux.HandleFunc("/"+kind, func(w http.ResponseWriter, r *http.Request) {
		exclude := r.URL.Query()["exclude"]
		var run []check
		for _, c := range checks {
			if !slices.Contains(exclude, c.name) {
				run = append(run, c)
			}
		}
		h.serveChecks(w, r, kind, run)
	})
	for _, c := range checks {
		mux.HandleFunc("/"+kind+"/"+c.name, func(w http.ResponseWriter, r *http.Request) {
			h.serveChecks(w, r, kind, []check{c})
		})
	}
}

func (h *healthHandler) serveChecks(w http.ResponseWriter, r *http.Request, kind string, checks []check) {
	if !onlyGet(w, r) {
		return
	}
	var report strings.Builder
	failed := false
	for _, c := range checks {
		err := c.run(r.Context())
		h.counters.check(kind, c.name, err)
		if err != nil {
			failed = true
			fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
		} else if !c.quiet {
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
	}
	if failed {
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		h.cfg.Logger.Error("Health check error", "path", r.URL.Path, "reason", report.String(), "status-code", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		_, _ = w.Write([]byte(report.String()))
	}
	_, _ = w.Write([]byte("ok\n"))
}
