package etcdshim_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/etcdapi/apitest"
	"pontoon/internal/server"
	"pontoon/shard/router/etcdshim"
)

// TestSameAnswers makes the same requests through both clients: what one writes the other reads,
// and answers and errors are equal, headers included.
func TestSameAnswers(t *testing.T) {
	c := start(t, 1, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	direct, err := etcdshim.NewDirect(ctx, c.config())
	direct = opened(t, direct, err)
	plain, err := clientv3.New(c.config())
	plain = opened(t, plain, err)

	// Each does the writes on keys of its own in a span of its own; reads are shared.
	for i, k := range []string{"a", "h", "q", "h/1", "h/2"} {
		r1, err1 := direct.Put(ctx, k, fmt.Sprint(i))
		r2, err2 := plain.Put(ctx, k, fmt.Sprint(i), clientv3.WithPrevKV())
		if err1 != nil || err2 != nil {
			t.Fatalf("put: %v, %v", err1, err2)
		}
		if r2.Header.Revision != r1.Header.Revision+1 || r2.PrevKv.GetModRevision() != r1.Header.Revision {
			t.Errorf("put %s: %v and then %v", k, r1, r2)
		}
		r1.Header.Revision = r2.Header.Revision
		if !proto.Equal(r1.Header, r2.Header) {
			t.Errorf("headers differ: %v and %v", r1.Header, r2.Header)
		}
	}
	for name, op := range map[string]clientv3.Op{
		"one":         clientv3.OpGet("h"),
		"none":        clientv3.OpGet("nothing"),
		"everything":  clientv3.OpGet("", clientv3.WithPrefix()),
		"backwards":   clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(3)),
		"by value":    clientv3.OpGet("a", clientv3.WithFromKey(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)),
		"the past":    clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithRev(4)),
		"the future":  clientv3.OpGet("a", clientv3.WithRev(1000)),
		"count":       clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithCountOnly()),
		"keys":        clientv3.OpGet("h", clientv3.WithPrefix(), clientv3.WithKeysOnly()),
		"stale":       clientv3.OpGet("h", clientv3.WithSerializable()),
		"read txn":    clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version("h"), ">", 0)}, []clientv3.Op{clientv3.OpGet("h", clientv3.WithPrefix())}, nil),
		"empty txn":   clientv3.OpTxn(nil, nil, nil),
		"no delete":   clientv3.OpDelete("nothing"),
		"far txn":     clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("a"), clientv3.OpGet("q")}, nil),
		"no lease":    clientv3.OpPut("a", "1", clientv3.WithLease(99)),
		"empty key":   clientv3.OpPut("", "1"),
		"missing key": clientv3.OpPut("missing", "", clientv3.WithIgnoreValue()),
		"long":        clientv3.OpPut("a", strings.Repeat("x", 65<<10)),
		"very long":   clientv3.OpPut("a", strings.Repeat("x", 3<<20)),
		"twice":       clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("a", "1"), clientv3.OpPut("a", "2")}, nil),
		"many":        clientv3.OpTxn(nil, manyPuts(17), nil),
	} {
		r1, err1 := direct.Do(ctx, op)
		r2, err2 := plain.Do(ctx, op)
		if fmt.Sprint(err1) != fmt.Sprint(err2) && name != "very long" { // gRPC words that one
			t.Errorf("%s: error %v, plain %v", name, err1, err2)
		}
		if (err1 == nil) != (err2 == nil) || errors.Is(err1, rpctypes.ErrGRPCDuplicateKey) != errors.Is(err2, rpctypes.ErrGRPCDuplicateKey) {
			t.Errorf("%s: error %v, plain %v", name, err1, err2)
		}
		if got, want := render(r1), render(r2); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	testWrites(ctx, t, direct, plain)
	testStream(ctx, t, direct)
	testRest(ctx, t, direct)
}

func manyPuts(n int) []clientv3.Op {
	var ops []clientv3.Op
	for i := range n {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("a%d", i), ""))
	}
	return ops
}

func render(r clientv3.OpResponse) string {
	switch {
	case r.Get() != nil:
		return fmt.Sprint(r.Get().Header, r.Get().Kvs, r.Get().Count, r.Get().More)
	case r.Put() != nil:
		return fmt.Sprint(r.Put().Header, r.Put().PrevKv)
	case r.Del() != nil:
		return fmt.Sprint(r.Del().Header, r.Del().Deleted, r.Del().PrevKvs)
	case r.Txn() != nil:
		return fmt.Sprint(r.Txn().Header, r.Txn().Succeeded, r.Txn().Responses)
	}
	return "nothing"
}

// testWrites writes one way and looks the other way.
func testWrites(ctx context.Context, t *testing.T, direct, plain *clientv3.Client) {
	t.Helper()
	txn, err := direct.Txn(ctx).If(clientv3.Compare(clientv3.Value("h"), "=", "1")).
		Then(clientv3.OpPut("h", "new"), clientv3.OpDelete("h/", clientv3.WithPrefix(), clientv3.WithPrevKV()), clientv3.OpGet("h", clientv3.WithPrefix())).Commit()
	if err != nil || !txn.Succeeded || len(txn.Responses) != 3 || len(txn.Responses[1].GetResponseDeleteRange().PrevKvs) != 2 {
		t.Fatalf("txn: %v, %v", txn, err)
	}
	got, err := plain.Get(ctx, "h", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "new" || got.Kvs[0].ModRevision != txn.Header.Revision || got.Header.Revision != txn.Header.Revision {
		t.Errorf("after the txn: %v, %v", got, err)
	}
	del, err := direct.Delete(ctx, "q", clientv3.WithPrevKV())
	if err != nil || del.Deleted != 1 || string(del.PrevKvs[0].Value) != "2" {
		t.Errorf("delete: %v, %v", del, err)
	}
	if got, err := plain.Get(ctx, "q"); err != nil || got.Count != 0 {
		t.Errorf("after the delete: %v, %v", got, err)
	}
	if _, err := direct.Compact(ctx, txn.Header.Revision); err != nil {
		t.Errorf("compact: %v", err)
	}
	if _, err := plain.Get(ctx, "h", clientv3.WithRev(3)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("below the compaction: %v", err)
	}
	if _, err := direct.Get(ctx, "h", clientv3.WithRev(3)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("below the compaction, directly: %v", err)
	}
}

func testStream(ctx context.Context, t *testing.T, direct *clientv3.Client) {
	t.Helper()
	value := strings.Repeat("v", 40<<10)
	for i := range 5 {
		if _, err := direct.Put(ctx, fmt.Sprintf("s/%d", i), value); err != nil {
			t.Fatalf("put: %v", err)
		}
	}
	chunks, err := direct.GetStream(ctx, "s/", clientv3.WithPrefix())
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	n, keys := 0, 0
	for r := range chunks {
		if r.Err() != nil {
			t.Fatalf("chunk %d: %v", n, r.Err())
		}
		n++
		keys += len(r.RangeResponse.Kvs)
	}
	if n < 2 || keys != 5 {
		t.Errorf("got %d keys in %d chunks", keys, n)
	}
	// One that is given up half-way ends.
	short, cancel := context.WithCancel(ctx)
	half, err := direct.GetStream(short, "s/", clientv3.WithPrefix())
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	<-half
	cancel()
	for range half { // whatever was under way
	}
	bad, err := direct.GetStream(ctx, "s/", clientv3.WithRev(10000))
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	if r := <-bad; !errors.Is(r.Err(), rpctypes.ErrFutureRev) {
		t.Errorf("stream of the future: %v", r.Err())
	}
}

// testRest uses what goes over the ordinary connection.
func testRest(ctx context.Context, t *testing.T, direct *clientv3.Client) {
	t.Helper()
	lease, err := direct.Grant(ctx, 600)
	if err != nil {
		t.Fatalf("grant: %v", err)
	}
	put, err := direct.Put(ctx, "leased", "1", clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	ch := direct.Watch(watch, "leased", clientv3.WithRev(put.Header.Revision))
	if r := <-ch; r.Err() != nil || len(r.Events) != 1 || r.Events[0].Kv.ModRevision != put.Header.Revision {
		t.Errorf("watch: %+v", r)
	}
	if _, err := direct.Revoke(ctx, lease.ID); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if got, err := direct.Get(ctx, "leased"); err != nil || got.Count != 0 {
		t.Errorf("after the revoke: %v, %v", got, err)
	}
	if list, err := direct.MemberList(ctx); err != nil || len(list.Members) != 1 {
		t.Errorf("members: %v, %v", list, err)
	}
}

// TestFollowsLeaders writes all over the key space from many goroutines while a node stops: the
// direct way finds the new leaders, and a dead endpoint does not matter.
func TestFollowsLeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("three nodes")
	}
	c := start(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	direct, err := etcdshim.NewDirect(ctx, c.config())
	direct = opened(t, direct, err)
	write := func(round string) {
		var wg sync.WaitGroup
		for _, k := range []string{"a", "h", "q"} {
			for i := range 8 {
				wg.Go(func() {
					key := fmt.Sprintf("%s/%s/%d", k, round, i)
					// A write whose leader went away under it may be lost or not; it is the
					// program's to look.
					for ctx.Err() == nil {
						if _, err := direct.Put(ctx, key, round); err == nil {
							return
						}
					}
				})
			}
		}
		wg.Wait()
	}
	write("1")
	c.stop(t, 0)
	write("2")
	got, err := direct.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || got.Count != 48 {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestElsewhere has nodes that advertise what cannot be reached: requests take the ordinary way.
func TestElsewhere(t *testing.T) {
	unused := listen(t, "127.0.0.1:0")
	_ = unused.Close() // nobody listens there any more
	c := start(t, 1, func(int, string) string { return unused.URL })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg := c.config()
	cfg.DialTimeout = 0 // the default, which is short
	if cli, err := etcdshim.NewDirect(ctx, cfg); err == nil {
		_ = cli.Close()
		t.Error("the direct way leads nowhere")
	}
	cli, err := etcdshim.New(cfg)
	cli = opened(t, cli, err)
	for range 2 { // the first one looks for the direct way, the second need not
		if _, err := cli.Put(ctx, "a", "1"); err != nil {
			t.Errorf("put: %v", err)
		}
	}
	if got, err := cli.Get(ctx, "a"); err != nil || got.Kvs[0].Version != 2 {
		t.Errorf("get: %v, %v", got, err)
	}
}

// TestAnotherCluster replaces the cluster behind the endpoints: the nodes refuse the direct way to
// the old one, and requests take the ordinary way to the new one.
func TestAnotherCluster(t *testing.T) {
	c := start(t, 1, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cli, err := etcdshim.New(c.config())
	cli = opened(t, cli, err)
	if _, err := cli.Put(ctx, "a", "1"); err != nil {
		t.Fatalf("put: %v", err)
	}
	c.stop(t, 0)
	startAt(t, clusterID+1, []server.Listener{listen(t, c.addrs[0])}, nil)
	for range 2 {
		if got, err := cli.Get(ctx, "a"); err != nil || got.Count != 0 || got.Header.ClusterId != clusterID+1 {
			t.Errorf("get: %v, %v", got, err)
		}
	}
}

// TestWithoutTheService is against a server that knows etcd's services only.
func TestWithoutTheService(t *testing.T) {
	_, addr := apitest.New().Serve(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg := clientv3.Config{Endpoints: []string{addr}, DialTimeout: patience}
	if _, err := etcdshim.NewDirect(ctx, cfg); !errors.Is(err, etcdshim.ErrNotOffered) {
		t.Errorf("got %v", err)
	}
	cli, err := etcdshim.New(cfg)
	cli = opened(t, cli, err)
	if _, err := cli.Put(ctx, "a", "1"); err != nil {
		t.Errorf("put: %v", err)
	}
	if got, err := cli.Get(ctx, "a"); err != nil || got.Count != 1 {
		t.Errorf("get: %v, %v", got, err)
	}
	cfg.Token = "t"
	if _, err := etcdshim.NewDirect(ctx, cfg); !errors.Is(err, etcdshim.ErrCredentials) {
		t.Errorf("got %v", err)
	}
}
