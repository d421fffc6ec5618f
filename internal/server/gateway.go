package server

import (
	"errors"
	"fmt"

	"pontoon/internal/backend"
	"pontoon/internal/front"
)

// GatewayConfig is what a gateway is built of: a process that serves clients and holds nothing. It is copied. The listeners belong to the server from
// NewGateway on, whatever that returns. Election, Registry and Logger of both parts are those of Config's defaults.
type GatewayConfig struct {
	Config                      // without a host
	Remote backend.RemoteConfig // Election and Logger are the server's to set
}

// NewGateway builds a gateway and starts it. Ready tells when it serves clients: nodes of the cluster answer. Errors name what could not be opened;
// nothing is left running then.
func NewGateway(cfg GatewayConfig) (*Server, error) {
	cfg.setDefaults()
	s := &Server{log: cfg.Logger, done: make(chan error, 1), stopped: make(chan struct{})}
	remote := cfg.Remote
	remote.Election, remote.Logger = cfg.Election, cfg.Logger
	r, err := backend.OpenRemote(remote)
	if err != nil {
		return nil, fmt.Errorf("server: %w", errors.Join(err, closeGateway(&cfg)))
	}
	fc := cfg.front(r)
	if fc.Gateway != nil {
		own := *fc.Gateway
		own.Chain.Nodes = r
		fc.Gateway = &own
	}
	if fc.Snapshots, err = cfg.snapshots(r); err != nil {
		return nil, fmt.Errorf("server: %w", errors.Join(err, r.Close(), closeGateway(&cfg)))
	}
	f, err := front.Open(fc)
	if err != nil {
		return nil, fmt.Errorf("server: %w", errors.Join(err, r.Close()))
	}
	s.ready = f.Ready()
	s.start(r)
	s.start(f)
	return s, nil
}

// closeGateway closes the listeners of a gateway that is not opened.
func closeGateway(cfg *GatewayConfig) error {
	fc := &cfg.Front
	var links []Listener
	if fc.Gateway != nil {
		links = fc.Gateway.Chain.Links
	}
	return closeListeners(fc.Client, fc.ClientHTTP, fc.Metrics, links)
}
