package front_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"pontoon/internal/backend"
	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// A watchdog of Pebble's files outlives their store for up to a second; it is not ours.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/vfs.(*diskHealthCheckingFS).startTickerLocked.func1"))
}

const (
	clusterID = 0xc1
	patience  = 2 * time.Minute // of a test, on a busy machine
)

func listen(t *testing.T) httpapi.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return httpapi.Listener{Listener: l, URL: "http://" + l.Addr().String()}
}

// part is a host, a front or a remote backend.
type part interface {
	Run(ctx context.Context) error
	Close() error
}

// run runs a part until the test ends.
func run(t *testing.T, p part) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// startHosts starts nodes that serve no clients.
func startHosts(t *testing.T, n int) []shard.Member {
	t.Helper()
	var members []shard.Member
	var peers []httpapi.Listener
	for i := range n {
		peers = append(peers, listen(t))
		members = append(members, shard.Member{ID: shard.NodeID(0x11 + i), Name: fmt.Sprintf("n%d", i+1), PeerURLs: []string{peers[i].URL}})
	}
	for i, m := range members {
		h, err := host.Open(host.Config{
			Name: m.Name, Identity: peer.Identity{ClusterID: clusterID, Node: m.ID}, Members: members, DataDir: t.TempDir(),
			Peer: peers[i : i+1], SplitKeys: [][]byte{[]byte("g"), []byte("p")},
		})
		if err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
		run(t, h)
	}
	return members
}

// openRemote makes a backend of nodes elsewhere, and runs it.
func openRemote(t *testing.T, members []shard.Member) *backend.Remote {
	t.Helper()
	r, err := backend.OpenRemote(backend.RemoteConfig{Identity: peer.Identity{ClusterID: clusterID, Node: 0x99}, Members: members})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r)
	return r
}

// startFront starts a front over nodes elsewhere and returns its address.
func startFront(t *testing.T, members []shard.Member) string {
	t.Helper()
	r := openRemote(t, members)
	l := listen(t)
	f, err := front.Open(front.Config{Backend: r.Backend(), Await: r.Join, Client: []httpapi.Listener{l}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, f)
	select {
	case <-f.Ready():
	case <-time.After(patience):
		t.Fatal("the front is not ready")
	}
	return l.Addr().String()
}

// events reads n events of a watch.
func events(t *testing.T, ch clientv3.WatchChan, n int) (evs []*clientv3.Event) {
	t.Helper()
	for len(evs) < n {
		r, ok := <-ch
		if !ok || r.Err() != nil {
			t.Fatalf("the watch has ended after %d events: %v", len(evs), r.Err())
		}
		evs = append(evs, r.Events...)
	}
	return evs
}

// TestAFrontWithoutAHost serves a genuine client over three nodes from a process that holds nothing: writes,
// reads at all consistencies, transactions over ranges, watches from the past on, leases, maintenance.
func TestAFrontWithoutAHost(t *testing.T) {
	addr := startFront(t, startHosts(t, 3))
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cli.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	all := cli.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	if r := <-all; !r.Created {
		t.Fatalf("the watch begins with %+v", r)
	}
	var first int64
	for i, k := range []string{"a", "h", "q"} { // one a range
		r, err := cli.Put(ctx, k, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = r.Header.Revision
		}
		if want := first + int64(i); r.Header.Revision != want || r.Header.MemberId != 0x99 || r.Header.ClusterId != clusterID {
			t.Errorf("header %v, want revision %d", r.Header, want)
		}
	}
	for i, e := range events(t, all, 3) {
		if e.Kv.ModRevision != first+int64(i) || string(e.Kv.Value) != fmt.Sprint(i) {
			t.Errorf("event %d: %v", i, e)
		}
	}
	for _, op := range []clientv3.OpOption{clientv3.WithLimit(0), clientv3.WithSerializable(), clientv3.WithRev(first + 2)} {
		if r, err := cli.Get(ctx, "a", clientv3.WithFromKey(), op); err != nil || len(r.Kvs) != 3 || r.Count != 3 {
			t.Errorf("range: %v, %v", r, err)
		}
	}
	txn, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "0")).
		Then(clientv3.OpPut("a", "x"), clientv3.OpPut("q", "x"), clientv3.OpDelete("h")).Commit()
	if err != nil || !txn.Succeeded || txn.Header.Revision != first+3 {
		t.Fatalf("txn: %v, %v", txn, err)
	}
	for _, e := range events(t, all, 3) {
		if e.Kv.ModRevision != first+3 || e.PrevKv == nil {
			t.Errorf("event of the transaction: %v", e)
		}
	}
	old := events(t, cli.Watch(ctx, "q", clientv3.WithRev(first)), 2)
	if old[0].Kv.ModRevision != first+2 || old[1].Kv.ModRevision != first+3 {
		t.Errorf("the past of q: %v", old)
	}

	lease, err := cli.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Put(ctx, "leased", "", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	if r, err := cli.KeepAliveOnce(ctx, lease.ID); err != nil || r.TTL != 60 {
		t.Errorf("keep-alive: %v, %v", r, err)
	}
	if r, err := cli.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys()); err != nil || len(r.Keys) != 1 {
		t.Errorf("time to live: %v, %v", r, err)
	}
	if _, err := cli.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	if e := events(t, all, 2)[1]; e.Type != clientv3.EventTypeDelete || string(e.Kv.Key) != "leased" {
		t.Errorf("the lease's key: %v", e)
	}
	if _, err := cli.Compact(ctx, first+2); err != nil {
		t.Errorf("compact: %v", err)
	}
	if _, err := cli.HashKV(ctx, addr, 0); err != nil {
		t.Errorf("hash: %v", err)
	}
	if st, err := cli.Status(ctx, addr); err != nil || st.Leader == 0 {
		t.Errorf("status: %v, %v", st, err)
	}
	if ms, err := cli.MemberList(ctx); err != nil || len(ms.Members) != 3 {
		t.Errorf("members: %v, %v", ms, err)
	}
}
