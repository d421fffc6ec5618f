package etcdapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

func TestLeases(t *testing.T) {
	f := start(t, nil)
	l, err := f.cli.Grant(f.ctx, 1)
	if err != nil || l.TTL != 2 || l.ID == 0 || l.Revision != 1 {
		t.Fatalf("grant: %v, %v", l, err)
	}
	f.put(t, "a", "1", clientv3.WithLease(l.ID))
	ttl, err := f.cli.TimeToLive(f.ctx, l.ID, clientv3.WithAttachedKeys())
	if err != nil || ttl.TTL != 2 || ttl.GrantedTTL != 2 || len(ttl.Keys) != 1 {
		t.Errorf("time to live: %v, %v", ttl, err)
	}
	if r, err := f.cli.KeepAliveOnce(f.ctx, l.ID); err != nil || r.TTL != 2 || r.Revision != 2 {
		t.Errorf("keep alive: %v, %v", r, err)
	}
	if r, err := f.cli.Leases(f.ctx); err != nil || len(r.Leases) != 1 || r.Leases[0].ID != l.ID {
		t.Errorf("leases: %v, %v", r, err)
	}
	ch := f.cli.Watch(f.ctx, "a", clientv3.WithRev(3))
	if _, err := f.cli.Revoke(f.ctx, l.ID); err != nil {
		t.Fatal(err)
	}
	if e := next(t, ch).Events; len(e) != 1 || e[0].Type != clientv3.EventTypeDelete {
		t.Errorf("after the revoke: %v", e)
	}
	if gone, err := f.cli.TimeToLive(f.ctx, l.ID); err != nil || gone.TTL != -1 || gone.ID != l.ID {
		t.Errorf("time to live of what is gone: %v, %v", gone, err)
	}
	if _, err := f.cli.Revoke(f.ctx, l.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("revoke again: %v", err)
	}
	if _, err := f.cli.KeepAliveOnce(f.ctx, l.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("keep alive of what is gone: %v", err)
	}
	if _, err := f.cli.Grant(f.ctx, 9_000_000_001); !errors.Is(err, rpctypes.ErrLeaseTTLTooLarge) {
		t.Errorf("a TTL too large: %v", err)
	}
	lc := etcdserverpb.NewLeaseClient(f.conn(t))
	for _, want := range []error{nil, rpctypes.ErrLeaseExist} {
		if _, err := lc.LeaseGrant(f.ctx, &etcdserverpb.LeaseGrantRequest{ID: 77, TTL: 5}); !errors.Is(rpctypes.Error(err), want) {
			t.Errorf("grant of 77: %v, want %v", err, want)
		}
	}
}

// TestKeepAliveStream: missing leases are answered with TTL 0 and the stream goes on.
func TestKeepAliveStream(t *testing.T) {
	f := start(t, nil)
	stream, err := etcdserverpb.NewLeaseClient(f.conn(t)).LeaseKeepAlive(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{5, 6} {
		if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		if r, err := stream.Recv(); err != nil || r.ID != id || r.TTL != 0 || r.Header.Revision != 1 {
			t.Errorf("got %v, %v", r, err)
		}
	}
}

// TestLeaseTimeout: a request whose client has all the time in the world still ends.
func TestLeaseTimeout(t *testing.T) {
	s := apitest.New()
	s.Fail = func(call string) error {
		if call == "Grant" {
			return context.DeadlineExceeded
		}
		return nil
	}
	f := startStore(t, s, nil)
	lc := etcdserverpb.NewLeaseClient(f.conn(t)) // clientv3 would go on trying
	if _, err := lc.LeaseGrant(f.ctx, &etcdserverpb.LeaseGrantRequest{TTL: 5}); !errors.Is(rpctypes.Error(err), rpctypes.ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

func TestMaintenance(t *testing.T) {
	f := start(t, nil)
	if h, err := f.cli.HashKV(f.ctx, f.addr, 0); err != nil || h.Hash == 0 || h.CompactRevision != -1 {
		t.Errorf("hash of nothing: %v, %v", h, err)
	}
	f.put(t, "a", "1")
	st, err := f.cli.Status(f.ctx, f.addr)
	if err != nil {
		t.Fatal(err)
	}
	if st.Version != "3.7.3" || st.Leader != apitest.MemberIDValue || st.RaftIndex != 10 || st.RaftAppliedIndex != 9 ||
		st.RaftTerm != apitest.TermValue || st.DbSize != 8192 || st.DbSizeInUse != 4096 || st.StorageVersion != "3.7.0" || len(st.Errors) != 0 {
		t.Errorf("status: %v", st)
	}
	f.store.SetLeader(false)
	if st, err := f.cli.Status(f.ctx, f.addr); err != nil || len(st.Errors) != 1 || st.Errors[0] != "etcdserver: no leader" {
		t.Errorf("status without a leader: %v, %v", st, err)
	}
	h1, err := f.cli.HashKV(f.ctx, f.addr, 0)
	if err != nil || h1.Hash == 0 || h1.HashRevision != 2 || h1.Header.Revision != 2 {
		t.Errorf("hash: %v, %v", h1, err)
	}
	f.put(t, "b", "1")
	if h2, err := f.cli.HashKV(f.ctx, f.addr, 2); err != nil || h2.Hash != h1.Hash {
		t.Errorf("hash at 2: %v, %v; want %d", h2, err, h1.Hash)
	}
	if _, err := f.cli.Compact(f.ctx, 2); err != nil {
		t.Error(err)
	}
	if h, err := f.cli.HashKV(f.ctx, f.addr, 0); err != nil || h.CompactRevision != 2 {
		t.Errorf("hash behind a compaction: %v, %v", h, err)
	}
	if _, err := f.cli.HashKV(f.ctx, f.addr, 99); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("hash of the future: %v", err)
	}
	mc := etcdserverpb.NewMaintenanceClient(f.conn(t))
	if _, err := mc.Alarm(f.ctx, &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: etcdserverpb.AlarmType_NOSPACE}); err != nil {
		t.Error(err)
	}
	if r, err := f.cli.AlarmList(f.ctx); err != nil || len(r.Alarms) != 1 || r.Alarms[0].Alarm != etcdserverpb.AlarmType_NOSPACE {
		t.Errorf("alarms: %v, %v", r, err)
	}
	ml, err := f.cli.MemberList(f.ctx)
	if err != nil || len(ml.Members) != 2 || ml.Members[0].Name != "one" || ml.Members[0].ClientURLs[0] != "http://127.0.0.1:2379" || !ml.Members[1].IsLearner {
		t.Errorf("members: %v, %v", ml, err)
	}
}

// TestMemberChanges: an answer has all members, the one to an addition the new one too, and refusals are etcd's.
func TestMemberChanges(t *testing.T) {
	s := apitest.New()
	var refuse error
	s.Fail = func(call string) error {
		if call == "ChangeMember" {
			return refuse
		}
		return nil
	}
	f := startStore(t, s, nil)
	add, err := f.cli.MemberAddAsLearner(f.ctx, []string{"http://127.0.0.1:1"})
	if err != nil || add.Member.ID != 0x13 || !add.Member.IsLearner || add.Member.PeerURLs[0] != "http://127.0.0.1:1" || len(add.Members) != 3 || add.Header.Revision != 0 {
		t.Errorf("add: %v, %v", add, err)
	}
	if r, err := f.cli.MemberRemove(f.ctx, 1); err != nil || len(r.Members) != 2 {
		t.Errorf("remove: %v, %v", r, err)
	}
	if r, err := f.cli.MemberUpdate(f.ctx, 1, []string{"http://127.0.0.1:1"}); err != nil || len(r.Members) != 2 {
		t.Errorf("update: %v, %v", r, err)
	}
	if r, err := f.cli.MemberPromote(f.ctx, 1); err != nil || len(r.Members) != 2 {
		t.Errorf("promote: %v, %v", r, err)
	}
	for ours, etcds := range map[error]error{
		shard.ErrMemberNotFound: rpctypes.ErrMemberNotFound, shard.ErrMemberExists: rpctypes.ErrMemberExist, shard.ErrPeerURLExists: rpctypes.ErrPeerURLExist,
		shard.ErrMemberBadURLs: rpctypes.ErrMemberBadURLs, shard.ErrNotEnoughStarted: rpctypes.ErrMemberNotEnoughStarted, shard.ErrUnhealthy: rpctypes.ErrUnhealthy,
		shard.ErrNotLearner: rpctypes.ErrMemberNotLearner, shard.ErrLearnerNotReady: rpctypes.ErrMemberLearnerNotReady, shard.ErrTooManyLearners: rpctypes.ErrTooManyLearners,
	} {
		refuse = fmt.Errorf("%w: and why", ours)
		if _, err := f.cli.MemberRemove(f.ctx, 1); !errors.Is(err, etcds) {
			t.Errorf("%v became %v", ours, err)
		}
	}
}

func TestMoveLeader(t *testing.T) {
	f := start(t, nil)
	if _, err := f.cli.MoveLeader(f.ctx, 999); !errors.Is(err, rpctypes.ErrBadLeaderTransferee) {
		t.Errorf("to nobody: %v", err)
	}
	if r, err := f.cli.MoveLeader(f.ctx, apitest.MemberIDValue); err != nil || r.Header.Revision == 0 {
		t.Errorf("to itself: %v, %v", r, err)
	}
}

func TestHealth(t *testing.T) {
	f := start(t, nil)
	hc := healthpb.NewHealthClient(f.conn(t))
	check := func(service string) healthpb.HealthCheckResponse_ServingStatus {
		r, err := hc.Check(f.ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatalf("%q: %v", service, err)
		}
		return r.Status
	}
	for _, s := range []string{"", "etcdserverpb.KV", "etcdserverpb.Watch"} {
		if got := check(s); got != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v", s, got)
		}
	}
	f.api.SetServing(false)
	if got := check(""); got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("not serving: %v", got)
	}
}

// lockedBuffer is written by the server and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestInterceptors(t *testing.T) {
	var logs lockedBuffer
	reg := prometheus.NewPedanticRegistry()
	s := apitest.New()
	s.Fail = func(call string) error {
		if call == "Members" {
			panic("boom")
		}
		return nil
	}
	f := startStore(t, s, func(c *etcdapi.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(&logs, nil))
		c.SlowRequest = time.Nanosecond
		c.Registerer, c.ExtensiveMetrics = reg, true
	})
	if _, err := f.cli.MemberList(f.ctx); status.Code(err) != codes.Internal {
		t.Errorf("a panic: %v", err)
	}
	f.put(t, "a", "secret")
	if _, err := etcdserverpb.NewKVClient(f.conn(t)).Range(f.ctx, &etcdserverpb.RangeRequest{}); err == nil {
		t.Error("a range without key was served")
	}
	out := logs.String()
	if !strings.Contains(out, `"panic":"boom"`) || !strings.Contains(out, `"msg":"request stats"`) || strings.Contains(out, "secret") {
		t.Errorf("log: %s", out)
	}
	bad := metadata.AppendToOutgoingContext(f.ctx, rpctypes.MetadataClientAPIVersionKey, "made-up-by-a-client")
	if _, err := etcdserverpb.NewKVClient(f.conn(t)).Range(bad, &etcdserverpb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Error(err)
	}
	mfs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"grpc_server_started_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total",
		"grpc_server_handled_total", "grpc_server_handling_seconds", "etcd_server_client_requests_total",
		"etcd_network_client_grpc_received_bytes_total", "etcd_network_client_grpc_sent_bytes_total",
	} {
		if !slices.ContainsFunc(mfs, func(mf *dto.MetricFamily) bool { return mf.GetName() == name }) {
			t.Errorf("there is no metric %s", name)
		}
	}
	for _, mf := range mfs {
		if strings.Contains(mf.String(), "made-up") {
			t.Error("a client chose a label")
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	cfg := apitest.New().Config()
	cfg.Header = nil
	if _, err := etcdapi.New(cfg); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), "Header") {
		t.Errorf("got %v", err)
	}
}

// TestSlowErrorsAreLogged: what fails and is slow has no answer to describe. (A read of a span that failed
// had one with nothing in it, and the log's question for its size ended the process.)
func TestSlowErrorsAreLogged(t *testing.T) {
	var logs lockedBuffer
	f := start(t, func(c *etcdapi.Config) {
		c.Logger, c.SlowRequest = slog.New(slog.NewJSONHandler(&logs, nil)), time.Nanosecond
	})
	_, err := f.cli.Get(f.ctx, "a", clientv3.WithPrefix(), clientv3.WithRev(99))
	if !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("a span in the future: %v", err)
	}
	if _, err = f.cli.Get(f.ctx, "a", clientv3.WithPrefix()); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// TestALearnerServesLittle: what a learner serves and what it refuses is as in etcd, by what it is when it is asked.
func TestALearnerServesLittle(t *testing.T) {
	var learner atomic.Bool
	f := start(t, func(c *etcdapi.Config) { c.Learner = func(context.Context) bool { return learner.Load() } })
	f.put(t, "a", "1")
	conn := f.conn(t)
	kv, leases, members := etcdserverpb.NewKVClient(conn), etcdserverpb.NewLeaseClient(conn), etcdserverpb.NewClusterClient(conn)
	maintenance, health := etcdserverpb.NewMaintenanceClient(conn), healthpb.NewHealthClient(conn)
	served := map[string]func() error{
		"a serializable read": func() error {
			return second(kv.Range(f.ctx, &etcdserverpb.RangeRequest{Key: []byte("a"), Serializable: true}))
		},
		"status": func() error { return second(maintenance.Status(f.ctx, &etcdserverpb.StatusRequest{})) },
	}
	refused := map[string]func() error{
		"a read":        func() error { return second(kv.Range(f.ctx, &etcdserverpb.RangeRequest{Key: []byte("a")})) },
		"a put":         func() error { return second(kv.Put(f.ctx, &etcdserverpb.PutRequest{Key: []byte("a")})) },
		"a transaction": func() error { return second(kv.Txn(f.ctx, &etcdserverpb.TxnRequest{})) },
		"a lease":       func() error { return second(leases.LeaseGrant(f.ctx, &etcdserverpb.LeaseGrantRequest{TTL: 60})) },
		"members":       func() error { return second(members.MemberList(f.ctx, &etcdserverpb.MemberListRequest{})) },
		"a hash":        func() error { return second(maintenance.HashKV(f.ctx, &etcdserverpb.HashKVRequest{})) },
		"gRPC's health": func() error { return second(health.Check(f.ctx, &healthpb.HealthCheckRequest{})) },
		"a watch":       func() error { return first(etcdserverpb.NewWatchClient(conn).Watch(f.ctx)) },
		"keep-alives":   func() error { return first(leases.LeaseKeepAlive(f.ctx)) },
		"a long read": func() error {
			return first(kv.RangeStream(f.ctx, &etcdserverpb.RangeRequest{Key: []byte("a"), Serializable: true}))
		},
		"watched health": func() error { return first(health.Watch(f.ctx, &healthpb.HealthCheckRequest{})) },
	}
	snapshot := func() error { return first(maintenance.Snapshot(f.ctx, &etcdserverpb.SnapshotRequest{})) }
	for range 2 {
		for what, ask := range served {
			if err := ask(); err != nil {
				t.Errorf("%s, learner %v: %v", what, learner.Load(), err)
			}
		}
		if err := snapshot(); forLearner(err) {
			t.Errorf("a snapshot, learner %v: %v", learner.Load(), err)
		}
		learner.Store(true)
	}
	for what, ask := range refused {
		if err := ask(); !forLearner(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	learner.Store(false)
	if err := served["status"](); err != nil {
		t.Error(err)
	}
	for _, what := range []string{"a read", "a put", "members", "gRPC's health"} {
		if err := refused[what](); err != nil {
			t.Errorf("%s, promoted: %v", what, err)
		}
	}
}

func forLearner(err error) bool {
	want := status.Convert(rpctypes.ErrGRPCNotSupportedForLearner)
	return status.Code(err) == want.Code() && status.Convert(err).Message() == want.Message()
}

// first waits for the first message of a stream, which may not come before one was sent.
func first[M any](s interface {
	Recv() (M, error)
	CloseSend() error
}, err error) error {
	if err == nil {
		err = s.CloseSend()
	}
	if err == nil {
		_, err = s.Recv()
	}
	return err
}
