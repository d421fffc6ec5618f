package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// TestACompactionIsKnownOnceAcknowledged: wherever a revision of the client's reaches a store or a history,
// a compaction that was acknowledged before is known: watches of one key and of many ranges, reads of every
// kind, transactions, hashes, on the node that was asked to compact and on others.
func TestACompactionIsKnownOnceAcknowledged(t *testing.T) {
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, limit(90*time.Second))
	clients := make([]*clientv3.Client, len(c.Nodes))
	for i, n := range c.Nodes {
		clients[i] = newClient(t, c, n.ClientURL)
	}
	keys := sampleKeys()
	for round := range 12 {
		var last int64
		for i := range 2 * len(keys) {
			resp, err := clients[0].Put(ctx, keys[i%len(keys)], fmt.Sprint(round, i))
			if err != nil {
				t.Fatal(err)
			}
			last = resp.Header.Revision
		}
		at := last - int64(round%4)
		by := round % len(clients)
		if _, err := clients[by].Compact(ctx, at); err != nil {
			t.Fatal(err)
		}
		for i := range clients {
			cl := clients[(by+i)%len(clients)]
			if i > 0 && env.kind == harness.Etcd { // a member there knows what it has applied
				if _, err := cl.Get(ctx, "x"); err != nil {
					t.Fatal(err)
				}
			}
			compactedFor(ctx, t, cl, keys[round%len(keys)], at)
			if i == 0 { // as old as what another node serves without asking may be, this one knows
				serializablyCompacted(ctx, t, cl, keys[round%len(keys)], at)
			}
		}
		if t.Failed() {
			t.Fatalf("in round %d, compacted at %d by way of %s, newest %d", round, at, c.Nodes[by].Name, last)
		}
	}
}

// compactedFor holds a node to what every node must know.
func compactedFor(ctx context.Context, t *testing.T, cl *clientv3.Client, key string, at int64) {
	t.Helper()
	for _, w := range []struct {
		key   string
		opts  []clientv3.OpOption
		start int64
	}{
		{key, nil, at - 1},
		{key, nil, 2},
		{"\x00", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithPrevKV()}, at - 1},
		{"\x00", []clientv3.OpOption{clientv3.WithFromKey()}, 1},
	} {
		watchIsCompacted(ctx, t, cl, w.key, at, append(w.opts, clientv3.WithRev(w.start), clientv3.WithCreatedNotify())...)
	}
	for name, opts := range map[string][]clientv3.OpOption{
		"get": nil, "count": {clientv3.WithCountOnly()}, "span": {clientv3.WithFromKey(), clientv3.WithLimit(1)},
		"sorted": {clientv3.WithFromKey(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend)},
	} {
		get := clientv3.OpGet(key, append(opts, clientv3.WithRev(at-1))...)
		if _, err := cl.Do(ctx, get); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("%s at %d: %v", name, at-1, err)
		}
		if _, err := cl.Txn(ctx).Then(get).Commit(); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("%s at %d in a transaction: %v", name, at-1, err)
		}
		if _, err := cl.Txn(ctx).Then(clientv3.OpPut(key, "no"), get).Commit(); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("%s at %d beside a put: %v", name, at-1, err)
		}
		untaken := cl.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), ">", 0)).Then(clientv3.OpGet(key)).Else(get)
		if resp, err := untaken.Commit(); err != nil || !resp.Succeeded {
			t.Errorf("%s at %d in a branch that is not taken: %v", name, at-1, err)
		}
	}
	if _, err := cl.HashKV(ctx, cl.Endpoints()[0], at-1); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("hash at %d: %v", at-1, err)
	}
	if _, err := cl.Compact(ctx, at); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("compacted twice: %v", err)
	}
	if _, err := cl.Get(ctx, key, clientv3.WithRev(at)); err != nil {
		t.Errorf("get at %d: %v", at, err)
	}
}

// serializablyCompacted holds a node to what it has acknowledged itself.
func serializablyCompacted(ctx context.Context, t *testing.T, cl *clientv3.Client, key string, at int64) {
	t.Helper()
	for name, opts := range map[string][]clientv3.OpOption{
		"get": nil, "count": {clientv3.WithCountOnly()}, "span": {clientv3.WithFromKey()},
	} {
		opts = append(opts, clientv3.WithSerializable(), clientv3.WithRev(at-1))
		if _, err := cl.Get(ctx, key, opts...); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("serializable %s at %d: %v", name, at-1, err)
		}
	}
}

// watchIsCompacted: created, then canceled with the revision of this very compaction, and no event.
func watchIsCompacted(ctx context.Context, t *testing.T, cl *clientv3.Client, key string, at int64, opts ...clientv3.OpOption) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	created := false
	for resp := range cl.Watch(ctx, key, opts...) {
		switch {
		case len(resp.Events) > 0:
			t.Errorf("watch of %q: %d events from %d on, compacted at %d", key, len(resp.Events), resp.Events[0].Kv.ModRevision, at)
			return
		case resp.Created:
			created = true
		case resp.Canceled:
			if resp.CompactRevision != at || !created {
				t.Errorf("watch of %q: canceled with compact revision %d, not %d (created: %v): %v", key, resp.CompactRevision, at, created, resp.Err())
			}
			return
		default:
			t.Errorf("watch of %q: %+v", key, resp)
		}
	}
	t.Errorf("watch of %q: no response (created: %v): %v", key, created, ctx.Err())
}

// TestWatchAtTheCompactionRevision: what happened at it is still told.
func TestWatchAtTheCompactionRevision(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, limit(60*time.Second))
	cl := newClient(t, c)
	for _, key := range sampleKeys() {
		if _, err := cl.Put(ctx, key, "1"); err != nil {
			t.Fatal(err)
		}
		resp, err := cl.Put(ctx, key, "2")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Compact(ctx, resp.Header.Revision); err != nil {
			t.Fatal(err)
		}
		wctx, cancel := context.WithCancel(ctx)
		got := <-cl.Watch(wctx, key, clientv3.WithRev(resp.Header.Revision))
		cancel()
		if len(got.Events) != 1 || got.Events[0].Kv.ModRevision != resp.Header.Revision {
			t.Errorf("watch of %q at its compaction: %+v", key, got)
		}
	}
}
