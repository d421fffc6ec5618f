package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"pontoon/test/e2e/harness"
)

// Inputs that users' clients send and that Pontoon once answered in another way than etcd. Genuine etcd
// passes all of them.

// dial is a connection without anything that clientv3 adds.
func dial(t *testing.T, n *harness.Node, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient(strings.TrimPrefix(n.ClientURL, "http://"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// refusal is how a call ends that is refused: its code and the text.
func refusal(err error) string {
	if err == nil {
		return "answered"
	}
	s, _ := status.FromError(err)
	return fmt.Sprintf("%v: %s", s.Code(), s.Message())
}

// grpcError is how a call ends with an error of etcd's table.
func grpcError(err error) string {
	s := status.Convert(err)
	return fmt.Sprintf("%v: %s", s.Code(), s.Message())
}

// TestReportedAuth: what a store without users answers to every call about them, which is what a client
// asks that was given a user, or a tool that lists them.
func TestReportedAuth(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	for name, call := range authCalls(etcdserverpb.NewAuthClient(dial(t, c.Nodes[1]))) {
		t.Run(name, func(t *testing.T) {
			resp, err := call.do(ctx)
			if got := refusal(err); got != call.want {
				t.Errorf("%s, want %s", got, call.want)
			}
			if err != nil {
				return
			}
			if h := resp.GetHeader(); h.GetClusterId() == 0 || h.GetMemberId() == 0 || h.GetRaftTerm() == 0 || h.GetRevision() == 0 {
				t.Errorf("header %v", h)
			}
		})
	}
}

type headed interface {
	GetHeader() *etcdserverpb.ResponseHeader
}

type authCall struct {
	do   func(context.Context) (headed, error)
	want string
}

// asked makes a call of one of the generated methods.
func asked[Req any, Resp headed](method func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req, want error) authCall {
	text := "answered"
	if want != nil {
		text = grpcError(want)
	}
	return authCall{want: text, do: func(ctx context.Context) (headed, error) {
		resp, err := method(ctx, req)
		return resp, err
	}}
}

func authCalls(auth etcdserverpb.AuthClient) map[string]authCall {
	type (
		userAdd = etcdserverpb.AuthUserAddRequest
		grant   = etcdserverpb.AuthRoleGrantPermissionRequest
	)
	return map[string]authCall{
		"status":             asked(auth.AuthStatus, &etcdserverpb.AuthStatusRequest{}, nil),
		"disable":            asked(auth.AuthDisable, &etcdserverpb.AuthDisableRequest{}, nil),
		"enable":             asked(auth.AuthEnable, &etcdserverpb.AuthEnableRequest{}, rpctypes.ErrGRPCRootUserNotExist),
		"authenticate":       asked(auth.Authenticate, &etcdserverpb.AuthenticateRequest{Name: "root", Password: "pw"}, rpctypes.ErrGRPCAuthNotEnabled),
		"user list":          asked(auth.UserList, &etcdserverpb.AuthUserListRequest{}, nil),
		"user get":           asked(auth.UserGet, &etcdserverpb.AuthUserGetRequest{Name: "x"}, rpctypes.ErrGRPCUserNotFound),
		"user add, no name":  asked(auth.UserAdd, &userAdd{Password: "pw"}, rpctypes.ErrGRPCUserEmpty),
		"user delete":        asked(auth.UserDelete, &etcdserverpb.AuthUserDeleteRequest{Name: "root"}, rpctypes.ErrGRPCUserNotFound),
		"user passwd":        asked(auth.UserChangePassword, &etcdserverpb.AuthUserChangePasswordRequest{Name: "x", Password: "y"}, rpctypes.ErrGRPCUserNotFound),
		"user grant":         asked(auth.UserGrantRole, &etcdserverpb.AuthUserGrantRoleRequest{User: "x", Role: "root"}, rpctypes.ErrGRPCUserNotFound),
		"user revoke":        asked(auth.UserRevokeRole, &etcdserverpb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}, rpctypes.ErrGRPCUserNotFound),
		"role list":          asked(auth.RoleList, &etcdserverpb.AuthRoleListRequest{}, nil),
		"role get":           asked(auth.RoleGet, &etcdserverpb.AuthRoleGetRequest{Role: "root"}, rpctypes.ErrGRPCRoleNotFound),
		"role add, no name":  asked(auth.RoleAdd, &etcdserverpb.AuthRoleAddRequest{}, rpctypes.ErrGRPCRoleEmpty),
		"role delete":        asked(auth.RoleDelete, &etcdserverpb.AuthRoleDeleteRequest{Role: "x"}, rpctypes.ErrGRPCRoleNotFound),
		"role revoke":        asked(auth.RoleRevokePermission, &etcdserverpb.AuthRoleRevokePermissionRequest{Role: "x"}, rpctypes.ErrGRPCRoleNotFound),
		"role grant, none":   asked(auth.RoleGrantPermission, &grant{Name: "x"}, rpctypes.ErrGRPCPermissionNotGiven),
		"role grant, no key": asked(auth.RoleGrantPermission, &grant{Name: "x", Perm: &authpb.Permission{}}, rpctypes.ErrGRPCInvalidAuthMgmt),
		"role grant, a span backwards": asked(auth.RoleGrantPermission,
			&grant{Name: "x", Perm: &authpb.Permission{Key: []byte("b"), RangeEnd: []byte("a")}}, rpctypes.ErrGRPCInvalidAuthMgmt),
		"role grant": asked(auth.RoleGrantPermission,
			&grant{Name: "x", Perm: &authpb.Permission{Key: []byte("a"), RangeEnd: []byte{0}}}, rpctypes.ErrGRPCRoleNotFound),
	}
}

// TestReportedUser: a client that was given a user goes on without a token where authentication is off.
func TestReportedUser(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints(), DialTimeout: 10 * time.Second, Logger: zap.NewNop(), Username: "root", Password: "pw",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Close() }()
	if _, err := cl.Put(ctx, "reported/user", "1"); err != nil {
		t.Error(err)
	}
	defer deletePrefix(t, cl, "reported/user")
	ctl := harness.Etcdctl{Binary: env.etcdctl, Endpoints: c.Endpoints()}
	if out, err := ctl.Run(ctx, "", "--user=root:pw", "get", "reported/user", "--print-value-only"); err != nil || strings.TrimSpace(out) != "1" {
		t.Errorf("%q, %v", out, err)
	}
}

func deletePrefix(t *testing.T, cl *clientv3.Client, prefix string) {
	if _, err := cl.Delete(context.Background(), prefix, clientv3.WithPrefix()); err != nil {
		t.Errorf("clean up %s: %v", prefix, err)
	}
}

// TestReportedAlarm: an alarm that nobody raised can be cleared.
func TestReportedAlarm(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	m := etcdserverpb.NewMaintenanceClient(dial(t, c.Nodes[0]))
	for _, kind := range []etcdserverpb.AlarmType{etcdserverpb.AlarmType_NONE, etcdserverpb.AlarmType_NOSPACE, etcdserverpb.AlarmType_CORRUPT} {
		resp, err := m.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_DEACTIVATE, Alarm: kind, MemberID: 1})
		if err != nil || len(resp.Alarms) != 0 || resp.Header.GetRevision() == 0 {
			t.Errorf("%v: %v, %v", kind, resp, err)
		}
	}
	ctl := harness.Etcdctl{Binary: env.etcdctl, Endpoints: c.Endpoints()}
	if out, err := ctl.Run(ctx, "", "alarm", "disarm"); err != nil || out != "" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestReportedGzip: a client that compresses is understood, whatever it calls.
func TestReportedGzip(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	conn := dial(t, c.Nodes[2], grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	kv := etcdserverpb.NewKVClient(conn)
	key, value := []byte("reported/gzip"), bytes.Repeat([]byte("value "), 500)
	defer deletePrefix(t, newClient(t, c), string(key))

	put, err := kv.Put(ctx, &etcdserverpb.PutRequest{Key: key, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*etcdserverpb.RangeRequest{{Key: key}, {Key: key, RangeEnd: append(bytes.Clone(key), 0)}} {
		got, err := kv.Range(ctx, r)
		if err != nil || len(got.Kvs) != 1 || !bytes.Equal(got.Kvs[0].Value, value) {
			t.Errorf("range %v: %v, %v", r, got, err)
		}
	}
	w, err := etcdserverpb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &etcdserverpb.WatchCreateRequest{Key: key, StartRevision: put.Header.Revision}
	if err := w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	var events int
	for events == 0 {
		resp, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		events += len(resp.Events)
	}
	lease := etcdserverpb.NewLeaseClient(conn)
	granted, err := lease.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{TTL: 60})
	if err != nil {
		t.Fatal(err)
	}
	alive, err := lease.LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := alive.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: granted.ID}); err != nil {
		t.Fatal(err)
	}
	if resp, err := alive.Recv(); err != nil || resp.TTL == 0 {
		t.Errorf("keep-alive: %v, %v", resp, err)
	}
	if _, err := lease.LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: granted.ID}); err != nil {
		t.Error(err)
	}
}

// nested is a put within so many transactions.
func nested(txns int, key string) *etcdserverpb.TxnRequest {
	op := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte(key)}}}
	for {
		txn := &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{op}}
		if txns--; txns == 0 {
			return txn
		}
		op = &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: txn}}
	}
}

// TestReportedNesting: transactions nest as deep as the limit of operations lets them.
func TestReportedNesting(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	conn := dial(t, c.Nodes[0])
	kv := etcdserverpb.NewKVClient(conn)
	key := "reported/nesting"
	defer deletePrefix(t, newClient(t, c), key)
	for _, depth := range []int{64, 65, 66, 100, 127, 128} {
		resp, err := kv.Txn(ctx, nested(depth, key))
		if err != nil {
			t.Fatalf("%d deep: %v", depth, err)
		}
		for range depth - 1 {
			resp = resp.Responses[0].GetResponseTxn()
		}
		if resp.Responses[0].GetResponsePut() == nil {
			t.Errorf("%d deep: %v", depth, resp)
		}
	}
	if _, err := kv.Txn(ctx, nested(129, key)); refusal(err) != grpcError(rpctypes.ErrGRPCTooManyOps) {
		t.Errorf("129 deep: %v", err)
	}
}

// rawWatch is a raw watch stream.
type rawWatch struct {
	t      *testing.T
	stream etcdserverpb.Watch_WatchClient
}

func newRawWatch(ctx context.Context, t *testing.T, conn *grpc.ClientConn) rawWatch {
	t.Helper()
	stream, err := etcdserverpb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return rawWatch{t, stream}
}

func (w rawWatch) create(r *etcdserverpb.WatchCreateRequest) {
	w.t.Helper()
	if err := w.stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w rawWatch) next() *etcdserverpb.WatchResponse {
	w.t.Helper()
	resp, err := w.stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// TestReportedWatchID: an id below zero is an id.
func TestReportedWatchID(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	key := "reported/watch-id"
	defer deletePrefix(t, cl, key)
	w := newRawWatch(ctx, t, dial(t, c.Nodes[0]))
	for _, id := range []int64{-5, -2, -1 << 63} {
		w.create(&etcdserverpb.WatchCreateRequest{Key: []byte(key), WatchId: id})
		if resp := w.next(); !resp.Created || resp.Canceled || resp.WatchId != id {
			t.Fatalf("%d: %v", id, resp)
		}
	}
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte(key), WatchId: -5})
	if resp := w.next(); !resp.Created || !resp.Canceled || resp.WatchId != -1 {
		t.Errorf("the same again: %v", resp)
	}
	if _, err := cl.Put(ctx, key, "1"); err != nil {
		t.Fatal(err)
	}
	got := map[int64]bool{}
	for range 3 {
		resp := w.next()
		if len(resp.Events) != 1 {
			t.Fatal(resp)
		}
		got[resp.WatchId] = true
	}
	if !got[-5] || !got[-2] || !got[-1<<63] {
		t.Errorf("events of %v", got)
	}
}

// TestReportedHeaders: headers without a revision.
func TestReportedHeaders(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	key := "reported/headers"
	defer deletePrefix(t, cl, key)
	for _, linearizable := range []bool{true, false} {
		resp, err := etcdserverpb.NewClusterClient(dial(t, c.Nodes[0])).MemberList(ctx, &etcdserverpb.MemberListRequest{Linearizable: linearizable})
		if err != nil {
			t.Fatal(err)
		}
		if h := resp.Header; h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 || h.Revision != 0 {
			t.Errorf("members: %v", h)
		}
	}
	var rev int64
	for range 3 {
		resp, err := cl.Put(ctx, key, "1")
		if err != nil {
			t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	if _, err := cl.Compact(ctx, rev); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(10*time.Second), "compacted everywhere", func() error {
		w := newRawWatch(ctx, t, dial(t, c.Nodes[0]))
		w.create(&etcdserverpb.WatchCreateRequest{Key: []byte(key), StartRevision: rev - 2})
		if resp := w.next(); !resp.Created || resp.Canceled || resp.Header.Revision == 0 {
			t.Fatal(resp)
		}
		resp := w.next()
		if resp.CompactRevision != rev {
			return fmt.Errorf("%v, want it compacted at %d", resp, rev)
		}
		if h := resp.Header; !resp.Canceled || resp.Created || h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 || h.Revision != 0 {
			t.Errorf("canceled: %v", resp)
		}
		return nil
	})
}

// TestReportedStatus: no field of Status that has a meaning is left empty.
func TestReportedStatus(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	st, err := etcdserverpb.NewMaintenanceClient(dial(t, c.Nodes[0])).Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	fields := st.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		switch f := fields.Get(i); f.Name() {
		case "errors", "isLearner": // empty where all is well
		default:
			if !st.ProtoReflect().Has(f) {
				t.Errorf("%s is empty: %v", f.Name(), st)
			}
		}
	}
}

// TestReportedInnerRevision: a range in a transaction that asks for a revision below zero is refused where
// it is carried out; a range alone takes it for the current one.
func TestReportedInnerRevision(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	keys := manyKeys("reported/inner")
	defer deleteAll(t, cl, "reported/")
	put, err := cl.Put(ctx, keys[0], "1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Compact(ctx, put.Header.Revision); err != nil {
		t.Fatal(err)
	}
	read := clientv3.OpGet(keys[0], clientv3.WithRev(-1))
	if resp, err := cl.Do(ctx, read); err != nil || len(resp.Get().Kvs) != 1 {
		t.Errorf("alone: %v, %v", resp, err)
	}
	other := clientv3.OpPut(keys[0], "2")
	far := clientv3.OpPut(keys[len(keys)-1], "2") // another range
	holds := clientv3.Compare(clientv3.Version(keys[0]), ">", 0)
	for name, then := range map[string][]clientv3.Op{
		"alone": {read}, "behind a put": {other, read}, "over ranges": {far, read}, "nested": {clientv3.OpTxn(nil, []clientv3.Op{read}, nil)},
		"counted": {clientv3.OpGet(keys[0], clientv3.WithRev(-7), clientv3.WithCountOnly())}, "over ranges, only read": {clientv3.OpGet(keys[len(keys)-1]), read},
	} {
		if _, err := cl.Txn(ctx).If(holds).Then(then...).Commit(); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("%s: %v", name, err)
		}
		if resp, err := cl.Txn(ctx).If(holds).Else(then...).Commit(); err != nil || !resp.Succeeded {
			t.Errorf("%s, in the other branch: %v, %v", name, resp, err)
		}
	}
	if got, err := cl.Get(ctx, keys[0]); err != nil || string(got.Kvs[0].Value) != "1" {
		t.Errorf("%v, %v", got, err)
	}
}

// TestReportedLongKey: a key that is longer than any that is stored is not there, and nothing more.
func TestReportedLongKey(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	defer deleteAll(t, cl, "reported/")
	var keys []string
	for _, k := range manyKeys("reported/long") {
		keys = append(keys, k+strings.Repeat("x", 20_000))
	}
	long, far := keys[0], keys[len(keys)-1]
	for _, k := range []string{long, far} {
		for name, op := range map[string]clientv3.Op{
			"get": clientv3.OpGet(k), "serializable": clientv3.OpGet(k, clientv3.WithSerializable()),
			"prefix": clientv3.OpGet(k, clientv3.WithPrefix()), "from it": clientv3.OpGet(k, clientv3.WithRange(k+"y")),
			"count": clientv3.OpGet(k, clientv3.WithPrefix(), clientv3.WithCountOnly()),
		} {
			if resp, err := cl.Do(ctx, op); err != nil || len(resp.Get().Kvs) != 0 || resp.Get().Count != 0 {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, op := range map[string]clientv3.Op{
			"delete": clientv3.OpDelete(k), "delete prefix": clientv3.OpDelete(k, clientv3.WithPrefix()),
			"delete with prev": clientv3.OpDelete(k, clientv3.WithPrevKV()),
		} {
			if resp, err := cl.Do(ctx, op); err != nil || resp.Del().Deleted != 0 {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	absent := clientv3.Compare(clientv3.Version(long), "=", 0)
	put := clientv3.OpPut(long, "never")
	short := manyKeys("reported/short")
	for name, then := range map[string][]clientv3.Op{
		"one range": {clientv3.OpGet(long), clientv3.OpDelete(long), clientv3.OpPut(short[0], "1")},
		"ranges":    {clientv3.OpGet(long), clientv3.OpDelete(far), clientv3.OpPut(short[len(short)-1], "1"), clientv3.OpPut(short[0], "2")},
		"nested":    {clientv3.OpTxn([]clientv3.Cmp{absent}, nil, []clientv3.Op{put}), clientv3.OpPut(short[1], "1")},
		"only read": {clientv3.OpGet(long), clientv3.OpGet(far)},
	} {
		if resp, err := cl.Txn(ctx).If(absent).Then(then...).Else(put).Commit(); err != nil || !resp.Succeeded {
			t.Errorf("%s: %v", name, err)
		}
	}
	if resp, err := cl.Txn(ctx).If(absent).Then().Else(put, clientv3.OpPut(far, "never", clientv3.WithPrevKV())).Commit(); err != nil || !resp.Succeeded {
		t.Errorf("two puts that do not come to pass: %v", err)
	}
}

// TestLongKeyIsRefused: what etcd would store, and Pontoon does not, is refused with a text that says why.
func TestLongKeyIsRefused(t *testing.T) {
	pontoonOnly(t)
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	keys := manyKeys("reported/refused")
	defer deleteAll(t, cl, "reported/")
	long := keys[0] + strings.Repeat("x", 20_000-len(keys[0]))
	fits := keys[0] + strings.Repeat("x", 16_320-len(keys[0]))
	if _, err := cl.Put(ctx, fits, "1"); err != nil {
		t.Errorf("a key at the limit: %v", err)
	}
	put := clientv3.OpPut(long, "1")
	for name, op := range map[string]clientv3.Op{
		"put": put, "txn": clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(keys[0], "1"), put}, nil),
		"ranges": clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(keys[len(keys)-1], "1"), put}, nil),
		"nested": clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{put}, nil)}, nil),
	} {
		_, err := cl.Do(ctx, op)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "20000") || !strings.Contains(err.Error(), "16320") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := cl.Get(ctx, keys[0]); err != nil || len(got.Kvs) != 0 {
		t.Errorf("half of a refused transaction: %v, %v", got, err)
	}
}
