package etcdapi_test

import (
	"context"
	"flag"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	goleak.VerifyTestMain(m)
}

// fixture is a served API over a naive store, and a genuine client of it.
type fixture struct {
	store *apitest.Store
	api   *etcdapi.API
	addr  string
	cli   *clientv3.Client
	ctx   context.Context
}

func start(t *testing.T, change func(*etcdapi.Config)) *fixture {
	t.Helper()
	return startStore(t, apitest.New(), change)
}

func startStore(t *testing.T, s *apitest.Store, change func(*etcdapi.Config), more ...grpc.ServerOption) *fixture {
	t.Helper()
	f := &fixture{store: s}
	f.api, f.addr = s.Serve(t, change, more...)
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{f.addr}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	f.cli = cli
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	f.ctx = ctx
	t.Cleanup(func() {
		cancel()
		_ = cli.Close()
	})
	return f
}

// conn is a bare connection, for requests that the client library would not send.
func (f *fixture) conn(t *testing.T) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(f.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (f *fixture) put(t *testing.T, key, value string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	resp, err := f.cli.Put(f.ctx, key, value, opts...)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return resp.Header.Revision
}

// next receives one response of a watch.
func next(t *testing.T, ch clientv3.WatchChan) clientv3.WatchResponse {
	t.Helper()
	select {
	case r, ok := <-ch:
		if !ok {
			t.Fatal("the watch channel is closed")
		}
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no watch response")
	}
	return clientv3.WatchResponse{}
}
