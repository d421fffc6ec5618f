package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// watchStream is one stream of the watch service, without clientv3's watcher, which has a goroutine
// and channels for each watch: so that many watchers cost the client little.
type watchStream struct {
	grpc   grpc.BidiStreamingClient[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]
	cancel context.CancelFunc
	send   sync.Mutex // one at a time may send
	ended  chan struct{}
	err    error // why it ended, once ended is closed
	told   watchFuncs
}

// watchFuncs are called by a stream's receiver, one at a time; an error ends the stream.
type watchFuncs struct {
	created  func(id int64) error
	events   func(*etcdserverpb.WatchResponse) error
	progress func(rev int64) error // nil: nobody asks for it
}

// openStream opens a stream over a connection. It lives until it is closed, whatever becomes of ctx.
func openStream(ctx context.Context, c grpc.ClientConnInterface, told watchFuncs) (*watchStream, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream, err := etcdserverpb.NewWatchClient(c).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open a watch stream: %w", err)
	}
	s := &watchStream{grpc: stream, cancel: cancel, ended: make(chan struct{}), told: told}
	go s.receive(ctx)
	return s, nil
}

// errClosed is how a stream ends that was closed here.
var errClosed = errors.New("the stream was closed")

// receive takes what comes. ctx ends when the stream is closed here, and only then: gRPC's own context ends with every stream.
func (s *watchStream) receive(ctx context.Context) {
	defer close(s.ended)
	defer s.cancel()
	for {
		resp, err := s.grpc.Recv()
		if err != nil {
			if ctx.Err() != nil {
				err = errClosed
			}
			s.err = fmt.Errorf("watch stream: %w", err)
			return
		}
		if s.err = s.handle(resp); s.err != nil {
			return
		}
	}
}

func (s *watchStream) handle(resp *etcdserverpb.WatchResponse) error {
	switch {
	case resp.Canceled:
		return fmt.Errorf("watcher %d was cancelled: %s (compacted at %d)", resp.WatchId, resp.CancelReason, resp.CompactRevision)
	case resp.Created:
		return s.told.created(resp.WatchId)
	case len(resp.Events) > 0:
		return s.told.events(resp)
	case s.told.progress != nil:
		return s.told.progress(resp.Header.GetRevision())
	}
	return nil
}

// watch asks for a watcher; that it stands is told to created.
func (s *watchStream) watch(r *etcdserverpb.WatchCreateRequest) error {
	return s.request(&etcdserverpb.WatchRequest{
		RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: r},
	})
}

// askProgress asks how far the stream is; the answer is told to progress.
func (s *watchStream) askProgress() error {
	return s.request(&etcdserverpb.WatchRequest{
		RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}},
	})
}

func (s *watchStream) request(r *etcdserverpb.WatchRequest) error {
	s.send.Lock()
	defer s.send.Unlock()
	if err := s.grpc.Send(r); err != nil {
		return fmt.Errorf("watch stream: %w", err)
	}
	return nil
}

// close ends the stream and waits for its receiver; it returns why it had ended before, if it had.
func (s *watchStream) close() error {
	s.cancel()
	<-s.ended
	if errors.Is(s.err, errClosed) {
		return nil
	}
	return s.err
}
