package server

import (
	"errors"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
)

// headerTimeout bounds how long an HTTP client may take to send its request's header.
const headerTimeout = 10 * time.Second

// fronts are the servers on the node's ports.
type fronts struct {
	peerGRPC   *grpc.Server
	clientGRPC *grpc.Server
	clientHTTP *http.Server
	metrics    *http.Server
	ports      []*httpapi.Port
}

// servePeers opens the peer port: from here on other nodes can talk to this one.
func (s *Server) servePeers(svc *peer.Server) {
	s.fronts.peerGRPC = grpc.NewServer(peer.ServerOptions()...)
	svc.Register(s.fronts.peerGRPC)
	for _, l := range s.cfg.Peer {
		s.log.Info("serving peer traffic", "address", l.Addr().String())
		s.goServe("peer "+l.URL, func() error { return s.fronts.peerGRPC.Serve(l.Listener) })
	}
}

// serveMetrics opens the metrics URLs, which answer from the start: a node that waits for a
// quorum can be watched doing so.
func (s *Server) serveMetrics() {
	if len(s.cfg.Metrics) == 0 {
		return
	}
	s.fronts.metrics = &http.Server{Handler: httpapi.NewMetrics(s.httpConfig()), ReadHeaderTimeout: headerTimeout}
	for _, l := range s.cfg.Metrics {
		s.log.Info("serving metrics", "url", l.URL)
		s.goServe("metrics "+l.URL, func() error { return ignoreClosed(s.fronts.metrics.Serve(l.Listener)) })
	}
}

// serveClients opens the client ports; called once the node can serve.
func (s *Server) serveClients() {
	opts := append(s.api.ServerOptions(),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: s.cfg.KeepAliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: s.cfg.KeepAliveInterval, Timeout: s.cfg.KeepAliveTimeout}),
	)
	s.fronts.clientGRPC = grpc.NewServer(opts...)
	peer.NewRoutingServer(peer.Identity{ClusterID: s.cfg.ClusterID, Node: s.cfg.NodeID}, routing{s}).Register(s.fronts.clientGRPC)
	s.api.Register(s.fronts.clientGRPC)
	s.fronts.clientHTTP = &http.Server{Handler: httpapi.New(s.httpConfig()), ReadHeaderTimeout: headerTimeout}
	for _, l := range s.cfg.Client {
		if len(s.cfg.ClientHTTP) > 0 {
			s.goServe("client "+l.URL, func() error { return s.fronts.clientGRPC.Serve(l.Listener) })
		} else {
			s.serveBoth(l)
		}
		s.log.Info("serving client traffic insecurely; this is strongly discouraged outside of a trusted network",
			"traffic", "grpc+http", "address", l.Addr().String())
	}
	for _, l := range s.cfg.ClientHTTP {
		s.goServe("http "+l.URL, func() error { return ignoreClosed(s.fronts.clientHTTP.Serve(l.Listener)) })
		s.log.Info("serving client traffic insecurely; this is strongly discouraged outside of a trusted network",
			"traffic", "http", "address", l.Addr().String())
	}
}

// serveBoth serves gRPC and HTTP on one port.
func (s *Server) serveBoth(l Listener) {
	port := httpapi.NewPort(l.Listener)
	s.fronts.ports = append(s.fronts.ports, port)
	s.goServe("client "+l.URL, port.Run)
	s.goServe("client gRPC "+l.URL, func() error { return s.fronts.clientGRPC.Serve(port.GRPC()) })
	s.goServe("client HTTP "+l.URL, func() error { return ignoreClosed(s.fronts.clientHTTP.Serve(port.HTTP())) })
}

func (s *Server) httpConfig() httpapi.Config {
	return httpapi.Config{
		Health: nodeHealth{s}, Ranges: s, Nodes: s.Nodes, Gatherer: s.cfg.Registry, Registerer: s.cfg.Registry,
		ClusterVersion: func() string {
			if s.client.Map() == nil {
				return httpapi.VersionUndecided
			}
			return clusterVersion
		},
		Pprof: s.cfg.Pprof, CORS: s.cfg.CORS, Hosts: s.cfg.Hosts,
		RequestTimeout: s.cfg.patience(), Logger: s.log,
	}
}

// goServe runs an accept loop. Its listener is patient, so that it ends when it is told to.
func (s *Server) goServe(what string, run func() error) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		err := run()
		if !s.stopping.Load() {
			s.log.Error("a port is not served any more", "port", what, "error", err)
		}
	}()
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// stopClients ends client traffic: streams are told, calls under way get a moment.
func (s *Server) stopClients(grace time.Duration) {
	if s.fronts.clientGRPC == nil {
		return
	}
	s.api.Close()
	done := make(chan struct{})
	go func() {
		s.fronts.clientGRPC.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(grace):
		s.fronts.clientGRPC.Stop()
		<-done
	}
	_ = s.fronts.clientHTTP.Close() // idle HTTP connections: nothing can be lost
	for _, p := range s.fronts.ports {
		_ = p.Close()
	}
}

// closeListeners closes every socket that was handed over; closing twice does no harm.
func (s *Server) closeListeners() {
	for _, ls := range [][]Listener{s.cfg.Peer, s.cfg.Client, s.cfg.ClientHTTP, s.cfg.Metrics} {
		for _, l := range ls {
			_ = l.Close()
		}
	}
}
