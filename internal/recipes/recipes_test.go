package recipes_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/internal/recipes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is the recipes over a naive store, and a client of theirs.
type fixture struct {
	store    *apitest.Store
	ctx      context.Context
	lock     v3lockpb.LockClient
	election v3electionpb.ElectionClient
	asked    *asked
}

// asked is what the recipes have asked the store's server.
type asked struct {
	mu   sync.Mutex
	list []call
}

type call struct {
	method string
	md     metadata.MD
}

func (a *asked) note(ctx context.Context, method string) {
	md, _ := metadata.FromIncomingContext(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, call{method, md})
}

// tokens are those with which a method was asked for.
func (a *asked) tokens(method string) (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.list {
		if c.method == method {
			out = append(out, append(c.md["token"], "")[0])
		}
	}
	return out
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{store: apitest.New(), asked: &asked{}}
	api, err := etcdapi.New(f.store.Config())
	if err != nil {
		t.Fatal(err)
	}
	opts := append(api.ServerOptions(),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			f.asked.note(ctx, info.FullMethod)
			return h(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			f.asked.note(ss.Context(), info.FullMethod)
			return h(srv, ss)
		}))
	backend := serve(t, api.Register, api.Close, opts...)
	r := recipes.New(backend)
	conn := serve(t, func(s *grpc.Server) { r.Register(s) }, func() { _ = r.Close() })
	f.lock, f.election = v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	f.ctx = ctx
	return f
}

// serve runs a server until the test ends, and returns a connection to it.
func serve(t *testing.T, register func(*grpc.Server), end func(), opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(opts, grpc.WaitForHandlers(true))...)
	register(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		end()
		s.Stop()
		<-done
	})
	return conn
}

// as is a context of a caller with a token.
func (f *fixture) as(token string) context.Context {
	return metadata.AppendToOutgoingContext(f.ctx, "token", token, "x-other", "no")
}

func (f *fixture) mustLock(t *testing.T, ctx context.Context, lease int64) string {
	t.Helper()
	resp, err := f.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	return string(resp.Key)
}

// TestLock: one has it at a time, and the next gets it when it is given back.
func TestLock(t *testing.T) {
	f := start(t)
	first := f.mustLock(t, f.as("a"), 0)
	got := make(chan string, 1)
	go func() {
		resp, err := f.lock.Lock(f.as("b"), &v3lockpb.LockRequest{Name: []byte("l")})
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(resp.Key)
	}()
	f.waitWatches(t, 1)
	select {
	case k := <-got:
		t.Fatalf("%s while %s has the lock", k, first)
	default:
	}
	if _, err := f.lock.Unlock(f.as("a"), &v3lockpb.UnlockRequest{Key: []byte(first)}); err != nil {
		t.Fatal(err)
	}
	if k := <-got; len(k) < 3 || k[:2] != "l/" || k == first {
		t.Errorf("the second has %q", k)
	}
	// All that was asked for was asked for as who wanted it.
	for method, want := range map[string][]string{
		"/etcdserverpb.Lease/LeaseGrant": {"a", "b"}, "/etcdserverpb.Watch/Watch": {"b"}, "/etcdserverpb.KV/DeleteRange": {"a"},
	} {
		if ts := f.asked.tokens(method); !slices.Equal(ts, want) {
			t.Errorf("%s was asked for by %q, want %q", method, ts, want)
		}
	}
	if ts := f.asked.tokens("/etcdserverpb.KV/Txn"); slices.Contains(ts, "") || !slices.Contains(ts, "a") || !slices.Contains(ts, "b") {
		t.Errorf("transactions by %q", ts)
	}
	f.asked.mu.Lock()
	defer f.asked.mu.Unlock()
	for _, c := range f.asked.list {
		if len(c.md["x-other"]) > 0 {
			t.Errorf("%s with what was not meant for it: %v", c.method, c.md)
		}
	}
}

func (f *fixture) waitWatches(t *testing.T, want int) {
	t.Helper()
	for {
		if _, n := f.store.Streams(); n == want {
			return
		}
		select {
		case <-f.ctx.Done():
			t.Fatalf("no %d watches", want)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// TestWatchesAreNotShared: callers of different tokens wait on streams of their own.
func TestWatchesAreNotShared(t *testing.T) {
	f := start(t)
	f.mustLock(t, f.as("a"), 0)
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	for _, token := range []string{"b", "c", "b"} {
		wg.Go(func() {
			md := metadata.AppendToOutgoingContext(ctx, "token", token)
			_, err := f.lock.Lock(md, &v3lockpb.LockRequest{Name: []byte("l")})
			if status.Code(err) != codes.Canceled {
				t.Errorf("%s: %v", token, err)
			}
		})
	}
	f.waitWatches(t, 3)
	ts := f.asked.tokens("/etcdserverpb.Watch/Watch")
	if slices.Sort(ts); !slices.Equal(ts, []string{"b", "c"}) {
		t.Errorf("watch streams of %q", ts)
	}
	cancel()
	wg.Wait()
	f.waitWatches(t, 0) // nobody waits any more, and what was waited with is gone
}

func expect(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		t.Errorf("%v, want %v %s", err, code, text)
	}
}

func TestLockOfNoLease(t *testing.T) {
	f := start(t)
	_, err := f.lock.Lock(f.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: 99})
	expect(t, err, codes.Unknown, "etcdserver: requested lease not found")
}

func TestElection(t *testing.T) {
	f := start(t)
	name := []byte("e")
	_, err := f.election.Leader(f.ctx, &v3electionpb.LeaderRequest{Name: name})
	expect(t, err, codes.Unknown, "election: no leader")
	_, err = f.election.Proclaim(f.ctx, &v3electionpb.ProclaimRequest{Value: []byte("v")})
	expect(t, err, codes.Unknown, `"leader" field must be provided`)
	_, err = f.election.Resign(f.ctx, &v3electionpb.ResignRequest{})
	expect(t, err, codes.Unknown, `"leader" field must be provided`)

	seen, err := f.election.Observe(f.as("o"), &v3electionpb.LeaderRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	won, err := f.election.Campaign(f.as("a"), &v3electionpb.CampaignRequest{Name: name, Value: []byte("one")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.election.Proclaim(f.as("a"), &v3electionpb.ProclaimRequest{Leader: won.Leader, Value: []byte("two")}); err != nil {
		t.Fatal(err)
	}
	l, err := f.election.Leader(f.ctx, &v3electionpb.LeaderRequest{Name: name})
	if err != nil || string(l.Kv.Value) != "two" || l.Kv.Lease != won.Leader.Lease {
		t.Errorf("leader %v, %v", l, err)
	}
	for last := ""; last != "two"; {
		r, err := seen.Recv()
		if err != nil {
			t.Fatal(err)
		}
		last = string(r.Kv.Value)
	}
	if _, err := f.election.Resign(f.as("a"), &v3electionpb.ResignRequest{Leader: won.Leader}); err != nil {
		t.Fatal(err)
	}
	_, err = f.election.Leader(f.ctx, &v3electionpb.LeaderRequest{Name: name})
	expect(t, err, codes.Unknown, "election: no leader")
	if ts := f.asked.tokens("/etcdserverpb.Watch/Watch"); !slices.Contains(ts, "o") {
		t.Errorf("watches by %q", ts)
	}
}
