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

// Watch serves one stream with any number of watches. This goroutine reads, and is all that a stream has: what there is to say is said in turns, see
// watchStream, which also ends it. There may be very many of it, so its stack is to stay as small as gRPC lets it: what goes deep is called aside.
func (s *watchServer) Watch(rpc watchRPC) error {
	st := s.begin(rpc)
	if st == nil {
		return rpctypes.ErrGRPCStopped
	}
	defer st.close()
	var err error
	if st.reader.source.interruptible() {
		err = st.reader.read()
	} else {
		go st.readApart()
	}
	if err == nil { // the client has no more requests, but may go on listening
		<-st.ctx.Done()
	}
	return st.outcome(err)
}

// readApart reads on a goroutine of its own, which ends after the stream: where nothing else can interrupt it.
func (s *watchStream) readApart() {
	if err := s.reader.read(); err != nil {
		s.fail(err)
	}
}

// begin returns nil if the server stops.
func (s *watchServer) begin(rpc watchRPC) (st *watchStream) {
	aside(func() {
		st = newWatchStream(s.api, rpc)
		if !s.api.endless.begin(st) {
			st.close()
			st = nil
		}
	})
	return st
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
