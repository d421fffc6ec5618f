package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// prefixWatch is a watch of a prefix by a client, and what it has brought.
type prefixWatch struct {
	prefix string
	begun  int64 // its first revision

	mu   sync.Mutex
	got  []int64
	last int64
}

func beginPrefixWatch(ctx context.Context, t *testing.T, cl *clientv3.Client, prefix string) *prefixWatch {
	t.Helper()
	w := &prefixWatch{prefix: prefix}
	ch := cl.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	w.begun = (<-ch).Header.Revision + 1
	go func() {
		for resp := range ch {
			w.mu.Lock()
			for _, e := range resp.Events {
				if strings.HasPrefix(string(e.Kv.Key), prefix) {
					w.got = append(w.got, e.Kv.ModRevision)
				} else {
					w.got = append(w.got, -1)
				}
			}
			w.last = max(w.last, resp.Header.Revision)
			w.mu.Unlock()
		}
	}()
	return w
}

// check holds what has come against what was put.
func (w *prefixWatch) check(t *testing.T, put map[int64]string) {
	t.Helper()
	var last int64
	for rev, key := range put {
		if strings.HasPrefix(key, w.prefix) {
			last = max(last, rev)
		}
	}
	eventually(t, limit(20*time.Second), "the last event of "+w.prefix, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.got); n == 0 || w.got[n-1] < last {
			return fmt.Errorf("%d have come, not up to %d", n, last)
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[int64]bool{}
	for i, rev := range w.got {
		if i > 0 && rev <= w.got[i-1] {
			t.Errorf("watch of %q: revision %d comes behind %d", w.prefix, rev, w.got[i-1])
		}
		seen[rev] = true
		if !strings.HasPrefix(put[rev], w.prefix) {
			t.Errorf("watch of %q: revision %d is of %q", w.prefix, rev, put[rev])
		}
	}
	for rev, key := range put {
		if rev >= w.begun && strings.HasPrefix(key, w.prefix) && !seen[rev] {
			t.Errorf("watch of %q from %d: revision %d of %q is missing", w.prefix, w.begun, rev, key)
		}
	}
}

// puts are what some clients put, one key in 32 under each of two small prefixes, until they are ended.
type puts struct {
	stop    context.CancelFunc
	writing sync.WaitGroup

	mu    sync.Mutex
	byRev map[int64]string
	bytes int
}

func beginPuts(ctx context.Context, t *testing.T, c *harness.Cluster) *puts {
	p := &puts{byRev: map[int64]string{}}
	ctx, p.stop = context.WithCancel(ctx)
	value := strings.Repeat("v", 2000)
	for i := range 4 {
		cl := newClient(t, c, c.Nodes[i%len(c.Nodes)].ClientURL)
		p.writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("n/heavy/%d/%d", i, n%100)
				switch n % 32 {
				case 7:
					key = fmt.Sprintf("n/a/%d", i)
				case 20:
					key = fmt.Sprintf("n/b/%d", i)
				}
				resp, err := cl.Put(context.WithoutCancel(ctx), key, value)
				if err != nil {
					t.Error(err)
					return
				}
				p.mu.Lock()
				p.byRev[resp.Header.Revision] = key
				p.bytes += len(key) + len(value)
				p.mu.Unlock()
			}
		})
	}
	return p
}

func (p *puts) written() (n, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byRev), p.bytes
}

// await returns when so many have been put since.
func (p *puts) await(t *testing.T, n int) (bytes int) {
	t.Helper()
	began, was := p.written()
	eventually(t, limit(30*time.Second), "puts", func() error {
		if now, _ := p.written(); now < began+n {
			return fmt.Errorf("%d puts", now-began)
		}
		return nil
	})
	_, now := p.written()
	return now - was
}

// TestNarrowFeed: a watch of a small prefix, in a range that is written to heavily elsewhere, brings its own events alone to the gateway. Another prefix, and then the whole
// range, are watched as well while everything is written to: each watch has each event once and in order, and the first one hears of nothing.
func TestNarrowFeed(t *testing.T) {
	beside(t)
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(2*time.Minute))
	gate := startGateway(t, c, "g1")
	cl := newClient(t, c, gate.ClientURL)
	figure := func(name string) int {
		t.Helper()
		_, page, err := httpGet(ctx, gate.ClientURL+"/metrics")
		if err != nil {
			t.Fatal(err)
		}
		return int(metricOf(page, name))
	}
	bytes := func() int { return figure("pontoon_link_item_bytes_total") }
	p := beginPuts(ctx, t, c)
	watches := []*prefixWatch{beginPrefixWatch(ctx, t, cl, "n/a/")}
	p.await(t, 100)
	was := bytes()
	put := p.await(t, 600)
	came := bytes() - was
	t.Logf("one small prefix: %d bytes came of %d that were put", came, put)
	if came == 0 || came > put/8 || figure("pontoon_feeds_narrow") != 1 {
		t.Errorf("%d bytes came of %d; %d feeds are narrow", came, put, figure("pontoon_feeds_narrow"))
	}
	watches = append(watches, beginPrefixWatch(ctx, t, cl, "n/b/"))
	p.await(t, 100)
	was = bytes()
	put = p.await(t, 600)
	came = bytes() - was
	t.Logf("two: %d bytes came of %d; widened %d times, history was read %d times", came, put, figure("pontoon_feeds_widened_total"), figure("pontoon_watch_history_reads_total"))
	if came == 0 || came > put/4 || figure("pontoon_feeds_widened_total") == 0 {
		t.Errorf("%d bytes came of %d", came, put)
	}
	watches = append(watches, beginPrefixWatch(ctx, t, cl, ""))
	p.await(t, 100)
	was = bytes()
	put = p.await(t, 600)
	came = bytes() - was
	t.Logf("all: %d bytes came of %d; widened %d times, history was read %d times", came, put, figure("pontoon_feeds_widened_total"), figure("pontoon_watch_history_reads_total"))
	if came < put/2 || figure("pontoon_feeds_narrow") != 0 {
		t.Errorf("%d bytes came of %d; %d feeds are narrow", came, put, figure("pontoon_feeds_narrow"))
	}
	p.stop()
	p.writing.Wait()
	for _, w := range watches {
		w.check(t, p.byRev)
	}
	if n := figure("pontoon_watch_late_events_total"); n != 0 {
		t.Errorf("%d events came late", n)
	}
	if n := figure("pontoon_feeds_abandoned_total"); n != 0 {
		t.Errorf("%d feeds have begun anew, with a gap", n)
	}
}
