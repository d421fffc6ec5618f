package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
	judge "pontoon/test/history"
)

// mirrorFigure reads a figure of a gateway's mirrors.
func mirrorFigure(ctx context.Context, t *testing.T, g *harness.Node, name string) float64 {
	t.Helper()
	all, err := metricsOf(ctx, g)
	if err != nil {
		t.Fatal(err)
	}
	v, err := all.Value("pontoon_gateway_mirror_" + name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func awaitMirrors(ctx context.Context, t *testing.T, g *harness.Node, parts float64) {
	t.Helper()
	eventually(t, limit(10*time.Second), fmt.Sprintf("%v ranges are mirrored", parts), func() error {
		if got := mirrorFigure(ctx, t, g, "parts"); got < parts {
			return fmt.Errorf("%v are", got)
		}
		return nil
	})
}

// awaitMirrored waits until a node says of the only gateway that it mirrors the keys with the prefix m/, which are not written to any more.
func awaitMirrored(ctx context.Context, t *testing.T, n *harness.Node, reader *clientv3.Client) {
	t.Helper()
	list, err := reader.Get(ctx, "m/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var bytes int64
	for _, kv := range list.Kvs {
		bytes += int64(len(kv.Key) + len(kv.Value))
	}
	eventually(t, limit(20*time.Second), "what is said of what a gateway mirrors", func() error {
		all, err := listGateways(ctx, n)
		if err == nil && (len(all) != 1 || all[0].MirrorKeys != list.Count || all[0].MirrorBytes < bytes) {
			err = fmt.Errorf("%+v, want %d keys of %d bytes", all, list.Count, bytes)
		}
		return err
	})
}

// TestMirrorHistory: clients do everything at once, most of them through a gateway that mirrors their keys, while ranges are cut and merged, and a node and
// the gateway die. Whatever lists said, one etcd could have said.
func TestMirrorHistory(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(4*time.Minute))
	split(ctx, t, c, "m/b/")
	split(ctx, t, c, "m/c/k03")
	gate := startGateway(t, c, "g1", "--mirror-prefixes=m/", "--mirror-audit-interval=1s", "--mirror-history=10s")
	awaitMirrors(ctx, t, gate, 3)
	rec := judge.NewRecorder()
	var clients, watching []*clientv3.Client
	for i := range 12 {
		at := []*harness.Node{gate}
		if i%4 == 3 {
			at = []*harness.Node{c.Nodes[i%3]}
		}
		clients = append(clients, newClient(t, c, at[0].ClientURL))
	}
	watching = append(watching, newClient(t, c, c.Nodes[0].ClientURL), newClient(t, c, gate.ClientURL))
	load := judge.NewLoad(rec, clients, judge.LoadConfig{Prefixes: []string{"m/a/", "m/b/", "m/c/"}, MultiRange: true, Compact: 3 * time.Second, Pause: 5 * time.Millisecond, Seed: 1})
	load.Start(ctx, watching)
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for i := range rounds {
		for _, key := range []string{"m/a/k02", "m/b/k04", "m/c/k01"} {
			split(ctx, t, c, key)
			time.Sleep(500 * time.Millisecond)
		}
		n := c.Nodes[i%3]
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := errors.Join(n.Start(), c.WaitReady(ctx)); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"m/a/k02", "m/b/k04", "m/c/k01"} {
			merge(ctx, t, c, key)
		}
		awaitMirrors(ctx, t, gate, 3)
		time.Sleep(2 * time.Second)
	}
	hits, wrong, audits := mirrorFigure(ctx, t, gate, "hits_total"), mirrorFigure(ctx, t, gate, "wrong_total"), mirrorFigure(ctx, t, gate, "audits_total")
	misses, voids := mirrorFigure(ctx, t, gate, "misses_total"), mirrorFigure(ctx, t, gate, "void_total")
	if err := gate.Kill(); err != nil {
		t.Fatal(err)
	}
	restartGateway(t, gate)
	if err := load.Stop(ctx); err != nil {
		t.Error(err)
	}
	h := rec.History()
	r := judge.Check(h, judge.Options{})
	t.Logf("%v hits, %v misses, %v void, %v audits; %d answers, %d writes, %d unknown, %d watches, %d events", hits, misses, voids, audits, r.Ops, r.Writes, r.Unknown, r.Watches, r.Events)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if lin := judge.Linearizable(h, judge.Limits{PerKey: 2 * time.Second, Total: 20 * time.Second}); lin.Err() != nil {
		t.Error(lin.Err())
	}
	if wrong != 0 || hits < 30 || audits == 0 {
		t.Errorf("%v lists were answered by mirrors, %v comparisons, of which %v found a difference", hits, audits, wrong)
	}
}

// TestMirrorTorn: 64 writers put the same value to keys of two ranges in one transaction each; whoever lists both at a gateway finds them equal, and never
// older than what had been acknowledged. Lists reach no range.
func TestMirrorTorn(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(3*time.Minute))
	split(ctx, t, c, "m/b")
	gate := startGateway(t, c, "g1", "--mirror-prefixes=m/", "--mirror-audit-interval=1s")
	writer, reader := newClient(t, c), newClient(t, c, gate.ClientURL)
	awaitMirrors(ctx, t, gate, 2)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]int{}
	for i := range writersAtOnce {
		key := fmt.Sprintf("%02d", i)
		wg.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := writer.Txn(ctx).Then(clientv3.OpPut("m/a"+key, fmt.Sprint(n)), clientv3.OpPut("m/b"+key, fmt.Sprint(n))).Commit(); err != nil {
					t.Errorf("a write: %v", err)
					return
				}
				mu.Lock()
				acked[key] = n
				mu.Unlock()
			}
		})
	}
	lists := 300
	if testing.Short() {
		lists = 80
	}
	for i := range lists {
		mu.Lock()
		before := map[string]int{}
		for k, n := range acked {
			before[k] = n
		}
		mu.Unlock()
		list, err := reader.Get(ctx, "m/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]string{}
		for _, kv := range list.Kvs {
			values[string(kv.Key)] = string(kv.Value)
		}
		for k, n := range before {
			a, b := values["m/a"+k], values["m/b"+k]
			var got int
			if _, err := fmt.Sscan(a, &got); err != nil || a != b || got < n {
				t.Fatalf("list %d at revision %d has %q and %q of writer %s, of whom %d had been acknowledged", i, list.Header.Revision, a, b, k, n)
			}
		}
	}
	close(stop)
	wg.Wait()
	awaitMirrored(ctx, t, c.Nodes[0], reader)
	hits, misses := mirrorFigure(ctx, t, gate, "hits_total"), mirrorFigure(ctx, t, gate, "misses_total")
	t.Logf("%v hits, %v misses", hits, misses)
	if hits < float64(lists)*0.9 {
		t.Errorf("%v of %d lists were answered by mirrors, %v went to the ranges", hits, lists, misses)
	}
}
