package etcdapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

func TestWatchReplay(t *testing.T) {
	f := start(t, nil)
	f.put(t, "a", "1")
	f.put(t, "a", "2")
	if _, err := f.cli.Delete(f.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	ch := f.cli.Watch(f.ctx, "a", clientv3.WithRev(1), clientv3.WithPrevKV())
	r := next(t, ch)
	var got []string
	for _, e := range r.Events {
		prev := "-"
		if e.PrevKv != nil {
			prev = string(e.PrevKv.Value)
		}
		got = append(got, fmt.Sprintf("%s %s@%d v%d prev=%s", e.Type, e.Kv.Value, e.Kv.ModRevision, e.Kv.Version, prev))
	}
	want := "PUT 1@2 v1 prev=-; PUT 2@3 v2 prev=1; DELETE @4 v0 prev=2"
	if g := strings.Join(got, "; "); g != want || r.Header.Revision != 4 {
		t.Errorf("got %q at %d, want %q at 4", g, r.Header.Revision, want)
	}
	f.put(t, "a", "3")
	if e := next(t, ch).Events; len(e) != 1 || string(e[0].Kv.Value) != "3" {
		t.Errorf("live: %v", e)
	}
}

// TestWatchFromNow: the created response names the current revision, and nothing that was
// acknowledged before is delivered.
func TestWatchFromNow(t *testing.T) {
	f := start(t, nil)
	f.put(t, "a", "before")
	ch := f.cli.Watch(f.ctx, "a", clientv3.WithCreatedNotify())
	created := next(t, ch)
	if !created.Created || created.Header.Revision != 2 {
		t.Fatalf("created: %+v", created)
	}
	f.put(t, "a", "after")
	if e := next(t, ch).Events; len(e) != 1 || string(e[0].Kv.Value) != "after" {
		t.Errorf("got %v", e)
	}
}

func TestWatchFilters(t *testing.T) {
	f := start(t, nil)
	dels := f.cli.Watch(f.ctx, "", clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithFilterPut())
	puts := f.cli.Watch(f.ctx, "", clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithFilterDelete())
	f.put(t, "a", "1")
	if _, err := f.cli.Delete(f.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if e := next(t, dels).Events; len(e) != 1 || e[0].Type != clientv3.EventTypeDelete {
		t.Errorf("without puts: %v", e)
	}
	if e := next(t, puts).Events; len(e) != 1 || e[0].Type != clientv3.EventTypePut {
		t.Errorf("without deletes: %v", e)
	}
}

func TestWatchFuture(t *testing.T) {
	f := start(t, nil)
	ch := f.cli.Watch(f.ctx, "a", clientv3.WithRev(4))
	for i := range 4 {
		f.put(t, "a", fmt.Sprint(i))
	}
	if e := next(t, ch).Events; e[0].Kv.ModRevision != 4 {
		t.Errorf("begins at %d, want 4", e[0].Kv.ModRevision)
	}
}

func TestWatchCompacted(t *testing.T) {
	f := start(t, nil)
	for i := range 4 {
		f.put(t, "a", fmt.Sprint(i))
	}
	if _, err := f.cli.Compact(f.ctx, 4); err != nil {
		t.Fatal(err)
	}
	r := next(t, f.cli.Watch(f.ctx, "a", clientv3.WithRev(2)))
	if !r.Canceled || r.CompactRevision != 4 || !errors.Is(r.Err(), rpctypes.ErrCompacted) {
		t.Errorf("got %+v, %v", r, r.Err())
	}
}

// rawWatch talks to the stream itself.
type rawWatch struct {
	t *testing.T
	grpcStream
}

type grpcStream = etcdserverpb.Watch_WatchClient

func (f *fixture) rawWatch(t *testing.T) *rawWatch {
	t.Helper()
	s, err := etcdserverpb.NewWatchClient(f.conn(t)).Watch(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &rawWatch{t: t, grpcStream: s}
}

func (w *rawWatch) create(c *etcdserverpb.WatchCreateRequest) *etcdserverpb.WatchResponse {
	w.t.Helper()
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: c}})
	return w.recv()
}

func (w *rawWatch) send(r *etcdserverpb.WatchRequest) {
	w.t.Helper()
	if err := w.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *rawWatch) recv() *etcdserverpb.WatchResponse {
	w.t.Helper()
	r, err := w.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestWatchStreamProtocol(t *testing.T) {
	f := start(t, nil)
	w := f.rawWatch(t)
	for i, tc := range []struct {
		req    *etcdserverpb.WatchCreateRequest
		id     int64
		reason string
	}{
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("a")}, id: 0},
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("a"), WatchId: 1}, id: 1},
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("b")}, id: 2}, // leaves 1 out
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("a"), WatchId: 1}, id: -1, reason: "mvcc: duplicate watch ID provided on the WatchStream"},
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}, id: -1, reason: "mvcc: watcher range is empty"},
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b")}, id: -1, reason: "mvcc: watcher range is empty"},
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("a"), StartRevision: -1}, id: -1, reason: "etcdserver: mvcc: required revision has been compacted"},
		{req: &etcdserverpb.WatchCreateRequest{Key: []byte("a"), WatchId: -1}, id: -1, reason: "etcdserver: watch id -1 stands for no watch"},
		{req: &etcdserverpb.WatchCreateRequest{}, id: 3}, // the smallest key
	} {
		r := w.create(tc.req)
		if !r.Created || r.WatchId != tc.id || r.CancelReason != tc.reason || r.Canceled != (tc.id < 0) {
			t.Errorf("%d: got %v", i, r)
		}
	}
	w.send(&etcdserverpb.WatchRequest{}) // nothing: left out
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: 77}}})
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: 1}}})
	if r := w.recv(); !r.Canceled || r.WatchId != 1 || r.CancelReason != "" {
		t.Errorf("cancel: %v", r)
	}
	f.put(t, "a", "1")
	if r := w.recv(); r.WatchId != 0 || len(r.Events) != 1 {
		t.Errorf("event: %v", r)
	}
	w.send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}})
	if r := w.recv(); r.WatchId != -1 || r.Header.Revision != 2 || len(r.Events) != 0 {
		t.Errorf("progress: %v", r)
	}
}

// TestWatchBurst: what a client sends without waiting is answered in order, whatever needs the oracle.
func TestWatchBurst(t *testing.T) {
	const watches = 500
	s := apitest.New()
	var calls atomic.Int32
	s.Fail = func(call string) error {
		if call == "Current" && calls.Add(1)%3 == 1 {
			return shard.ErrUnavailable
		}
		return nil
	}
	f := startStore(t, s, nil)
	f.put(t, "a", "1")
	w := f.rawWatch(t)
	go func() {
		for i := range int64(watches) {
			c := &etcdserverpb.WatchCreateRequest{Key: []byte("a"), WatchId: i + 1, StartRevision: i % 3}
			if i%10 == 9 {
				c.RangeEnd = []byte("a") // refused
			}
			_ = w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: c}})
			if i%7 == 6 {
				_ = w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{
					CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: i - 1},
				}})
			}
		}
	}()
	answer := func() *etcdserverpb.WatchResponse {
		for {
			if r := w.recv(); r.Created || r.Canceled {
				return r
			}
		}
	}
	for i := range int64(watches) {
		want := i + 1
		if i%10 == 9 {
			want = -1
		}
		if r := answer(); !r.Created || r.WatchId != want {
			t.Fatalf("creation %d: %v", i, r)
		}
		if i%7 == 6 && (i-2)%10 != 9 {
			if r := answer(); r.Created || r.WatchId != i-1 {
				t.Fatalf("cancellation after %d: %v", i, r)
			}
		}
	}
}

// TestWatchNotRead: a client that does not read holds up nobody, and gets everything when it does.
func TestWatchNotRead(t *testing.T) {
	const puts = 60
	f := start(t, nil)
	stuck := f.rawWatch(t)
	stuck.create(&etcdserverpb.WatchCreateRequest{Key: []byte("a")})
	other := f.cli.Watch(f.ctx, "a", clientv3.WithCreatedNotify())
	next(t, other)
	value := strings.Repeat("x", 100_000) // more than windows and buffers take
	for i := range puts {
		f.put(t, "a", fmt.Sprint(i, " ", value))
		if e := next(t, other).Events; len(e) != 1 {
			t.Fatalf("put %d: %d events", i, len(e))
		}
	}
	for i := 0; i < puts; {
		for _, e := range stuck.recv().Events {
			if want := fmt.Sprint(i, " "); !strings.HasPrefix(string(e.Kv.Value), want) {
				t.Fatalf("event %d: %.10s", i, e.Kv.Value)
			}
			i++
		}
	}
}

func TestWatchProgress(t *testing.T) {
	f := start(t, func(c *etcdapi.Config) { c.ProgressInterval = 100 * time.Millisecond })
	f.put(t, "a", "1")
	notify := f.cli.Watch(f.ctx, "b", clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	next(t, notify) // created
	r := next(t, notify)
	if !r.IsProgressNotify() || r.Header.Revision != 2 {
		t.Errorf("got %+v", r)
	}
	if err := f.cli.RequestProgress(f.ctx); err != nil {
		t.Fatal(err)
	}
	if r := next(t, notify); !r.IsProgressNotify() {
		t.Errorf("got %+v", r)
	}
}

func TestWatchFragments(t *testing.T) {
	f := start(t, func(c *etcdapi.Config) { c.MaxRequestBytes = 1 << 20 })
	// The overhead of half a mebibyte counts: three values of 700 kB do not fit into one.
	for i := range 3 {
		f.put(t, fmt.Sprint("k", i), strings.Repeat("x", 700_000))
	}
	w := f.rawWatch(t)
	var got []string
	r := w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 1, Fragment: true})
	if !r.Created {
		t.Fatalf("got %v", r)
	}
	// Raise gRPC's own limit is not needed: no part is above 4 MiB.
	for n := 0; n < 3; {
		r := w.recv()
		n += len(r.Events)
		got = append(got, fmt.Sprintf("%d %v", len(r.Events), r.Fragment))
	}
	if g := strings.Join(got, "; "); g != "1 true; 1 true; 1 false" && g != "2 true; 1 false" && g != "1 false; 1 false; 1 false" {
		t.Errorf("got %q", g)
	}
	// The client library puts them together again.
	resp := next(t, f.cli.Watch(f.ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithFragment()))
	if len(resp.Events) == 0 || len(resp.Events[0].Kv.Value) != 700_000 {
		t.Errorf("got %d events", len(resp.Events))
	}
}

// TestWatchWaitsForTheOracle: a watch from now on is not refused while nobody knows what now is.
func TestWatchWaitsForTheOracle(t *testing.T) {
	s := apitest.New()
	var calls atomic.Int32
	s.Fail = func(call string) error {
		if call == "Current" && calls.Add(1) < 3 {
			return shard.ErrUnavailable
		}
		return nil
	}
	f := startStore(t, s, nil)
	if r := next(t, f.cli.Watch(f.ctx, "a", clientv3.WithCreatedNotify())); !r.Created || r.Err() != nil {
		t.Errorf("got %+v", r)
	}
}

func TestRequireLeader(t *testing.T) {
	f := start(t, func(c *etcdapi.Config) { c.ElectionTimeout = 20 * time.Millisecond })
	ctx := clientv3.WithRequireLeader(f.ctx)
	wanting := f.cli.Watch(ctx, "a", clientv3.WithCreatedNotify())
	other := f.cli.Watch(f.ctx, "a", clientv3.WithCreatedNotify())
	next(t, wanting)
	next(t, other)
	lease, err := f.cli.Grant(f.ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	f.store.SetLeader(false)
	if r := next(t, wanting); !errors.Is(r.Err(), rpctypes.ErrNoLeader) {
		t.Errorf("got %v", r.Err())
	}
	for {
		// Only once the client has noticed does the channel close; nothing else may come.
		if _, ok := <-wanting; !ok {
			break
		}
	}
	kv := etcdserverpb.NewKVClient(f.conn(t))
	if _, err := kv.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("a")}); !errors.Is(rpctypes.Error(err), rpctypes.ErrNoLeader) {
		t.Errorf("put that wants a leader: %v", err)
	}
	alive, err := etcdserverpb.NewLeaseClient(f.conn(t)).LeaseKeepAlive(ctx)
	if err == nil {
		_, err = alive.Recv()
	}
	if !errors.Is(rpctypes.Error(err), rpctypes.ErrNoLeader) {
		t.Errorf("keep-alive that wants a leader: %v", err)
	}
	f.put(t, "a", "1")
	if e := next(t, other).Events; len(e) != 1 {
		t.Errorf("the watch that does not care got %v", e)
	}
	if _, err := f.cli.KeepAliveOnce(f.ctx, lease.ID); err != nil {
		t.Error(err)
	}
}

// TestClose: streams end with an error after which clients go elsewhere, and leave nothing behind.
func TestClose(t *testing.T) {
	f := start(t, nil)
	w := f.rawWatch(t)
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("a")})
	alive, err := etcdserverpb.NewLeaseClient(f.conn(t)).LeaseKeepAlive(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := alive.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := alive.Recv(); err != nil {
		t.Fatal(err)
	}
	f.api.Close()
	for name, recv := range map[string]func() error{
		"watch":      func() error { return second(w.Recv()) },
		"keep-alive": func() error { return second(alive.Recv()) },
	} {
		if err := recv(); status.Code(err) != codes.Unavailable || !errors.Is(rpctypes.Error(err), rpctypes.ErrStopped) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	eventually(t, func() bool { n, _ := f.store.Streams(); return n == 0 })
}

func TestClientCancelsWatch(t *testing.T) {
	f := start(t, nil)
	ctx, cancel := context.WithCancel(f.ctx)
	ch := f.cli.Watch(ctx, "a", clientv3.WithCreatedNotify())
	next(t, ch)
	cancel()
	eventually(t, func() bool { _, n := f.store.Streams(); return n == 0 })
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("did not happen in 10 s")
		}
	}
}

// beats brings a beat when the test says so.
type beats struct {
	mu  sync.Mutex
	fns []func()
}

func (b *beats) Next(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fns = append(b.fns, fn)
}

// beat calls what waits, and tells how much that was.
func (b *beats) beat() int {
	b.mu.Lock()
	fns := b.fns
	b.fns = nil
	b.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
	return len(fns)
}

// TestDeliveriesWaitForABeat: what a stream is due goes out at the next beat in one write, and what a client asks does not wait for it.
func TestDeliveriesWaitForABeat(t *testing.T) {
	b := &beats{}
	f := start(t, func(c *etcdapi.Config) { c.Beats = b })
	ch := f.cli.Watch(f.ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := next(t, ch); !r.Created { // without a beat
		t.Fatalf("the watch begins with %+v", r)
	}
	for i := range 5 {
		f.put(t, fmt.Sprint("k", i), "v")
	}
	if n := b.beat(); n != 1 {
		t.Errorf("%d waited for the beat, one stream does", n)
	}
	r := next(t, ch)
	if len(r.Events) != 5 {
		t.Errorf("%d events in the first response", len(r.Events))
	}
	f.put(t, "k", "v")
	if n := b.beat(); n != 1 {
		t.Errorf("%d waited for the second beat", n)
	}
	if r := next(t, ch); len(r.Events) != 1 {
		t.Errorf("after the second beat: %+v", r)
	}
}
