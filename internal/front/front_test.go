package front_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
	"pontoon/shard"
	"pontoon/shard/router/etcdshim"
)

// startNode starts a host and a front over it, in one process, and returns the addresses for clients and metrics.
func startNode(t *testing.T) (f *front.Front, client, metrics string) {
	t.Helper()
	peers, cl, ml := listen(t), listen(t), listen(t)
	h, err := host.Open(host.Config{
		Name: "n1", Identity: peer.Identity{ClusterID: clusterID, Node: 0x11}, DataDir: t.TempDir(),
		Members: []shard.Member{{ID: 0x11, Name: "n1", PeerURLs: []string{peers.URL}}},
		Peer:    []httpapi.Listener{peers}, ClientURLs: []string{cl.URL}, SplitKeys: [][]byte{[]byte("g")},
		Heartbeat: 10 * time.Millisecond, Election: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, h)
	f, err = front.Open(front.Config{
		Backend: h.Backend(), Await: h.Join, Client: []httpapi.Listener{cl}, Metrics: []httpapi.Listener{ml},
		Pprof: true, JSON: true, ExtensiveMetrics: true, Election: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, f)
	select {
	case <-f.Ready():
	case <-time.After(patience):
		t.Fatal("the front is not ready")
	}
	return f, cl.Addr().String(), ml.Addr().String()
}

func open(t *testing.T, addr string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// get reads a page of the HTTP side.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := hc.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestEveryDoor knocks at each door of a front: etcd's services, health, HTTP and metrics on their ports, and the
// door for routing clients.
func TestEveryDoor(t *testing.T) {
	f, addr, metrics := startNode(t)
	cli := open(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	if _, err := cli.Put(ctx, "k", "1"); err != nil {
		t.Fatal(err)
	}
	lease, err := cli.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if ls, err := cli.Leases(ctx); err != nil || len(ls.Leases) != 1 || ls.Leases[0].ID != lease.ID {
		t.Errorf("leases: %v, %v", ls, err)
	}
	if ms, err := cli.MemberList(ctx); err != nil || len(ms.Members) != 1 || ms.Members[0].Name != "n1" {
		t.Errorf("members: %v, %v", ms, err)
	}
	if ms, err := etcdserverpb.NewClusterClient(cli.ActiveConnection()).MemberList(ctx, &etcdserverpb.MemberListRequest{}); err != nil || len(ms.Members) != 1 {
		t.Errorf("members, as this node knows them: %v, %v", ms, err)
	}
	if st, err := cli.Status(ctx, addr); err != nil || st.Leader != 0x11 || st.DbSize == 0 || st.RaftTerm == 0 {
		t.Errorf("status: %v, %v", st, err)
	}
	if as, err := cli.AlarmList(ctx); err != nil || len(as.Alarms) != 0 {
		t.Errorf("alarms: %v, %v", as, err)
	}
	if h, err := cli.HashKV(ctx, addr, 0); err != nil || h.Hash == 0 {
		t.Errorf("hash: %v, %v", h, err)
	}
	if _, err := cli.MoveLeader(ctx, 0x11); err != nil {
		t.Errorf("the lead is moved to where it is: %v", err)
	}
	if _, err := cli.MoveLeader(ctx, 0x99); !errors.Is(err, rpctypes.ErrBadLeaderTransferee) {
		t.Errorf("the lead is moved to a stranger: %v", err)
	}
	if as, err := cli.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil || len(as.Alarms) != 0 {
		t.Errorf("an alarm that nobody has raised is cleared: %v, %v", as, err)
	}
	if r := <-cli.Watch(clientv3.WithRequireLeader(ctx), "k", clientv3.WithRev(1)); r.Err() != nil || len(r.Events) != 1 {
		t.Errorf("watch that asks for a leader: %v", r)
	}
	health := healthpb.NewHealthClient(cli.ActiveConnection())
	if h, err := health.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	for path, want := range map[string]string{
		"/version": `"etcdcluster":"3.7.0"`, "/health": `"health":"true"`, "/health?serializable=true": `"health":"true"`, "/livez": "ok", "/readyz": "ok",
		"/metrics": "etcd_debugging_mvcc_watcher_total", "/pontoon/v1/nodes": `"name":"n1"`, "/debug/pprof/cmdline": "",
	} {
		if code, body := get(t, "http://"+addr+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	watch, err := http.Post("http://"+addr+"/v3/watch", "application/json", strings.NewReader(`{"create_request":{"key":"aw==","start_revision":"1"}}`))
	if err != nil {
		t.Fatalf("a watch as JSON: %v", err)
	}
	defer func() { _ = watch.Body.Close() }()
	lines := bufio.NewScanner(watch.Body)
	if !lines.Scan() || !lines.Scan() || !strings.Contains(lines.Text(), `"mod_revision":"2"`) {
		t.Errorf("a watch as JSON: %s, %v", lines.Text(), lines.Err())
	}
	locks := v3lockpb.NewLockClient(cli.ActiveConnection())
	if _, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("a")}); err != nil {
		t.Errorf("a lock: %v", err)
	}
	if code, body := get(t, "http://"+addr+"/pontoon/v1/ops"); code != 200 || body != "[]" {
		t.Errorf("ops: %d %s", code, body)
	}
	if code, body := get(t, "http://"+addr+"/pontoon/v1/ops/9"); code != 404 || !strings.Contains(body, "no op has the id 9") {
		t.Errorf("an op that there is not: %d %s", code, body)
	}
	resp, err := http.Post("http://"+addr+"/pontoon/v1/ops", "application/json", strings.NewReader(`{"split":{"key_text":""}}`))
	if err != nil || resp.StatusCode != 400 {
		t.Errorf("a split at no key: %v, %v", resp, err)
	} else {
		_ = resp.Body.Close() // the status counts
	}
	var ranges []httpapi.Range
	code, body := get(t, "http://"+addr+"/pontoon/v1/ranges")
	if err := json.Unmarshal([]byte(body), &ranges); err != nil || code != 200 || len(ranges) != 2 || ranges[0].EndText != "g" || ranges[0].Leader != 0x11 {
		t.Errorf("ranges: %d %s, %v", code, body, err)
	}
	if code, body := get(t, "http://"+metrics+"/metrics"); code != 200 || !strings.Contains(body, "etcd_server_go_version") {
		t.Errorf("metrics: %d %s", code, body)
	}

	direct, err := etcdshim.NewDirect(ctx, clientv3.Config{Endpoints: []string{addr}, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatalf("a routing client: %v", err)
	}
	if r, err := direct.Get(ctx, "k", clientv3.WithFromKey()); err != nil || r.Count != 1 {
		t.Errorf("a routing client reads %v, %v", r, err)
	}
	if _, err := direct.Put(ctx, "a", "2"); err != nil {
		t.Errorf("a routing client writes: %v", err)
	}
	if err := direct.Close(); err != nil {
		t.Error(err)
	}

	f.Retire(ctx)
	if h, err := health.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.Status == healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health of a front that is to go: %v, %v", h, err)
	}
	if r, err := cli.Get(ctx, "k"); err != nil || r.Count != 1 {
		t.Errorf("it serves on: %v, %v", r, err)
	}
}

// TestAStopEndsWhoWaits: whoever waits for a lock, and whoever watches as JSON, hears of the end of a front, and nothing of theirs is left.
func TestAStopEndsWhoWaits(t *testing.T) {
	var conn *grpc.ClientConn
	ended := make(chan error, 2)
	t.Cleanup(func() { // behind the front's end
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		_ = conn.Close()
	})
	_, addr, _ := startNode(t)
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	conn = c
	locks := v3lockpb.NewLockClient(conn)
	first, err := locks.Lock(context.Background(), &v3lockpb.LockRequest{Name: []byte("l")}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		resp, err := locks.Lock(context.Background(), &v3lockpb.LockRequest{Name: []byte("l")})
		if err == nil {
			ended <- fmt.Errorf("%s beside %s", resp.Key, first.Key)
		} else {
			ended <- nil
		}
	}()
	watch, err := http.Post("http://"+addr+"/v3/watch", "application/json", strings.NewReader(`{"create_request":{"key":"aw=="}}`))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, watch.Body) // an error is an end
		ended <- watch.Body.Close()
	}()
	cli := open(t, addr) // until the second waits, too
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for n := int64(0); n < 2; {
		r, err := cli.Get(ctx, "l/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		n = r.Count
	}
}

// TestNothingIsServedBeforeItIsTime: until Await returns clients are not served, and metrics are; a front whose time
// never comes stops.
func TestNothingIsServedBeforeItIsTime(t *testing.T) {
	members := startHosts(t, 1)
	r := openRemote(t, members)
	cl, ml := listen(t), listen(t)
	awaiting := make(chan struct{})
	f, err := front.Open(front.Config{Backend: r.Backend(), Client: []httpapi.Listener{cl}, Metrics: []httpapi.Listener{ml},
		Await: func(ctx context.Context) error {
			close(awaiting)
			<-ctx.Done()
			return ctx.Err()
		}})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, f)
	<-awaiting
	if code, _ := get(t, "http://"+ml.Addr().String()+"/metrics"); code != 200 {
		t.Errorf("metrics: %d", code)
	}
	select {
	case <-f.Ready():
		t.Error("it says that it serves")
	default:
	}
	stop()
	if _, err := cl.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the client port is open: %v", err)
	}
}
