package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pontoon/internal/backend"
	"pontoon/internal/export"
	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/httpapi"
	"pontoon/shard/router"
)

// Listener is an open socket and the URL that it was opened for.
type Listener = httpapi.Listener

// Config is what a node is built of: its parts, each with what it needs alone, and what both need. It is copied.
// The listeners belong to the server from New on, whatever New returns.
type Config struct {
	Host  host.Config
	Front front.Config // Backend and Await are the server's to set

	Election time.Duration // default: ten of the host's heartbeats, 1 s
	// Registry takes the metrics of both and is served. Default: a new one.
	Registry *prometheus.Registry
	Logger   *slog.Logger
}

func (c *Config) setDefaults() {
	if c.Election <= 0 {
		c.Election = host.DefaultElection(c.Host.Heartbeat)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// host is what the part that holds data is built of.
func (c *Config) host() host.Config {
	h := c.Host
	h.Election, h.Registry, h.Logger = c.Election, c.Registry, c.Logger
	return h
}

// snapshots makes files of the whole store, in the data directory; without one where temporary files are made.
func (c *Config) snapshots(from source) (*export.Exporter, error) {
	b := from.Backend()
	r, err := router.New(router.Config{Peers: b.Peers, Cluster: b.Cluster, Local: b.Local, Patience: c.Front.Patience, Logger: c.Logger})
	if err != nil {
		return nil, err
	}
	return export.New(export.Config{Router: r, Backend: b, Dir: c.Host.DataDir, Logger: c.Logger})
}

// source is what a front serves from: a host, or nodes elsewhere.
type source interface {
	Backend() *backend.Backend
	Join(ctx context.Context) error
}

// front is what the part that serves clients is built of. It serves once its source has joined.
func (c *Config) front(from source) front.Config {
	f := c.Front
	f.Backend, f.Await = from.Backend(), from.Join
	f.Election, f.Registry, f.Logger = c.Election, c.Registry, c.Logger
	return f
}
