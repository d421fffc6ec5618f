package etcdapi

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// watchServer is etcd's Watch service.
type watchServer struct {
	etcdserverpb.UnsafeWatchServer
	api *API
}

type watchRPC = grpc.BidiStreamingServer[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]

// Watch serves one stream with any number of watches. This goroutine waits for what ends it, and for
// the time to pass; another one reads, because Recv cannot be interrupted: it ends with the stream's
// context, when this function has returned. What there is to say is said in turns: see watchStream.
func (s *watchServer) Watch(rpc watchRPC) error {
	ctx := rpc.Context()
	stop, ok := s.api.endless.begin()
	if !ok {
		return rpctypes.ErrGRPCStopped
	}
	defer s.api.endless.left(stop)
	st := newWatchStream(s.api, rpc, newMessageWriter(rpc, s.api.metrics))
	defer st.close()
	defer st.guard.stop()
	go st.read()
	progress := time.NewTicker(jittered(s.api.cfg.ProgressInterval))
	defer progress.Stop()
	for {
		select {
		case <-progress.C:
			st.scheduleFor(dueProgress)
		case <-st.guard.tick():
			st.scheduleFor(dueLeader)
		case err := <-st.failed:
			return watchEnd(err)
		case <-stop.over:
			return rpctypes.ErrGRPCStopped
		case <-ctx.Done():
			return watchEnd(ctx.Err())
		}
	}
}

// watchEnd is what a stream ends with that the client, or the connection, has ended.
func watchEnd(err error) error {
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return toRPC(err)
}

// jittered spreads the notifications of watches that began together.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)/10+1))
}

// current asks the oracle for the current revision, for no longer than an election may take.
func (a *API) current(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.ElectionTimeout)
	defer cancel()
	return a.cfg.KV.Current(ctx)
}
