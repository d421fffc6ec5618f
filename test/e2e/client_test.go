package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// TestServiceDiscovery is the pattern of every registry: one side registers under a lease and
// keeps it alive, the other lists and then watches from where the list was made.
func TestServiceDiscovery(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 90*time.Second)
	service, finder := newClient(t, c, c.Nodes[0].ClientURL), newClient(t, c, c.Nodes[1].ClientURL)
	const prefix = "/services/web/"

	lease, err := service.Grant(ctx, 5)
	if err != nil {
		t.Fatal(err)
	}
	if lease.TTL != 5 {
		t.Errorf("TTL %d", lease.TTL)
	}
	if _, err := service.Put(ctx, prefix+"one", "10.0.0.1:80", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	alive, err := service.KeepAlive(ctx, lease.ID)
	if err != nil {
		t.Fatal(err)
	}

	list, err := finder.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil || list.Count != 1 || string(list.Kvs[0].Value) != "10.0.0.1:80" || list.Kvs[0].Lease != int64(lease.ID) {
		t.Fatalf("list: %v, %v", list, err)
	}
	events := finder.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1), clientv3.WithPrevKV())

	// Alive for longer than the lease lasts without renewal.
	deadline := time.After(7 * time.Second)
	for renewals := 0; deadline != nil; {
		select {
		case ka, ok := <-alive:
			if !ok || ka.TTL != 5 {
				t.Fatalf("keep-alive ended after %d renewals: %v", renewals, ka)
			}
			renewals++
		case w := <-events:
			t.Fatalf("unexpected events %v, %v", w.Events, w.Err())
		case <-deadline:
			deadline = nil
		}
	}
	if _, err := service.Put(ctx, prefix+"two", "10.0.0.2:80"); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	got := collect(t, events, 2)
	if got[0].Type != mvccpb.PUT || string(got[0].Kv.Key) != prefix+"two" {
		t.Errorf("first event %v", got[0])
	}
	if got[1].Type != mvccpb.DELETE || string(got[1].Kv.Key) != prefix+"one" || got[1].PrevKv == nil || string(got[1].PrevKv.Value) != "10.0.0.1:80" {
		t.Errorf("second event %v", got[1])
	}
	if _, err := service.Delete(ctx, prefix+"two"); err != nil {
		t.Fatal(err)
	}
}

// collect takes n events of a watch.
func collect(t *testing.T, ch clientv3.WatchChan, n int) []*clientv3.Event {
	t.Helper()
	var out []*clientv3.Event
	timeout := time.After(limit(20 * time.Second))
	for len(out) < n {
		select {
		case w, ok := <-ch:
			if !ok || w.Err() != nil {
				t.Fatalf("the watch ended with %v after %d events", w.Err(), len(out))
			}
			out = append(out, w.Events...)
		case <-timeout:
			t.Fatalf("%d of %d events came", len(out), n)
		}
	}
	return out
}

// TestLeaseExpires counts on nobody: the key goes by itself.
func TestLeaseExpires(t *testing.T) {
	lengthy(t)
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	lease, err := cl.Grant(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	put, err := cl.Put(ctx, "/services/short", "x", clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := collect(t, cl.Watch(ctx, "/services/short", clientv3.WithRev(put.Header.Revision+1)), 1)
	if got[0].Type != mvccpb.DELETE {
		t.Errorf("event %v", got[0])
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("gone after %v", took)
	}
	if _, err := cl.Put(ctx, "/services/short", "x", clientv3.WithLease(lease.ID)); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("put with an expired lease: %v", err)
	}
	if ttl, err := cl.TimeToLive(ctx, lease.ID); err != nil || ttl.TTL != -1 {
		t.Errorf("time to live: %v, %v", ttl, err)
	}
}

func session(t *testing.T, cl *clientv3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(cl, concurrency.WithTTL(30))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // the lease ends by itself otherwise
	return s
}

func TestMutex(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 90*time.Second)
	const workers, rounds = 4, 4
	var inside, entered atomic.Int32
	var wg sync.WaitGroup
	for i := range workers {
		cl := newClient(t, c, c.Nodes[i%3].ClientURL)
		m := concurrency.NewMutex(session(t, cl), "kmutex/m")
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range rounds {
				if err := m.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				entered.Add(1)
				inside.Add(-1)
				if err := m.Unlock(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	if n := entered.Load(); n != workers*rounds {
		t.Errorf("entered %d times", n)
	}
	a, b := session(t, newClient(t, c)), session(t, newClient(t, c))
	held := concurrency.NewMutex(a, "kmutex/try")
	if err := held.TryLock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := concurrency.NewMutex(b, "kmutex/try").TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("second TryLock: %v", err)
	}
}

func TestElection(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 90*time.Second)
	first := concurrency.NewElection(session(t, newClient(t, c, c.Nodes[0].ClientURL)), "kelection/e")
	second := concurrency.NewElection(session(t, newClient(t, c, c.Nodes[1].ClientURL)), "kelection/e")
	if err := first.Campaign(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	won := make(chan error, 1)
	go func() { won <- second.Campaign(ctx, "two") }()
	observed := second.Observe(ctx)
	if r := <-observed; len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "one" {
		t.Errorf("observed %v", r.Kvs)
	}
	if err := first.Proclaim(ctx, "one again"); err != nil {
		t.Fatal(err)
	}
	for r := range observed {
		if string(r.Kvs[0].Value) == "one again" {
			break
		}
	}
	select {
	case err := <-won:
		t.Fatalf("two leaders: %v", err)
	default:
	}
	if err := first.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-won; err != nil {
		t.Fatal(err)
	}
	if l, err := first.Leader(ctx); err != nil || string(l.Kvs[0].Value) != "two" {
		t.Errorf("leader %v, %v", l, err)
	}
}

// TestSTM moves money between accounts of one range while others do the same.
func TestSTM(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 2*time.Minute)
	cl := newClient(t, c)
	const accounts, workers, rounds, money = 5, 4, 5, 100
	key := func(i int) string { return fmt.Sprintf("kstm/%d", i%accounts) }
	for i := range accounts {
		if _, err := cl.Put(ctx, key(i), fmt.Sprint(money)); err != nil {
			t.Fatal(err)
		}
	}
	for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		var wg sync.WaitGroup
		for w := range workers {
			cl := newClient(t, c, c.Nodes[w%3].ClientURL)
			wg.Add(1)
			go func() {
				defer wg.Done()
				for r := range rounds {
					_, err := concurrency.NewSTM(cl, transfer(key(w+r), key(w+r+1)), concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
					if err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		wg.Wait()
		resp, err := cl.Get(ctx, "kstm/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, kv := range resp.Kvs {
			sum += number(string(kv.Value))
		}
		if sum != accounts*money {
			t.Errorf("isolation %v: the sum is %d", level, sum)
		}
	}
}

func transfer(from, to string) func(concurrency.STM) error {
	return func(s concurrency.STM) error {
		a, b := number(s.Get(from)), number(s.Get(to))
		s.Put(from, fmt.Sprint(a-1))
		s.Put(to, fmt.Sprint(b+1))
		return nil
	}
}

func number(s string) int {
	var n int
	_, _ = fmt.Sscan(s, &n) // 0 for what is not there
	return n
}

// TestPaging lists two thousand keys by pages at one revision while writers change them: every
// page must show the same moment.
func TestPaging(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 3*time.Minute)
	cl := newClient(t, c)
	const keys, page = 2000, 170
	key := func(i int) string { return fmt.Sprintf("/page/%02d/%04d", i/100, i) }
	parallel(t, 16, keys, func(i int) error {
		_, err := cl.Put(ctx, key(i), "0")
		return err
	})

	writing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var writes atomic.Int64
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			wcl := clientv3.NewKV(cl)
			for i := w; writing.Err() == nil; i += 7 {
				var err error
				if k := key(i % keys); i%5 == 0 {
					_, err = wcl.Delete(writing, k)
				} else {
					_, err = wcl.Put(writing, k, fmt.Sprint(i))
				}
				if err != nil && writing.Err() == nil {
					t.Error(err)
					return
				}
				writes.Add(1)
			}
		}()
	}

	for round := range 3 {
		var rev, count int64
		var seen []*mvccpb.KeyValue
		for from := "/page/"; ; {
			resp, err := cl.Get(ctx, from, clientv3.WithRange("/page0"), clientv3.WithLimit(page), clientv3.WithRev(rev))
			if err != nil {
				t.Fatal(err)
			}
			if rev == 0 {
				rev, count = resp.Header.Revision, resp.Count
			}
			if resp.Count != count-int64(len(seen)) {
				t.Errorf("round %d: %d keys are left after %d of %d", round, resp.Count, len(seen), count)
			}
			seen = append(seen, resp.Kvs...)
			if !resp.More {
				break
			}
			from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
		whole, err := cl.Get(ctx, "/page/", clientv3.WithPrefix(), clientv3.WithRev(rev))
		if err != nil {
			t.Fatal(err)
		}
		compareKVs(t, seen, whole.Kvs)
		for _, kv := range seen {
			if kv.ModRevision > rev {
				t.Errorf("%s is of revision %d, read at %d", kv.Key, kv.ModRevision, rev)
			}
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d writes meanwhile", writes.Load())
	for _, part := range []string{"/page/0", "/page/1"} {
		for d := range 10 {
			if _, err := cl.Delete(ctx, fmt.Sprintf("%s%d/", part, d), clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func compareKVs(t *testing.T, got, want []*mvccpb.KeyValue) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
		return
	}
	for i := range got {
		if got[i].String() != want[i].String() {
			t.Errorf("key %d: got %v, want %v", i, got[i], want[i])
			return
		}
	}
}

// parallel calls f for 0…n-1 with some workers.
func parallel(t *testing.T, workers, n int, f func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// TestWatchFeatures covers what one stream can be asked for, over several ranges.
func TestWatchFeatures(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c, c.Nodes[2].ClientURL)
	writer := newClient(t, c, c.Nodes[0].ClientURL)
	from, err := writer.Put(ctx, "/order/2/feature", "1")
	if err != nil {
		t.Fatal(err)
	}
	all := cl.Watch(ctx, "/order/", clientv3.WithPrefix(), clientv3.WithRev(from.Header.Revision), clientv3.WithPrevKV())
	puts := cl.Watch(ctx, "/order/", clientv3.WithPrefix(), clientv3.WithRev(from.Header.Revision), clientv3.WithFilterDelete())
	dels := cl.Watch(ctx, "/order/", clientv3.WithPrefix(), clientv3.WithRev(from.Header.Revision), clientv3.WithFilterPut())
	wctx, cancel := context.WithCancel(ctx)
	cancelled := cl.Watch(wctx, "/order/", clientv3.WithPrefix())
	created := cl.Watch(ctx, "/order/9/feature", clientv3.WithCreatedNotify())
	if w := <-created; !w.Created || w.Header.Revision < from.Header.Revision {
		t.Errorf("created: %+v", w)
	}
	cancel()
	for range cancelled { // until it is closed
	}
	for _, k := range []string{"/order/7/feature", "/order/4/feature"} {
		if _, err := writer.Put(ctx, k, "x"); err != nil {
			t.Fatal(err)
		}
	}
	del, err := writer.Delete(ctx, "/order/2/feature")
	if err != nil {
		t.Fatal(err)
	}
	got := collect(t, all, 4)
	for i, want := range []string{"/order/2/feature", "/order/7/feature", "/order/4/feature", "/order/2/feature"} {
		if string(got[i].Kv.Key) != want {
			t.Errorf("event %d is of %s, want %s", i, got[i].Kv.Key, want)
		}
	}
	if got[3].PrevKv == nil || string(got[3].PrevKv.Value) != "1" || got[3].Kv.ModRevision != del.Header.Revision {
		t.Errorf("the delete: %+v", got[3])
	}
	if got := collect(t, puts, 3); got[2].Type != mvccpb.PUT {
		t.Errorf("a delete came through: %v", got[2])
	}
	if got := collect(t, dels, 1); got[0].Type != mvccpb.DELETE {
		t.Errorf("a put came through: %v", got[0])
	}
	progressTest(ctx, t, cl, del.Header.Revision)
	for _, k := range []string{"/order/7/feature", "/order/4/feature"} {
		if _, err := writer.Delete(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
}

// progressTest asks for progress on a watch of ranges where nothing happens.
func progressTest(ctx context.Context, t *testing.T, cl *clientv3.Client, atLeast int64) {
	t.Helper()
	ctx = clientv3.WithRequireLeader(ctx) // a stream of its own
	quiet := cl.Watch(ctx, "/page/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-quiet
	eventually(t, limit(10*time.Second), "progress on request", func() error {
		if err := cl.RequestProgress(ctx); err != nil {
			return err
		}
		select {
		case w := <-quiet:
			if !w.IsProgressNotify() || w.Header.Revision < atLeast {
				return fmt.Errorf("got %+v", w)
			}
			return nil
		case <-time.After(time.Second):
			return errors.New("no answer")
		}
	})
}

// withAll counts all keys from the given one on.
func withAll() []clientv3.OpOption {
	return []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithCountOnly()}
}
