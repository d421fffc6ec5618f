package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/httpapi"
)

// part is what a role is made of. It was opened already.
type part interface {
	// Run works until ctx ends. An error ends the process: the part can promise nothing any more.
	Run(ctx context.Context) error
	// Retire makes the end gentle for others, while every part still runs. ctx bounds it.
	Retire(ctx context.Context)
	// Close ends what is left, after Run.
	Close() error
}

// Server is a running process: the parts of a role, which stop in the reverse of the order in which they began.
type Server struct {
	log   *slog.Logger
	ready <-chan struct{}
	done  chan error
	parts []*running

	once    sync.Once
	stopped chan struct{} // closed when everything has ended
	stopErr error         // valid then
}

// running is a part that runs.
type running struct {
	part
	cancel context.CancelFunc
	ended  chan struct{}
}

// New builds a node and starts it. Nobody else may act for it any more: whoever calls New holds the lock of
// its data directory. Ready tells when it serves clients. Errors name what could not be opened; nothing is
// left running then.
func New(cfg Config) (*Server, error) {
	cfg.setDefaults()
	s := &Server{log: cfg.Logger, done: make(chan error, 1), stopped: make(chan struct{})}
	h, err := host.Open(cfg.host())
	if err != nil {
		return nil, fmt.Errorf("server: %w", errors.Join(err, closeListeners(cfg.Front.Client, cfg.Front.ClientHTTP, cfg.Front.Metrics)))
	}
	snapshots, err := cfg.snapshots(h)
	if err != nil {
		return nil, fmt.Errorf("server: %w", errors.Join(err, h.Close(), closeListeners(cfg.Front.Client, cfg.Front.ClientHTTP, cfg.Front.Metrics)))
	}
	fc := cfg.front(h)
	fc.Snapshots = snapshots
	f, err := front.Open(fc)
	if err != nil {
		return nil, fmt.Errorf("server: %w", errors.Join(err, h.Close()))
	}
	s.ready = f.Ready()
	s.start(h)
	s.start(f)
	return s, nil
}

func closeListeners(sets ...[]Listener) error { return httpapi.CloseAll(slices.Concat(sets...)) }

// start runs a part until its turn to stop comes.
func (s *Server) start(p part) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{part: p, cancel: cancel, ended: make(chan struct{})}
	s.parts = append(s.parts, r)
	go func() {
		defer close(r.ended)
		if err := p.Run(ctx); err != nil {
			s.fail(err)
		}
	}()
}

// Ready is closed once the node serves clients: a quorum is there.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Done receives the error that ends the node from inside: it can promise nothing any more.
func (s *Server) Done() <-chan error { return s.done }

// fail tells that the node ends from inside; the first reason counts.
func (s *Server) fail(err error) {
	err = fmt.Errorf("server: %w", err)
	select {
	case s.done <- err:
		s.log.Error("the node cannot go on", "error", err)
	default:
	}
}

// Stop ends the node cleanly: leaders move away, client traffic ends, stores are flushed. It returns when that
// is done, or when ctx ends: then the rest is done behind it, and what is durable is so without it. Later
// calls wait for the same end.
func (s *Server) Stop(ctx context.Context) error {
	s.once.Do(func() { go s.shutdown(ctx) })
	select {
	case <-s.stopped:
		return s.stopErr
	case <-ctx.Done():
		return fmt.Errorf("server: not stopped yet: %w", ctx.Err())
	}
}

func (s *Server) shutdown(ctx context.Context) {
	defer close(s.stopped)
	for _, r := range slices.Backward(s.parts) {
		select {
		case <-r.ended: // it has failed: nothing is to be had from it
		default:
			r.Retire(ctx)
		}
	}
	var errs []error
	for _, r := range slices.Backward(s.parts) {
		r.cancel()
		<-r.ended
		errs = append(errs, r.Close())
	}
	s.stopErr = errors.Join(errs...)
}
