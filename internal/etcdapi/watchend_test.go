package etcdapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

// plain has a server see gRPC's API alone.
func plain() grpc.ServerOption {
	return grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return h(srv, etcdapi.Plain(ss))
	})
}

// bothWays runs a test of how streams begin and end with the gRPC that is linked, and with one that had nothing but its API.
func bothWays(t *testing.T, s func() *apitest.Store, test func(t *testing.T, f *fixture)) {
	for name, more := range map[string][]grpc.ServerOption{"as it is": nil, "plain": {plain()}} {
		t.Run(name, func(t *testing.T) { test(t, startStore(t, s(), nil, more...)) })
	}
}

// ours counts goroutines of this package by whether they serve a watch, and the most functions of this package that one of those stands in.
func ours() (watches, others, deep int) {
	const here = "pontoon/internal/etcdapi."
	buf := make([]byte, 4<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		switch {
		case strings.Contains(g, "etcdapi_test.") || strings.Contains(g, "etcdapi/apitest."):
		case strings.Contains(g, here+"(*watchServer).Watch("):
			watches++
			deep = max(deep, strings.Count(g, "\n"+here)+strings.Count(g, "RecvMsg")*10)
		case strings.Contains(g, here):
			others++
		}
	}
	return watches, others, deep
}

// TestWatchStreamIsOneGoroutine: a stream that waits has the goroutine on which gRPC calls it, and no other; between gRPC and where that reads are the one
// interceptor, the handler, and two functions more.
func TestWatchStreamIsOneGoroutine(t *testing.T) {
	const streams = 20
	f := start(t, nil)
	for range streams {
		f.rawWatch(t).create(&etcdserverpb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true})
	}
	eventually(t, func() bool { watches, others, deep := ours(); return watches == streams && others == 0 && deep <= 4 })
}

// TestWatchHalfClosed: a client that has no more requests goes on listening, and its stream ends as any other.
func TestWatchHalfClosed(t *testing.T) {
	bothWays(t, apitest.New, func(t *testing.T, f *fixture) {
		w := f.rawWatch(t)
		w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("a")})
		if err := w.CloseSend(); err != nil {
			t.Fatal(err)
		}
		f.put(t, "a", "1")
		if r := w.recv(); len(r.Events) != 1 {
			t.Errorf("got %v", r)
		}
		f.api.Close()
		if err := second(w.Recv()); !errors.Is(rpctypes.Error(err), rpctypes.ErrStopped) {
			t.Errorf("ended with %v", err)
		}
		eventually(t, func() bool { n, _ := f.store.Streams(); return n == 0 })
	})
}

// TestWatchEndsWhateverItWaitsFor: a stop and the client's end are noticed by a stream that waits for requests, and by one that waits for room for them.
func TestWatchEndsWhateverItWaitsFor(t *testing.T) {
	deaf := func() *apitest.Store {
		s := apitest.New()
		s.Fail = func(call string) error {
			if call == "Current" {
				return shard.ErrUnavailable // nothing that waits for the oracle is ever taken
			}
			return nil
		}
		return s
	}
	bothWays(t, deaf, func(t *testing.T, f *fixture) {
		for _, stop := range []bool{false, true} {
			for _, requests := range []int{0, 1, 1000} {
				ctx, cancel := context.WithCancel(f.ctx)
				s, err := etcdserverpb.NewWatchClient(f.conn(t)).Watch(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for range requests {
					c := &etcdserverpb.WatchCreateRequest{Key: []byte("a")}
					if err := s.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: c}}); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, func() bool { return f.api.Streams() > 0 })
				want := codes.Canceled
				if last := requests == 1000; stop && last {
					f.api.Close()
					want = codes.Unavailable
				} else {
					cancel()
				}
				if err := second(s.Recv()); status.Code(err) != want {
					t.Errorf("with %d requests it ended with %v", requests, err)
				}
				eventually(t, func() bool { n, _ := f.store.Streams(); return n == 0 && f.api.Streams() == 0 })
				cancel()
			}
		}
	})
}

// TestWatchBadMessages: what is no request ends a stream with gRPC's own words, however it is received.
func TestWatchBadMessages(t *testing.T) {
	long := bytes.Repeat([]byte("k"), 3<<20)
	said := map[string]string{}
	bothWays(t, apitest.New, func(t *testing.T, f *fixture) {
		for name, tc := range map[string]struct {
			body []byte
			code codes.Code
		}{
			"garbage": {[]byte{0xff, 0xff}, codes.Internal}, "no create request": {[]byte{0x0a, 0x02, 0xff, 0xff}, codes.Internal},
			"too long": {long, codes.ResourceExhausted}, "nothing": {nil, codes.OK},
		} {
			ctx, cancel := context.WithCancel(f.ctx)
			desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
			s, err := f.conn(t).NewStream(ctx, desc, etcdserverpb.Watch_Watch_FullMethodName, grpc.ForceCodecV2(etcdapi.RawCodec{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SendMsg(&tc.body); err != nil {
				t.Fatal(err)
			}
			if tc.code == codes.OK { // left out
				_ = s.CloseSend()
				time.AfterFunc(50*time.Millisecond, cancel)
				tc.code = codes.Canceled
			}
			var got []byte
			err = s.RecvMsg(&got)
			if status.Code(err) != tc.code {
				t.Errorf("%s: %v", name, err)
			}
			if other, ok := said[name]; ok && other != err.Error() {
				t.Errorf("%s: %q one way and %q the other", name, other, err)
			}
			said[name] = err.Error()
			cancel()
		}
	})
}

// TestWatchCompressed: a client may compress what it sends.
func TestWatchCompressed(t *testing.T) {
	bothWays(t, apitest.New, func(t *testing.T, f *fixture) {
		s, err := etcdserverpb.NewWatchClient(f.conn(t)).Watch(f.ctx, grpc.UseCompressor(gzip.Name))
		if err != nil {
			t.Fatal(err)
		}
		w := &rawWatch{t: t, grpcStream: s}
		if r := w.create(&etcdserverpb.WatchCreateRequest{Key: bytes.Repeat([]byte("a"), 1000)}); !r.Created || r.Canceled {
			t.Errorf("got %v", r)
		}
		f.api.Close()
		if err := second(w.Recv()); status.Code(err) != codes.Unavailable || errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestPanicAside: a panic in what is called aside ends its stream alone.
func TestPanicAside(t *testing.T) {
	var panics atomic.Bool
	panics.Store(true)
	f := start(t, func(c *etcdapi.Config) {
		c.Learner = func(context.Context) bool {
			if panics.Load() {
				panic("a bug")
			}
			return false
		}
	})
	if err := keptOpen(f.ctx, t, f.conn(t), true)(); status.Code(err) != codes.Internal {
		t.Errorf("ended with %v", err)
	}
	panics.Store(false)
	if r := f.rawWatch(t).create(&etcdserverpb.WatchCreateRequest{Key: []byte("a")}); !r.Created {
		t.Errorf("got %v", r)
	}
}
