package front_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/backend"
	"pontoon/internal/front"
	"pontoon/internal/httpapi"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// counted counts the calls that read ranges.
type counted struct {
	backend.Peers
	reads atomic.Int64
}

// Call implements router.Peers.
func (c *counted) Call(ctx context.Context, node shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	if req.Read != nil || req.Fence != nil || req.History != nil {
		c.reads.Add(1)
	}
	return c.Peers.Call(ctx, node, req)
}

// startMirrored starts a front over nodes elsewhere that mirrors every key with the prefix m, and returns its addresses for clients and metrics.
func startMirrored(t *testing.T, members []shard.Member) (addr, metrics string, peers *counted) {
	t.Helper()
	return startMirroring(t, members, front.MirrorConfig{Prefixes: []string{"m"}})
}

func startMirroring(t *testing.T, members []shard.Member, what front.MirrorConfig) (addr, metrics string, peers *counted) {
	t.Helper()
	r := openRemote(t, members)
	l, ml := listen(t), listen(t)
	b := r.Backend()
	peers = &counted{Peers: b.Peers}
	b.Peers = peers
	f, err := front.Open(front.Config{
		Backend: b, Await: r.Join, Client: []httpapi.Listener{l}, Metrics: []httpapi.Listener{ml}, Mirror: what,
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
	return l.Addr().String(), ml.URL, peers
}

// figure reads a metric.
func figure(t *testing.T, metrics, name string) (v float64) {
	t.Helper()
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := hc.Get(metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

// streamed: a list that is streamed comes from memory as well, in several chunks where it is large, and says what the ranges say.
func streamed(ctx context.Context, t *testing.T, cli, direct *clientv3.Client, metrics string, peers *counted) {
	t.Helper()
	for i := range 3 {
		if _, err := cli.Put(ctx, fmt.Sprintf("m/1/%d", i), strings.Repeat("large", 200<<10)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(c *clientv3.Client, opts []clientv3.OpOption) (*clientv3.GetResponse, int) {
		t.Helper()
		ch, err := c.GetStream(ctx, "m/", opts...)
		if err != nil {
			t.Fatal(err)
		}
		again, chunks := make(chan clientv3.RangeStreamResponse), 0
		go func() {
			defer close(again)
			for r := range ch {
				chunks++
				again <- r
			}
		}()
		got, err := clientv3.GetStreamToGetResponse(again)
		if err != nil {
			t.Fatal(err)
		}
		got.Header = nil
		return got, chunks
	}
	prefix := clientv3.WithPrefix()
	for _, opts := range [][]clientv3.OpOption{{prefix}, {prefix, clientv3.WithLimit(7)}, {prefix, clientv3.WithKeysOnly()}, {clientv3.WithRange("m/05")}} {
		hits, reads := figure(t, metrics, "pontoon_gateway_mirror_hits_total"), peers.reads.Load()
		got, chunks := list(cli, opts)
		if figure(t, metrics, "pontoon_gateway_mirror_hits_total") != hits+1 || peers.reads.Load() != reads {
			t.Error("a stream was not answered from memory")
		}
		want, _ := list(direct, opts)
		a, _ := proto.Marshal((*etcdserverpb.RangeResponse)(got))
		b, _ := proto.Marshal((*etcdserverpb.RangeResponse)(want))
		if string(a) != string(b) {
			t.Errorf("%d bytes, the ranges answer with %d", len(a), len(b))
		}
		if len(a) > 2<<20 && chunks < 2 {
			t.Errorf("%d bytes in %d chunks", len(a), chunks)
		}
	}
	for i := range 3 {
		if _, err := cli.Delete(ctx, fmt.Sprintf("m/1/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMirror: lists of what is mirrored say what lists of the ranges say, byte for byte, but for the revision that is current, and come from memory.
func TestMirror(t *testing.T) {
	members := startHosts(t, 3)
	addr, metrics, peers := startMirrored(t, members)
	direct, cli := open(t, startFront(t, members)), open(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var first, last int64
	for i := range 300 {
		put := func(key string) {
			r, err := cli.Put(ctx, key, strings.Repeat("v", i))
			if err != nil {
				t.Fatal(err)
			}
			if last = r.Header.Revision; first == 0 {
				first = last
			}
		}
		put(fmt.Sprintf("m/%03d", i*7%100))
		if i%10 == 0 {
			put("other")
		}
	}
	for figure(t, metrics, "pontoon_gateway_mirror_parts") < 1 {
		if ctx.Err() != nil {
			t.Fatal("nothing is mirrored")
		}
		<-time.After(10 * time.Millisecond)
	}
	prefix := clientv3.WithPrefix()
	lists := [][]clientv3.OpOption{
		{prefix}, {prefix, clientv3.WithLimit(7)}, {prefix, clientv3.WithKeysOnly()}, {prefix, clientv3.WithCountOnly()}, {prefix, clientv3.WithSerializable()},
		{prefix, clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(3)}, {clientv3.WithRange("m/05"), clientv3.WithLimit(100)},
		{prefix, clientv3.WithLimit(7), clientv3.WithKeysOnly()},
	}
	for _, opts := range lists {
		hits := figure(t, metrics, "pontoon_gateway_mirror_hits_total")
		got, err := cli.Get(ctx, "m/", opts...)
		if err != nil {
			t.Fatal(err)
		}
		if figure(t, metrics, "pontoon_gateway_mirror_hits_total") != hits+1 {
			t.Error("a list was not answered from memory")
		}
		want, err := direct.Get(ctx, "m/", opts...)
		if err != nil {
			t.Fatal(err)
		}
		got.Header, want.Header = nil, nil
		a, _ := proto.Marshal((*etcdserverpb.RangeResponse)(got))
		b, _ := proto.Marshal((*etcdserverpb.RangeResponse)(want))
		if string(a) != string(b) {
			t.Errorf("%d bytes, the ranges answer with %d", len(a), len(b))
		}
	}
	// What a mirror is not asked for.
	for _, opts := range [][]clientv3.OpOption{
		{}, {prefix, clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend)}, {prefix, clientv3.WithMinModRev(last - 5)}, {clientv3.WithFromKey()},
	} {
		hits := figure(t, metrics, "pontoon_gateway_mirror_hits_total")
		if _, err := cli.Get(ctx, "m/001", opts...); err != nil {
			t.Fatal(err)
		}
		if figure(t, metrics, "pontoon_gateway_mirror_hits_total") != hits {
			t.Error("a mirror has answered what it cannot know better")
		}
	}
	// However many lists: no range is read.
	reads := peers.reads.Load()
	for range 100 {
		if _, err := cli.Get(ctx, "m/", prefix); err != nil {
			t.Fatal(err)
		}
	}
	if n := peers.reads.Load() - reads; n != 0 {
		t.Errorf("a hundred lists have read ranges %d times", n)
	}
	// Every write is in every list that comes behind it, and what a revision held is told later, too.
	for i := range 50 {
		put, err := direct.Put(ctx, "m/new", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		list, err := cli.Get(ctx, "m/", prefix)
		if err != nil {
			t.Fatal(err)
		}
		if kv := list.Kvs[len(list.Kvs)-1]; string(kv.Value) != fmt.Sprint(i) || list.Header.Revision < put.Header.Revision {
			t.Fatalf("after a put at %d a list at %d has %v", put.Header.Revision, list.Header.Revision, kv)
		}
		old, err := cli.Get(ctx, "m/", prefix, clientv3.WithRev(put.Header.Revision-1))
		if err != nil {
			t.Fatal(err)
		}
		if kv := old.Kvs[len(old.Kvs)-1]; i > 0 && string(kv.Value) != fmt.Sprint(i-1) {
			t.Fatalf("before the put at %d there was %v", put.Header.Revision, kv)
		}
	}
	if _, err := cli.Get(ctx, "m/", prefix, clientv3.WithRev(last+1000)); err != rpctypes.ErrFutureRev {
		t.Errorf("a revision of the future: %v", err)
	}
	if _, err := direct.Compact(ctx, last); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Get(ctx, "m/", prefix, clientv3.WithRev(last-1)); err != rpctypes.ErrCompacted {
		t.Errorf("a revision that was compacted: %v", err)
	}
	streamed(ctx, t, cli, direct, metrics, peers)
	// A watch of the same keys begins beside the mirror, and the mirror stands.
	voids := figure(t, metrics, "pontoon_gateway_mirror_void_total")
	ch := cli.Watch(ctx, "m/", prefix, clientv3.WithCreatedNotify())
	<-ch
	if _, err := direct.Put(ctx, "m/watched", ""); err != nil {
		t.Fatal(err)
	}
	if evs := events(t, ch, 1); string(evs[0].Kv.Key) != "m/watched" {
		t.Errorf("%v", evs)
	}
	if list, err := cli.Get(ctx, "m/", prefix); err != nil || list.Count != 102 {
		t.Errorf("%v", err)
	}
	if figure(t, metrics, "pontoon_gateway_mirror_void_total") != voids {
		t.Error("a watch has made a mirror void")
	}
}
