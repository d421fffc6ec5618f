package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"pontoon/test/e2e/harness"
)

// manyKeys are keys of one name in every range.
func manyKeys(name string) []string {
	var keys []string
	for _, p := range loadPrefixes() {
		keys = append(keys, p+"/"+name)
	}
	return keys
}

// deleteAll removes what a test has left in every range.
func deleteAll(t *testing.T, cl *clientv3.Client, name string) {
	for _, k := range manyKeys(name) {
		if _, err := cl.Delete(context.Background(), k, clientv3.WithPrefix()); err != nil {
			t.Errorf("clean up %s: %v", k, err)
		}
	}
}

// TestTxnOverRanges: compares, both branches, nested transactions and reads behind writes, over
// keys in all ranges; one revision, and one response of a watch, in the order of the operations.
func TestTxnOverRanges(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	keys := manyKeys("many/txn")
	defer deleteAll(t, cl, "many/")
	first, last := keys[0], keys[len(keys)-1]
	before, err := cl.Put(ctx, last, "old")
	if err != nil {
		t.Fatal(err)
	}
	r0 := before.Header.Revision
	watch := cl.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(r0+1), clientv3.WithPrevKV())

	resp, err := cl.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(last), "=", r0), clientv3.Compare(clientv3.Version(first), "=", 0)).
		Then(
			clientv3.OpGet(last),
			clientv3.OpPut(last, "new", clientv3.WithPrevKV()),
			clientv3.OpPut(first, "1"),
			clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value(last), "=", "old")},
				[]clientv3.Op{clientv3.OpPut(keys[3], "nested"), clientv3.OpGet(last)}, []clientv3.Op{clientv3.OpPut(keys[4], "never")}),
			clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(2)),
			clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithCountOnly()),
		).Else(clientv3.OpDelete("", clientv3.WithPrefix())).Commit()
	if err != nil {
		t.Fatal(err)
	}
	rev := resp.Header.Revision
	if !resp.Succeeded || rev != r0+1 {
		t.Fatalf("succeeded %v at %d, want %d", resp.Succeeded, rev, r0+1)
	}
	if got := resp.Responses[0].GetResponseRange(); got.Header.Revision != r0 || string(got.Kvs[0].Value) != "old" {
		t.Errorf("read before the first effect: %v", got)
	}
	if got := resp.Responses[1].GetResponsePut(); got.Header.Revision != rev || string(got.PrevKv.GetValue()) != "old" {
		t.Errorf("put with prev_kv: %v", got)
	}
	nested := resp.Responses[3].GetResponseTxn()
	if !nested.Succeeded {
		t.Errorf("the nested compare saw an effect of its own transaction: %v", nested)
	} else if kv := nested.Responses[1].GetResponseRange().Kvs[0]; string(kv.Value) != "new" || kv.ModRevision != rev || kv.CreateRevision != r0 {
		t.Errorf("read behind the put: %v", kv)
	}
	if got := resp.Responses[4].GetResponseRange(); !got.More || len(got.Kvs) != 2 || string(got.Kvs[0].Key) != first || got.Kvs[0].ModRevision != rev {
		t.Errorf("list behind the puts: %v", got)
	}
	if got, err := cl.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || got.Count != resp.Responses[5].GetResponseRange().Count {
		t.Errorf("count in the transaction %d, behind it %v (%v)", resp.Responses[5].GetResponseRange().Count, got, err)
	}
	w := <-watch
	var got []string
	for _, ev := range w.Events {
		got = append(got, fmt.Sprintf("%s=%s@%d", ev.Kv.Key, ev.Kv.Value, ev.Kv.ModRevision))
	}
	want := fmt.Sprintf("[%s=new@%d %s=1@%d %s=nested@%d]", last, rev, first, rev, keys[3], rev)
	if fmt.Sprint(got) != want {
		t.Errorf("events %v\nwant %s", got, want)
	}
	txnWithoutEffect(ctx, t, cl, keys, rev)
	deleteOverRanges(ctx, t, cl, keys, watch)
}

// txnWithoutEffect takes no revision, whichever branch it goes.
func txnWithoutEffect(ctx context.Context, t *testing.T, cl *clientv3.Client, keys []string, rev int64) {
	t.Helper()
	first, last := keys[0], keys[len(keys)-1]
	resp, err := cl.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(last), "<", rev)).
		Then(clientv3.OpPut(first, "x"), clientv3.OpPut(last, "x")).
		Else(clientv3.OpGet(first), clientv3.OpGet(last), clientv3.OpDelete(keys[5])).Commit()
	if err != nil || resp.Succeeded || resp.Header.Revision != rev {
		t.Fatalf("without effect: %v, %v", resp, err)
	}
	if kv := resp.Responses[1].GetResponseRange().Kvs[0]; string(kv.Value) != "new" {
		t.Errorf("the else branch read %v", kv)
	}
	_, err = cl.Txn(ctx).Then(clientv3.OpPut(first, "x"), clientv3.OpPut(last, "x", clientv3.WithLease(4711))).Commit()
	if err == nil {
		t.Error("a put with a lease that does not exist passed")
	}
	if _, err = cl.Txn(ctx).Then(clientv3.OpPut(first, "y"), clientv3.OpGet(last, clientv3.WithRev(rev+1000))).Commit(); err == nil {
		t.Error("a read of the future passed")
	}
	got, err := cl.Get(ctx, first)
	if err != nil || string(got.Kvs[0].Value) != "1" || got.Header.Revision != rev {
		t.Errorf("a failed transaction had an effect: %v, %v", got, err)
	}
}

// deleteOverRanges: one revision, with everything that was deleted.
func deleteOverRanges(ctx context.Context, t *testing.T, cl *clientv3.Client, keys []string, watch clientv3.WatchChan) {
	t.Helper()
	for _, k := range keys[4:7] {
		put, err := cl.Put(ctx, k, "filler")
		if err != nil {
			t.Fatal(err)
		}
		if w := <-watch; len(w.Events) != 1 || w.Events[0].Kv.ModRevision != put.Header.Revision {
			t.Fatalf("event of %s at %d: %v", k, put.Header.Revision, w.Events)
		}
	}
	all, err := cl.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	del, err := cl.Delete(ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		t.Fatal(err)
	}
	if del.Deleted != all.Count || del.Header.Revision != all.Header.Revision+1 || len(del.PrevKvs) != len(all.Kvs) {
		t.Errorf("deleted %d of %d at %d", del.Deleted, all.Count, del.Header.Revision)
	}
	for i := range del.PrevKvs {
		if a, b := del.PrevKvs[i].String(), all.Kvs[i].String(); a != b {
			t.Errorf("deleted %s, read before %s", a, b)
		}
	}
	w := <-watch
	if len(w.Events) != int(all.Count) {
		t.Fatalf("%d events, %d keys were deleted", len(w.Events), all.Count)
	}
	for i, ev := range w.Events {
		if ev.Type != mvccpb.DELETE || string(ev.Kv.Key) != string(all.Kvs[i].Key) || ev.Kv.ModRevision != del.Header.Revision || ev.PrevKv == nil {
			t.Errorf("event %d: %v", i, ev)
		}
	}
}

// TestSerializableReadsOwnTransaction: through the node that answered a transaction, a serializable read
// of any of its keys sees it.
func TestSerializableReadsOwnTransaction(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	defer deleteAll(t, newClient(t, c), "many/own")
	for round := range 10 {
		for i, n := range c.Nodes {
			cl := newClient(t, c, n.ClientURL)
			value := fmt.Sprintf("%d-%d", round, i)
			keys := manyKeys("many/own")
			var ops []clientv3.Op
			for _, k := range keys {
				ops = append(ops, clientv3.OpPut(k, value))
			}
			if _, err := cl.Txn(ctx).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				got, err := cl.Get(ctx, k, clientv3.WithSerializable())
				if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
					t.Errorf("%s through %s after its own %s: %v, %v", k, n.Name, value, got, err)
				}
			}
		}
	}
}

// TestSerializableReadsOwnRevoke: through the node that answered the revoke of a lease, a serializable read
// of any of its keys finds it gone.
func TestSerializableReadsOwnRevoke(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	defer deleteAll(t, newClient(t, c), "many/revoked")
	keys := manyKeys("many/revoked")
	for round := range 10 {
		for _, n := range c.Nodes {
			cl := newClient(t, c, n.ClientURL)
			lease, err := cl.Grant(ctx, 600)
			if err != nil {
				t.Fatal(err)
			}
			var ops []clientv3.Op
			for _, k := range keys {
				ops = append(ops, clientv3.OpPut(k, "v", clientv3.WithLease(lease.ID)))
			}
			if _, err := cl.Txn(ctx).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
			if _, err := cl.Revoke(ctx, lease.ID); err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				got, err := cl.Get(ctx, k, clientv3.WithSerializable())
				if err != nil || len(got.Kvs) != 0 {
					t.Errorf("round %d: %s through %s after its own revoke: %v, %v", round, k, n.Name, got, err)
				}
			}
		}
	}
}

// TestRevokeOfALargeLease: a lease with very many keys, in all ranges, takes longer to remove than an
// election; the client waits for it, and is told the revision of the deletes.
func TestRevokeOfALargeLease(t *testing.T) {
	lengthy(t)
	c := sharedCluster(t)
	ctx := testContext(t, 3*time.Minute)
	cl := newClient(t, c)
	defer deleteAll(t, cl, "many/large")
	lease, err := cl.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	const keys, perTxn = 100_000, 128
	prefixes := manyKeys("many/large")
	for i := 0; i < keys; i += perTxn {
		var ops []clientv3.Op
		for j := i; j < min(i+perTxn, keys); j++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s/%06d", prefixes[i/perTxn%len(prefixes)], j), "v", clientv3.WithLease(lease.ID)))
		}
		if _, err := cl.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	revoked, err := cl.Revoke(ctx, lease.ID)
	if err != nil {
		t.Fatalf("after %v: %v", time.Since(began), err)
	}
	t.Logf("revoked within %v", time.Since(began))
	deletes := revoked.Header.Revision
	for _, p := range prefixes {
		before, err := cl.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithRev(deletes-1))
		if err != nil || before.Count == 0 {
			t.Errorf("%s before revision %d: %d keys, %v", p, deletes, before.Count, err)
		}
		after, err := cl.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithRev(deletes))
		if err != nil || after.Count != 0 {
			t.Errorf("%s at revision %d: %d keys, %v", p, deletes, after.Count, err)
		}
	}
}

// TestLeaseOverRanges: revoke and expiry take the keys of a lease in all ranges at one revision.
func TestLeaseOverRanges(t *testing.T) {
	c := sharedCluster(t)
	ctx := testContext(t, 60*time.Second)
	cl := newClient(t, c)
	for _, how := range []string{"revoke", "expire"} {
		lease, err := cl.Grant(ctx, 2)
		if err != nil {
			t.Fatal(err)
		}
		keys := manyKeys("many/lease-" + how)
		var ops []clientv3.Op
		for _, k := range keys {
			ops = append(ops, clientv3.OpPut(k, how, clientv3.WithLease(lease.ID)))
		}
		put, err := cl.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		ttl, err := cl.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
		if err != nil || len(ttl.Keys) != len(keys) {
			t.Errorf("attached keys: %v, %v", ttl, err)
		}
		watch := cl.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(put.Header.Revision+1))
		if how == "revoke" {
			if _, err := cl.Revoke(ctx, lease.ID); err != nil {
				t.Fatal(err)
			}
		}
		w := <-watch
		if len(w.Events) != len(keys) {
			t.Errorf("%s: %d events in the first response, want %d", how, len(w.Events), len(keys))
		}
		for _, ev := range w.Events {
			if ev.Type != mvccpb.DELETE || ev.Kv.ModRevision != put.Header.Revision+1 {
				t.Errorf("%s: %v", how, ev)
			}
		}
	}
}

// bank moves money between accounts in all ranges.
type bank struct {
	accounts  []string
	transfers atomic.Int64
	conflicts atomic.Int64
	audits    atomic.Int64
}

const openingBalance = 100

func newBank(ctx context.Context, t *testing.T, cl *clientv3.Client) *bank {
	t.Helper()
	b := &bank{}
	for i := range 3 {
		b.accounts = append(b.accounts, manyKeys(fmt.Sprintf("bank/%d", i))...)
	}
	for _, a := range b.accounts {
		if _, err := cl.Put(ctx, a, strconv.Itoa(openingBalance)); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// transfer moves an amount by a software transaction, as users of clientv3/concurrency write it.
func (b *bank) transfer(ctx context.Context, cl *clientv3.Client) error {
	from, to := b.accounts[rand.IntN(len(b.accounts))], b.accounts[rand.IntN(len(b.accounts))]
	if from == to {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	tries := int64(0)
	_, err := concurrency.NewSTM(cl, func(s concurrency.STM) error {
		tries++
		x, err1 := strconv.Atoi(s.Get(from))
		y, err2 := strconv.Atoi(s.Get(to))
		amount := 1 + rand.IntN(10)
		s.Put(from, strconv.Itoa(x-amount))
		s.Put(to, strconv.Itoa(y+amount))
		return errors.Join(err1, err2)
	}, concurrency.WithAbortContext(ctx))
	if err == nil {
		b.transfers.Add(1)
		b.conflicts.Add(tries - 1)
	}
	return err
}

// audit reads all accounts at once, as a snapshot or in a transaction, and adds up.
func (b *bank) audit(ctx context.Context, cl *clientv3.Client, inTxn bool) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var kvs []*mvccpb.KeyValue
	if inTxn {
		var ops []clientv3.Op
		for _, a := range b.accounts {
			ops = append(ops, clientv3.OpGet(a))
		}
		resp, err := cl.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil // without an answer there is nothing to add up
		}
		for _, r := range resp.Responses {
			kvs = append(kvs, r.GetResponseRange().Kvs...)
		}
	} else {
		resp, err := cl.Get(ctx, "", clientv3.WithPrefix())
		if err != nil {
			return nil
		}
		accounts := map[string]bool{}
		for _, a := range b.accounts {
			accounts[a] = true
		}
		for _, kv := range resp.Kvs {
			if accounts[string(kv.Key)] {
				kvs = append(kvs, kv)
			}
		}
	}
	sum := 0
	for _, kv := range kvs {
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return err
		}
		sum += n
	}
	if want := openingBalance * len(b.accounts); sum != want || len(kvs) != len(b.accounts) {
		return fmt.Errorf("%d accounts hold %d, want %d (in a transaction: %v)", len(kvs), sum, want, inTxn)
	}
	b.audits.Add(1)
	return nil
}

// TestBank: transfers over ranges and audits of all of them, while nodes are killed.
func TestBank(t *testing.T) {
	lengthy(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, 3*time.Minute)
	b := newBank(ctx, t, newClient(t, c))
	work, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range 8 {
		cl := newClient(t, c, append(c.Endpoints()[i%3:], c.Endpoints()[:i%3]...)...)
		wg.Go(func() {
			for work.Err() == nil {
				if i < 6 {
					_ = b.transfer(ctx, cl) // the audit says whether it did half of it
				} else if err := b.audit(ctx, cl, i == 6); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	time.Sleep(2 * time.Second)
	for i := range 3 {
		n := c.Nodes[i]
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	before := b.transfers.Load()
	eventually(t, limit(20*time.Second), "transfers go on behind the kills", func() error {
		if n := b.transfers.Load() - before; n < 20 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	stop()
	wg.Wait()
	t.Logf("%d transfers, %d conflicts, %d audits", b.transfers.Load(), b.conflicts.Load(), b.audits.Load())
	if err := b.audit(ctx, newClient(t, c), false); err != nil {
		t.Error(err)
	}
}
