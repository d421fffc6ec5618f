package etcdapi_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"pontoon/internal/auth"
	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/internal/token"
	"pontoon/shard"
)

// access is etcdapi.Access over a state in memory. Where nothing is lent, a question is answered when the test says so.
type access struct {
	changed func()

	mu    sync.Mutex
	view  *auth.View
	next  *auth.View // that the next answer brings; nil: what there is
	owes  bool       // nothing is lent
	asked int
	hold  bool // questions wait
	waits []func(error)
	came  chan struct{} // of a question that waits
}

func newAccess() *access {
	return &access{view: auth.NewView(auth.New()), changed: func() {}, came: make(chan struct{}, 1)}
}

func (a *access) View() *auth.View {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.view
}

func (a *access) Lent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.owes
}

func (a *access) BorrowFunc(cb func(error)) {
	a.mu.Lock()
	a.asked++
	if a.hold {
		a.waits = append(a.waits, cb)
		a.mu.Unlock()
		select {
		case a.came <- struct{}{}:
		default:
		}
		return
	}
	changed := a.arriveLocked()
	a.mu.Unlock()
	if changed {
		a.changed()
	}
	cb(nil)
}

func (a *access) arriveLocked() bool {
	if a.next == nil {
		return false
	}
	a.view, a.next = a.next, nil
	return true
}

func (a *access) Borrow(ctx context.Context) error {
	done := make(chan error, 1)
	a.BorrowFunc(func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return shard.ErrUnavailable
	}
}

func (a *access) Change(_ context.Context, e *pb.MetaAuth) error {
	a.mu.Lock()
	s, err := a.view.Apply(e)
	if err == nil {
		a.view = auth.NewView(s)
	}
	a.mu.Unlock()
	a.changed()
	return err
}

// guarded is a store with root and alice, who may read [a, c) and write b, and authentication on.
type guarded struct {
	*fixture
	access *access
	root   *clientv3.Client
	alice  *clientv3.Client
	before atomic.Pointer[func()] // called when the store is asked
}

func (g *guarded) user(t *testing.T, name string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{g.addr}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(), Username: name, Password: "secret"})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func guard(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{access: newAccess()}
	tokens, err := token.New(token.Config{Spec: "simple"})
	if err != nil {
		t.Fatal(err)
	}
	store := apitest.New()
	store.Fail = func(string) error {
		if f := g.before.Load(); f != nil {
			(*f)()
		}
		return nil
	}
	g.fixture = startStore(t, store, func(c *etcdapi.Config) {
		c.Access, c.Tokens, c.Passwords = g.access, tokens, token.NewPasswords(4, slog.New(slog.DiscardHandler))
	})
	g.access.changed = g.api.AccessChanged
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "b", "x"} {
		g.put(t, key, "1")
	}
	must(g.cli.UserAdd(g.ctx, "root", "secret"))
	must(g.cli.UserGrantRole(g.ctx, "root", "root"))
	must(g.cli.UserAdd(g.ctx, "alice", "secret"))
	must(g.cli.RoleAdd(g.ctx, "r"))
	must(g.cli.RoleGrantPermission(g.ctx, "r", "a", "c", clientv3.PermissionType(clientv3.PermRead)))
	must(g.cli.RoleGrantPermission(g.ctx, "r", "b", "", clientv3.PermissionType(clientv3.PermReadWrite)))
	must(g.cli.UserGrantRole(g.ctx, "alice", "r"))
	must(g.cli.AuthEnable(g.ctx))
	g.root, g.alice = g.user(t, "root"), g.user(t, "alice")
	return g
}

// TestEveryMethodHasARule: whatever is registered is in the table, but for what others register, which is held to it by their tests.
func TestEveryMethodHasARule(t *testing.T) {
	g := guard(t)
	s := grpc.NewServer()
	g.api.Register(s)
	n := 0
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			n++
			if method := "/" + service + "/" + m.Name; !etcdapi.Judges(method) {
				t.Errorf("%s has no rule", method)
			}
		}
	}
	if n < 45 {
		t.Errorf("the test has rotted: it finds %d methods", n)
	}
	if etcdapi.Judges("/no.Such/Method") {
		t.Error("everything has a rule")
	}
}

// denied reports whether err is etcd's for what a user may not do.
func denied(err error) bool { return errors.Is(err, rpctypes.ErrPermissionDenied) }

// TestAccess is what nobody, alice and root may do, call by call.
func TestAccess(t *testing.T) {
	g := guard(t)
	lease, err := g.root.Grant(g.ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.root.Put(g.ctx, "x", "1", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	mine, err := g.alice.Grant(g.ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		call  func(c *clientv3.Client) error
		alice bool
		root  bool
	}{
		{"get", func(c *clientv3.Client) error { _, err := c.Get(g.ctx, "a"); return err }, true, true},
		{"get a span", func(c *clientv3.Client) error { _, err := c.Get(g.ctx, "a", clientv3.WithRange("c")); return err }, true, true},
		{"get a span that goes on", func(c *clientv3.Client) error { _, err := c.Get(g.ctx, "a", clientv3.WithRange("d")); return err }, false, true},
		{"get from a key on", func(c *clientv3.Client) error { _, err := c.Get(g.ctx, "a", clientv3.WithFromKey()); return err }, false, true},
		{"get, serializable", func(c *clientv3.Client) error { _, err := c.Get(g.ctx, "x", clientv3.WithSerializable()); return err }, false, true},
		{"count", func(c *clientv3.Client) error {
			_, err := c.Get(g.ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
			return err
		}, false, true},
		{"get with a limit that stops before", func(c *clientv3.Client) error {
			_, err := c.Get(g.ctx, "a", clientv3.WithRange("z"), clientv3.WithLimit(1))
			return err
		}, false, true},
		{"put", func(c *clientv3.Client) error { _, err := c.Put(g.ctx, "b", "2"); return err }, true, true},
		{"put what can be read alone", func(c *clientv3.Client) error { _, err := c.Put(g.ctx, "a", "2"); return err }, false, true},
		{"put with a lease of one's own", func(c *clientv3.Client) error {
			_, err := c.Put(g.ctx, "b", "2", clientv3.WithLease(mine.ID))
			return err
		}, true, true},
		{"put with a lease of others", func(c *clientv3.Client) error {
			_, err := c.Put(g.ctx, "b", "2", clientv3.WithLease(lease.ID))
			return err
		}, false, true},
		{"delete", func(c *clientv3.Client) error { _, err := c.Delete(g.ctx, "b"); return err }, true, true},
		{"delete a span", func(c *clientv3.Client) error { _, err := c.Delete(g.ctx, "b", clientv3.WithRange("c")); return err }, false, true},
		{"a branch that is not taken", func(c *clientv3.Client) error {
			_, err := c.Txn(g.ctx).Then(clientv3.OpGet("a")).Else(clientv3.OpPut("x", "")).Commit()
			return err
		}, false, true},
		{"a nested lease", func(c *clientv3.Client) error {
			_, err := c.Txn(g.ctx).Then(clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpPut("b", "", clientv3.WithLease(lease.ID))})).Commit()
			return err
		}, false, true},
		{"txn", func(c *clientv3.Client) error {
			_, err := c.Txn(g.ctx).If(clientv3.Compare(clientv3.Version("a"), ">", 0)).Then(clientv3.OpPut("b", "")).Commit()
			return err
		}, true, true},
		{"compact", func(c *clientv3.Client) error { _, err := c.Compact(g.ctx, 3); return err }, false, true},
		{"members", func(c *clientv3.Client) error { _, err := c.MemberList(g.ctx); return err }, true, true},
		{"alarms", func(c *clientv3.Client) error { _, err := c.AlarmList(g.ctx); return err }, true, true},
		{"status", func(c *clientv3.Client) error { _, err := c.Status(g.ctx, g.addr); return err }, true, true},
		{"hash", func(c *clientv3.Client) error { _, err := c.HashKV(g.ctx, g.addr, 0); return err }, false, true},
		{"grant", func(c *clientv3.Client) error { _, err := c.Grant(g.ctx, 60); return err }, true, true},
		{"keep alive", func(c *clientv3.Client) error { _, err := c.KeepAliveOnce(g.ctx, mine.ID); return err }, true, true},
		{"keep others alive", func(c *clientv3.Client) error { _, err := c.KeepAliveOnce(g.ctx, lease.ID); return err }, false, true},
		{"time to live", func(c *clientv3.Client) error { _, err := c.TimeToLive(g.ctx, lease.ID); return err }, true, true},
		{"keys of a lease", func(c *clientv3.Client) error {
			_, err := c.TimeToLive(g.ctx, lease.ID, clientv3.WithAttachedKeys())
			return err
		}, false, true},
		{"leases", func(c *clientv3.Client) error { _, err := c.Leases(g.ctx); return err }, false, true},
		{"users", func(c *clientv3.Client) error { _, err := c.UserList(g.ctx); return err }, false, true},
		{"oneself", func(c *clientv3.Client) error { _, err := c.UserGet(g.ctx, "alice"); return err }, true, true},
		{"another", func(c *clientv3.Client) error { _, err := c.UserGet(g.ctx, "root"); return err }, false, true},
		{"a role one has", func(c *clientv3.Client) error { _, err := c.RoleGet(g.ctx, "r"); return err }, true, true},
		{"grant a role", func(c *clientv3.Client) error { _, err := c.UserGrantRole(g.ctx, "alice", "r"); return err }, false, true},
		{"revoke others", func(c *clientv3.Client) error { _, err := c.Revoke(g.ctx, lease.ID); return err }, false, true},
		{"auth status", func(c *clientv3.Client) error { _, err := c.AuthStatus(g.ctx); return err }, true, true},
	} {
		if err := c.call(g.alice); c.alice && err != nil || !c.alice && !denied(err) {
			t.Errorf("%s by alice: %v", c.name, err)
		}
		if err := c.call(g.cli); c.name != "auth status" && c.name != "oneself" && !errors.Is(err, rpctypes.ErrUserEmpty) {
			t.Errorf("%s by nobody: %v", c.name, err)
		}
		if err := c.call(g.root); (err == nil) != c.root {
			t.Errorf("%s by root: %v", c.name, err)
		}
	}
	perm, err := g.root.RoleAdd(g.ctx, "root")
	if err != nil {
		t.Fatal(perm, err)
	}
	if all, err := g.root.RoleGet(g.ctx, "root"); err != nil || len(all.Perm) != 1 || len(all.Perm[0].Key) != 0 || string(all.Perm[0].RangeEnd) != "\x00" {
		t.Errorf("the role root: %v, %v", all, err)
	}
}

// TestRangeStreamAccess: a stream of a span is judged as a read of it.
func TestRangeStreamAccess(t *testing.T) {
	g := guard(t)
	for end, may := range map[string]bool{"c": true, "d": false} {
		ctx := metadata.AppendToOutgoingContext(g.ctx, "token", g.login(t, "alice"))
		st, err := etcdserverpb.NewKVClient(g.conn(t)).RangeStream(ctx, &etcdserverpb.RangeRequest{Key: []byte("a"), RangeEnd: []byte(end)})
		if err == nil {
			_, err = st.Recv()
		}
		if (err == nil) != may {
			t.Errorf("to %s: %v", end, err)
		}
	}
}

func (g *guarded) login(t *testing.T, name string) string {
	t.Helper()
	resp, err := etcdserverpb.NewAuthClient(g.conn(t)).Authenticate(g.ctx, &etcdserverpb.AuthenticateRequest{Name: name, Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Token
}

// TestWatchAccess: a watch is judged as it is asked for, and again where users and roles have changed.
func TestWatchAccess(t *testing.T) {
	g := guard(t)
	for _, c := range []struct {
		name string
		key  string
		opts []clientv3.OpOption
		may  bool
	}{
		{"a key", "a", nil, true},
		{"a span", "a", []clientv3.OpOption{clientv3.WithRange("c")}, true},
		{"a key that may be read, and all behind it", "a", []clientv3.OpOption{clientv3.WithFromKey()}, false},
		{"everything", "", []clientv3.OpOption{clientv3.WithPrefix()}, false},
		{"from the past", "x", []clientv3.OpOption{clientv3.WithRev(2)}, false},
	} {
		ctx, cancel := context.WithCancel(g.ctx)
		ch := g.alice.Watch(ctx, c.key, append(c.opts, clientv3.WithCreatedNotify())...)
		r := next(t, ch)
		if c.may != (r.Err() == nil) || !c.may && !strings.Contains(r.Err().Error(), "permission denied") {
			t.Errorf("%s: %v", c.name, r.Err())
		}
		cancel()
		for range ch { // the client forgets a watch that is refused on a stream whose last other one is ending, and never closes then
		}
	}
}

// ended sees that nothing more comes of a watch: the client library closes the channel of one that the server has ended.
func ended(t *testing.T, w clientv3.WatchChan) {
	t.Helper()
	select {
	case r, ok := <-w:
		if ok && (!r.Canceled || len(r.Events) != 0) {
			t.Errorf("%+v", r)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch goes on")
	}
}

// TestWatchLosesItsRight: it ends, with etcd's reason, and what was written since is not delivered; a watch that has kept its right goes on.
func TestWatchLosesItsRight(t *testing.T) {
	g := guard(t)
	keeps := g.alice.Watch(g.ctx, "b", clientv3.WithCreatedNotify())
	next(t, keeps)
	loses := g.alice.Watch(g.ctx, "a", clientv3.WithCreatedNotify())
	next(t, loses)
	if _, err := g.root.Put(g.ctx, "a", "2"); err != nil {
		t.Fatal(err)
	}
	if r := next(t, loses); len(r.Events) != 1 {
		t.Fatalf("%+v", r)
	}
	if _, err := g.root.RoleRevokePermission(g.ctx, "r", "a", "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.root.Put(g.ctx, "a", "3"); err != nil {
		t.Fatal(err)
	}
	ended(t, loses)
	if _, err := g.root.Put(g.ctx, "b", "3"); err != nil {
		t.Fatal(err)
	}
	if r := next(t, keeps); len(r.Events) != 1 {
		t.Errorf("%+v", r)
	}
}

// TestDeliveryWaitsForTheOracle: where nothing is lent, events wait for an answer, and go by what that brings.
func TestDeliveryWaitsForTheOracle(t *testing.T) {
	g := guard(t)
	w := g.alice.Watch(g.ctx, "a", clientv3.WithCreatedNotify())
	next(t, w)
	root := g.login(t, "root")
	g.access.mu.Lock()
	g.access.owes, g.access.hold = true, true
	s, err := g.access.view.Apply(&pb.MetaAuth{Change: uint32(auth.RoleDelete), Actor: auth.Root, Role: "r"})
	if err != nil {
		t.Fatal(err)
	}
	g.access.next = auth.NewView(s)
	g.access.mu.Unlock()
	ctx := metadata.AppendToOutgoingContext(g.ctx, "token", root)
	if _, err := etcdserverpb.NewKVClient(g.conn(t)).Put(ctx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("9")}); err != nil {
		t.Fatal(err)
	}
	waits := func() []func(error) {
		g.access.mu.Lock()
		defer g.access.mu.Unlock()
		return slices.Clone(g.access.waits)
	}
	select {
	case <-g.access.came:
	case <-g.ctx.Done():
		t.Fatal("the oracle is not asked")
	}
	select {
	case r := <-w:
		t.Fatalf("before the oracle was asked: %+v", r)
	default:
	}
	g.access.mu.Lock()
	g.access.arriveLocked()
	g.access.mu.Unlock()
	for _, cb := range waits() {
		cb(nil)
	}
	ended(t, w)
}

// heldBack is a stream of root's with a watch of a, and what of it waits for the oracle since the given was done.
func (g *guarded) heldBack(t *testing.T, given func(w *rawWatch)) (w *rawWatch, answer func()) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(g.ctx, "token", g.login(t, "root"))
	s, err := etcdserverpb.NewWatchClient(g.conn(t)).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w = &rawWatch{t: t, grpcStream: s}
	if r := w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("a")}); !r.Created || r.Canceled {
		t.Fatalf("%+v", r)
	}
	g.access.mu.Lock()
	g.access.owes, g.access.hold = true, true
	g.access.mu.Unlock()
	given(w)
	select {
	case <-g.access.came:
	case <-g.ctx.Done():
		t.Fatal("the oracle is not asked")
	}
	return w, func() {
		g.access.mu.Lock()
		g.access.owes, g.access.hold = false, false
		waits := g.access.waits
		g.access.waits = nil
		g.access.mu.Unlock()
		for _, cb := range waits {
			cb(nil)
		}
	}
}

// TestAHeldMarkerSpeaksForNoNewWatch: a progress response that waited for the oracle while a further watch was created is not sent before that
// watch has its events.
func TestAHeldMarkerSpeaksForNoNewWatch(t *testing.T) {
	g := guard(t)
	w, answer := g.heldBack(t, func(w *rawWatch) {
		w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}})
	})
	if r := w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("x"), StartRevision: 2}); !r.Created || r.WatchId != 1 {
		t.Fatalf("%+v", r)
	}
	answer()
	if r := w.recv(); r.WatchId != 1 || len(r.Events) != 1 {
		t.Fatalf("before the events of the new watch: %+v", r)
	}
	if r := w.recv(); r.WatchId != -1 || len(r.Events) != 0 {
		t.Fatalf("after them: %+v", r)
	}
}

// TestHeldEventsEndWithTheirWatch: what waited for the oracle when the client cancelled its watch is not delivered any more, nor to another
// watch that takes its number.
func TestHeldEventsEndWithTheirWatch(t *testing.T) {
	g := guard(t)
	root := metadata.AppendToOutgoingContext(g.ctx, "token", g.login(t, "root"))
	w, answer := g.heldBack(t, func(*rawWatch) {
		if _, err := etcdserverpb.NewKVClient(g.conn(t)).Put(root, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("9")}); err != nil {
			t.Fatal(err)
		}
	})
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: 0}}})
	if r := w.recv(); !r.Canceled {
		t.Fatalf("%+v", r)
	}
	answer()
	if r := w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("b"), StartRevision: 2}); !r.Created {
		t.Fatalf("before the next watch was created: %+v", r)
	}
}

// TestReadGoesByTheOracle: a read is refused where the oracle's answer brings that its right is gone, though it was there when it was asked for.
func TestReadGoesByTheOracle(t *testing.T) {
	g := guard(t)
	token := g.login(t, "alice")
	s, err := g.access.view.Apply(&pb.MetaAuth{Change: uint32(auth.RoleDelete), Actor: auth.Root, Role: "r"})
	if err != nil {
		t.Fatal(err)
	}
	arrives := func() {
		g.access.mu.Lock()
		g.access.view = auth.NewView(s)
		g.access.mu.Unlock()
	}
	g.before.Store(&arrives)
	ctx := metadata.AppendToOutgoingContext(g.ctx, "token", token)
	for _, end := range []string{"", "c"} {
		_, err := etcdserverpb.NewKVClient(g.conn(t)).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("a"), RangeEnd: []byte(end)})
		if rpctypes.Error(err) != rpctypes.ErrPermissionDenied {
			t.Errorf("to %q: %v", end, err)
		}
	}
}

// TestStaleViewIsNotTheLastWord: a user that this node has not heard of yet is known once the oracle was asked.
func TestStaleViewIsNotTheLastWord(t *testing.T) {
	g := guard(t)
	g.access.mu.Lock()
	old := g.access.view
	g.access.mu.Unlock()
	if _, err := g.root.UserGrantRole(g.ctx, "alice", "root"); err != nil {
		t.Fatal(err)
	}
	g.access.mu.Lock()
	g.access.next, g.access.view, g.access.owes = g.access.view, old, true
	g.access.mu.Unlock()
	if _, err := g.alice.Put(g.ctx, "x", "1"); err != nil {
		t.Error(err)
	}
}

// TestLogin: what a login needs, and that nothing of it is in an error.
func TestLogin(t *testing.T) {
	g := guard(t)
	if _, err := g.root.UserAddWithOptions(g.ctx, "carol", "", &clientv3.UserAddOptions{NoPassword: true}); err != nil {
		t.Fatal(err)
	}
	authenticate := func(name, password string) error {
		_, err := etcdserverpb.NewAuthClient(g.conn(t)).Authenticate(g.ctx, &etcdserverpb.AuthenticateRequest{Name: name, Password: password})
		return err
	}
	for who, want := range map[[2]string]string{
		{"alice", "wrong"}:   "rpc error: code = InvalidArgument desc = etcdserver: authentication failed, invalid user ID or password",
		{"nobody", "secret"}: "rpc error: code = InvalidArgument desc = etcdserver: authentication failed, invalid user ID or password",
		{"carol", "secret"}:  "rpc error: code = Unknown desc = auth: authentication failed, password was given for no password user",
	} {
		if err := authenticate(who[0], who[1]); err == nil || err.Error() != want {
			t.Errorf("%v: %v", who, err)
		}
	}
	old := g.login(t, "alice")
	if _, err := g.root.UserChangePassword(g.ctx, "alice", "another"); err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(g.ctx, "token", old)
	if _, err := etcdserverpb.NewKVClient(g.conn(t)).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("a")}); rpctypes.Error(err) != rpctypes.ErrInvalidAuthToken {
		t.Errorf("after the password was changed: %v", err)
	}
	if _, err := g.root.UserChangePassword(g.ctx, "alice", strings.Repeat("x", 73)); err == nil || !strings.Contains(err.Error(), "bcrypt: password length exceeds 72 bytes") {
		t.Error(err)
	}
	if _, err := g.root.AuthDisable(g.ctx); err != nil {
		t.Fatal(err)
	}
	if err := authenticate("root", "secret"); rpctypes.Error(err) != rpctypes.ErrAuthNotEnabled {
		t.Error(err)
	}
	if _, err := g.cli.Put(g.ctx, "x", "anybody"); err != nil {
		t.Error(err)
	}
}

func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	t.Run("rules", func(t *testing.T) {
		t.Run("watch", TestWatchAccess)
		t.Run("loses", TestWatchLosesItsRight)
		t.Run("read", TestReadGoesByTheOracle)
		t.Run("marker", TestAHeldMarkerSpeaksForNoNewWatch)
		t.Run("held", TestHeldEventsEndWithTheirWatch)
	})
}

// TestMutants: each rule that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.AccessNames(), 2*time.Minute, mutatetest.NoticedBy, "-test.run=^TestMutant$")
	mutatetest.Each(t, []string{mutate.DrainAtOnce}, time.Minute, mutatetest.NoticedBy, "-test.run=^TestDrain$")
}
