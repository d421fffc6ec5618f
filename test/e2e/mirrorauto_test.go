package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// listed lists a prefix at a gateway, behind a write elsewhere, and holds the answer against that.
func listed(ctx context.Context, t *testing.T, writer, reader *clientv3.Client, prefix string, n int) {
	t.Helper()
	key, value := fmt.Sprintf("%s%02d", prefix, n%40), fmt.Sprintf("%d %s", n, strings.Repeat("v", 4<<10))
	put, err := writer.Put(ctx, key, value)
	if err != nil {
		t.Fatal(err)
	}
	list, err := reader.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if list.Count != 40 || len(list.Kvs) != 40 || list.Header.Revision < put.Header.Revision {
		t.Fatalf("list %d at %d, after a put at %d, has %d of %d keys", n, list.Header.Revision, put.Header.Revision, len(list.Kvs), list.Count)
	}
	if kv := list.Kvs[n%40]; string(kv.Key) != key || string(kv.Value) != value || kv.ModRevision != put.Header.Revision {
		t.Fatalf("list %d has %q of revision %d, %s was put at %d", n, kv.Key, kv.ModRevision, key, put.Header.Revision)
	}
}

// listedUntil lists a prefix again and again until a figure of the mirrors has come so far.
func listedUntil(ctx context.Context, t *testing.T, writer, reader *clientv3.Client, g *harness.Node, prefix, name string, least float64) {
	t.Helper()
	for n := 0; mirrorFigure(ctx, t, g, name) < least; n++ {
		listed(ctx, t, writer, reader, prefix, n)
	}
}

// TestMirrorAuto: a gateway that was told of no prefix answers lists of a range from memory once it has been listed often, exactly, also when the range is split;
// and it is dropped when another one is listed more, for which there would be no room beside it.
func TestMirrorAuto(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(3*time.Minute))
	split(ctx, t, c, "b/")
	gate := startGateway(t, c, "g1", "--mirror-auto-size=260KiB", "--mirror-audit-interval=1s")
	writer, reader := newClient(t, c), newClient(t, c, gate.ClientURL)
	for _, prefix := range []string{"a/", "b/"} {
		for i := range 40 {
			if _, err := writer.Put(ctx, fmt.Sprintf("%s%02d", prefix, i), strings.Repeat("v", 4<<10)); err != nil {
				t.Fatal(err)
			}
		}
	}
	listed(ctx, t, writer, reader, "a/", 1)
	if hits := mirrorFigure(ctx, t, gate, "hits_total"); hits != 0 {
		t.Errorf("the first list is answered from memory: %v", hits)
	}
	listedUntil(ctx, t, writer, reader, gate, "a/", "hits_total", 20)
	if got := mirrorFigure(ctx, t, gate, "auto_ranges"); got != 1 {
		t.Errorf("%v ranges are mirrored", got)
	}
	split(ctx, t, c, "a/20")
	before := mirrorFigure(ctx, t, gate, "hits_total")
	listedUntil(ctx, t, writer, reader, gate, "a/", "hits_total", before+20)
	listedUntil(ctx, t, writer, reader, gate, "b/", "auto_dropped_total", 1)
	before = mirrorFigure(ctx, t, gate, "hits_total")
	listedUntil(ctx, t, writer, reader, gate, "b/", "hits_total", before+20)
	for n := range 5 {
		listed(ctx, t, writer, reader, "a/", n)
	}
	if most := mirrorFigure(ctx, t, gate, "bytes"); most > 260<<10 {
		t.Errorf("%v bytes are mirrored", most)
	}
	if wrong := mirrorFigure(ctx, t, gate, "wrong_total"); wrong != 0 {
		t.Errorf("%v comparisons have found a difference", wrong)
	}
	t.Logf("%v taken, %v dropped, %v hits, %v misses", mirrorFigure(ctx, t, gate, "auto_taken_total"), mirrorFigure(ctx, t, gate, "auto_dropped_total"),
		mirrorFigure(ctx, t, gate, "hits_total"), mirrorFigure(ctx, t, gate, "misses_total"))
}
