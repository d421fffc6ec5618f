package etcdshim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
)

// ErrNotOffered is returned by NewDirect when the endpoints do not serve routing clients, as
// genuine etcd does not.
var ErrNotOffered = errors.New("etcdshim: the endpoints do not serve routing clients")

// ErrCredentials is returned by NewDirect for a configuration with a user or a token: the direct
// way does not carry them.
var ErrCredentials = errors.New("etcdshim: users and tokens are for the ordinary connection only")

const (
	// discoverTimeout bounds the search for the cluster where Config.DialTimeout does not.
	discoverTimeout = 2 * time.Second
	// Pauses after a search that failed: requests take the ordinary way meanwhile.
	retryNotOffered = time.Minute
	retryFailed     = 5 * time.Second
)

// New is clientv3.New for a program that links the routing client. Like it, New contacts nobody
// unless it must; the cluster is looked for with the first request.
//
// Key-value requests go directly to the leaders where the cluster offers that and its nodes can
// be reached under the client URLs that they advertise. Otherwise (genuine etcd, a port forwarded
// to a single node, a user name in cfg) they take the ordinary way to the endpoints, request by
// request, so that the client works wherever clientv3 does.
//
// All of cfg applies to the ordinary connection. TLS, DialOptions, the keep-alive and the
// message sizes apply to the direct ones, too; where the endpoints are contacted with TLS, so is
// every node.
func New(cfg clientv3.Config) (*clientv3.Client, error) {
	cli, _, err := open(cfg, false)
	return cli, err
}

// NewDirect is New without the ordinary way for key-value requests, serializable reads excepted.
// It finds the cluster before it returns, and fails if that takes longer than ctx or
// cfg.DialTimeout (default 2 s) allow. It is for those who want to know.
func NewDirect(ctx context.Context, cfg clientv3.Config) (*clientv3.Client, error) {
	if cfg.Username != "" || cfg.Token != "" {
		return nil, ErrCredentials
	}
	cli, s, err := open(cfg, true)
	if err != nil {
		return nil, err
	}
	l, err := s.link(ctx)
	if err != nil {
		_ = cli.Close() // the reason counts, not the parting
		return nil, err
	}
	l.users.Done()
	return cli, nil
}

// shim chooses the way of every key-value request of one client.
type shim struct {
	cli    *clientv3.Client
	cfg    clientv3.Config
	plain  etcdserverpb.KVClient
	strict bool          // no ordinary way
	gone   chan struct{} // closed when everything is released
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		link    *link // nil until the cluster has been found
		opening bool
		retryAt time.Time // no search before
		err     error     // of the last search
		closed  bool
	}
}

func open(cfg clientv3.Config, strict bool) (*clientv3.Client, *shim, error) {
	cli, err := clientv3.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	s := &shim{cli: cli, cfg: cfg, plain: clientv3.RetryKVClient(cli), strict: strict, gone: make(chan struct{})}
	cli.KV = clientv3.NewKVFromKVClient(s, cli)
	cli.Watcher = &watcher{Watcher: cli.Watcher, s: s}
	context.AfterFunc(cli.Ctx(), s.release)
	return cli, s, nil
}

// watcher makes Client.Close wait for the release: it closes its watcher after its context.
type watcher struct {
	clientv3.Watcher
	s *shim
}

// Close ends the watches, and where the client is being closed waits for the rest of the shim.
func (w *watcher) Close() error {
	err := w.Watcher.Close()
	if w.s.cli.Ctx().Err() != nil {
		<-w.s.gone
	}
	return err
}

// release runs once, when the client's context has ended.
func (s *shim) release() {
	defer close(s.gone)
	s.mu.Lock()
	s.mu.closed = true
	l := s.mu.link
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
	s.wg.Wait()
}

// begin counts in a goroutine that release waits for; false if it is too late for one.
func (s *shim) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

var errOpening = errors.New("etcdshim: the cluster is being looked for")

// link returns the direct way, for one request, which must call its users.Done. One caller at a
// time looks for the cluster; the others do not wait for it.
func (s *shim) link(ctx context.Context) (*link, error) {
	s.mu.Lock()
	switch {
	case s.mu.closed:
		s.mu.Unlock()
		return nil, context.Canceled
	case s.mu.link != nil:
		defer s.mu.Unlock()
		s.mu.link.users.Add(1)
		return s.mu.link, nil
	case s.cfg.Username != "" || s.cfg.Token != "":
		s.mu.Unlock()
		return nil, ErrCredentials
	case s.mu.opening:
		s.mu.Unlock()
		return nil, errOpening
	case time.Now().Before(s.mu.retryAt):
		defer s.mu.Unlock()
		return nil, s.mu.err
	}
	s.mu.opening = true
	s.wg.Add(1)
	defer s.wg.Done()
	s.mu.Unlock()

	l, err := s.openLink(ctx)
	s.mu.Lock()
	s.mu.opening = false
	if err != nil {
		s.mu.err, s.mu.retryAt = err, time.Now().Add(retryFailed)
		if errors.Is(err, ErrNotOffered) {
			s.mu.retryAt = time.Now().Add(retryNotOffered)
		}
		s.mu.Unlock()
		s.cli.GetLogger().Debug("key-value requests take the ordinary way", zap.Error(err))
		return nil, err
	}
	closed := s.mu.closed
	if !closed {
		s.mu.link = l
		l.users.Add(1)
	}
	s.mu.Unlock()
	if closed {
		l.close()
		return nil, context.Canceled
	}
	s.cli.GetLogger().Debug("key-value requests go to the leaders", zap.String("cluster-id", fmt.Sprintf("%x", l.ClusterID())))
	return l, nil
}

// retire gives a link up, once. What uses it is waited for: a write that is under way there may
// yet be answered.
func (s *shim) retire(l *link, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || s.mu.link != l {
		return
	}
	s.mu.link, s.mu.err, s.mu.retryAt = nil, why, time.Now().Add(retryFailed)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		stop := context.AfterFunc(s.cli.Ctx(), l.close)
		l.users.Wait()
		stop()
		l.close()
	}()
}

// openLink finds the cluster through the endpoints, whichever answers, and checks that the leader of
// the meta group can be reached: without it nothing is routed.
func (s *shim) openLink(ctx context.Context) (*link, error) {
	limit := discoverTimeout
	if s.cfg.DialTimeout > 0 {
		limit = s.cfg.DialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(s.cli.Ctx(), cancel)
	defer stop()
	d, err := discover(ctx, s.cli.ActiveConnection())
	if status.Code(err) == codes.Unimplemented {
		return nil, ErrNotOffered
	}
	if err != nil {
		return nil, fmt.Errorf("etcdshim: find the cluster: %w", err)
	}
	l, err := newLink(s, d)
	if err != nil {
		return nil, err
	}
	if err := l.client.Refresh(ctx); err != nil {
		l.close()
		return nil, fmt.Errorf("etcdshim: reach the meta group: %w", err)
	}
	return l, nil
}

// discover asks whichever endpoint the connection chooses. It opens the call as a stream of one
// message each way, which is the same to the server: clientv3 logs a warning for every unary call
// that fails, and that a server has no such service is no reason for one.
func discover(ctx context.Context, cc *grpc.ClientConn) (*pb.DiscoverResponse, error) {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{}, pb.Routing_Discover_FullMethodName)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&pb.DiscoverRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	d := &pb.DiscoverResponse{}
	return d, stream.RecvMsg(d)
}

// secure tells whether the endpoints are contacted with TLS, by clientv3's rule.
func (s *shim) secure() bool {
	ep := s.cfg.Endpoints[0]
	scheme, _, stated := strings.Cut(ep, "://")
	if !stated {
		return s.cfg.TLS != nil
	}
	return scheme == "https" || scheme == "unixs"
}
