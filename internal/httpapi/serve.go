package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// headerTimeout bounds how slowly a client may send the head of a request.
const headerTimeout = 10 * time.Second

// GRPCServer is what a client port needs of *grpc.Server.
type GRPCServer interface {
	Serve(l net.Listener) error
}

// Servers runs the servers of a node's client-facing listeners.
type Servers struct {
	lg  *slog.Logger
	wg  sync.WaitGroup
	err chan error

	mu struct {
		sync.Mutex
		ports []*Port
		https []*http.Server
	}
}

// NewServers returns an empty set.
func NewServers(lg *slog.Logger) *Servers {
	return &Servers{lg: lg, err: make(chan error, 1)}
}

// Err delivers the first error of a server that stopped by itself.
func (s *Servers) Err() <-chan error { return s.err }

// Both serves gRPC and HTTP on l. A nil handler leaves gRPC alone there.
func (s *Servers) Both(l net.Listener, g GRPCServer, h http.Handler) {
	if h == nil {
		s.run("grpc", func() error { return g.Serve(l) })
		return
	}
	p := NewPort(l)
	s.mu.Lock()
	s.mu.ports = append(s.mu.ports, p)
	s.mu.Unlock()
	s.run("port", p.Run)
	s.run("grpc", func() error { return g.Serve(p.GRPC()) })
	s.HTTP(p.HTTP(), h)
}

// HTTP serves HTTP alone on l.
func (s *Servers) HTTP(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout,
		ErrorLog: slog.NewLogLogger(s.lg.Handler(), slog.LevelDebug)}
	s.mu.Lock()
	s.mu.https = append(s.mu.https, srv)
	s.mu.Unlock()
	s.run("http", func() error { return srv.Serve(l) })
}

func (s *Servers) run(what string, serve func() error) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		err := serve()
		if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case s.err <- errors.Join(errors.New("the "+what+" server stopped"), err):
		default: // the first one has been told
		}
	}()
}

// Close stops accepting, gives HTTP requests until ctx ends, and waits for the servers. The
// caller stops its gRPC server first or meanwhile: its Serve is waited for, too.
func (s *Servers) Close(ctx context.Context) error {
	s.mu.Lock()
	ports, https := s.mu.ports, s.mu.https
	s.mu.Unlock()
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	for _, srv := range https {
		if err := srv.Shutdown(ctx); err != nil {
			errs = append(errs, srv.Close())
		}
	}
	s.wg.Wait()
	return errors.Join(errs...)
}
