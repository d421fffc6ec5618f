package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// latencies are those of the requests that ended in a stretch of time.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
	err error
}

func (l *latencies) note(d time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
	if err != nil && l.err == nil {
		l.err = err
	}
}

// take returns what has been noted, ascending, and begins anew.
func (l *latencies) take() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.all
	l.all = nil
	slices.Sort(out)
	return out
}

func quantiles(l []time.Duration) string {
	if len(l) == 0 {
		return "nothing"
	}
	at := func(q float64) time.Duration {
		return l[min(len(l)-1, int(q*float64(len(l))))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d requests, p50 %v, p99 %v, p99.9 %v, longest %v", len(l), at(0.5), at(0.99), at(0.999), at(1))
}

// TestSplitLarge cuts a range of some size under 256 clients, half of whose requests are puts. It tells how long they waited, and how
// much more disk the nodes took; no client sees an error.
func TestSplitLarge(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	bytes, clients, measured := 16<<20, 64, 3*time.Second
	if env.long {
		bytes, clients, measured = 256<<20, 256, 10*time.Second
	}
	c := newCluster(t, harness.Options{Ranges: 1, Args: byHand().Args})
	ctx := testContext(t, 10*time.Minute)
	const valueBytes = 4 << 10
	keys := bytes / valueBytes
	key := func(i int) string { return fmt.Sprintf("/large/%06d", i) }
	value := func() string {
		b := make([]byte, valueBytes)
		for i := range b {
			b[i] = byte('a' + rand.IntN(26))
		}
		return string(b)
	}
	var cls []*clientv3.Client
	for i := range 8 {
		cls = append(cls, newClient(t, c, c.Nodes[i%len(c.Nodes)].ClientURL))
	}
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < keys; i += 32 {
				if _, err := cls[w%len(cls)].Put(ctx, key(i), value()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	var lat latencies
	stop := make(chan struct{})
	small := value()[:256]
	for i := range clients {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				k, began := key(rand.IntN(keys)), time.Now()
				var err error
				if rand.IntN(2) == 0 {
					_, err = cls[i%len(cls)].Put(ctx, k, small)
				} else {
					_, err = cls[i%len(cls)].Get(ctx, k)
				}
				lat.note(time.Since(began), err)
			}
		})
	}
	during := func(what func()) []time.Duration {
		lat.take()
		over := time.After(measured)
		what()
		<-over
		return lat.take()
	}
	before := during(func() {})
	var stood, took time.Duration
	cut := during(func() {
		began := time.Now()
		stood = split(ctx, t, c, key(keys/2))
		took = time.Since(began)
	})
	after := during(func() {})
	close(stop)
	wg.Wait()
	if lat.err != nil {
		t.Errorf("a client's error: %v", lat.err)
	}
	t.Logf("%d MiB in %d keys, %d clients; the split took %v, the range stood for %v", bytes>>20, keys, clients, took.Round(time.Millisecond), stood)
	t.Logf("before: %s", quantiles(before))
	t.Logf("split:  %s", quantiles(cut))
	t.Logf("after:  %s", quantiles(after))
	resp, err := newClient(t, c).Get(ctx, "/large/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || resp.Count != int64(keys) {
		t.Errorf("%d keys are there, not %d: %v", resp.Count, keys, err)
	}
	sameHash(ctx, t, newClient(t, c), c, resp.Header.Revision)
}
