package front_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/front"
)

// TestAutoMirror: a front that no prefix was named to answers lists of a range from memory once it has been listed a few times, exactly, while it is written to.
func TestAutoMirror(t *testing.T) {
	members := startHosts(t, 3)
	addr, metrics, peers := startMirroring(t, members, front.MirrorConfig{AutoSize: 8 << 20})
	direct, cli := open(t, startFront(t, members)), open(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 100 {
		if _, err := direct.Put(ctx, fmt.Sprintf("m/%02d", i), strings.Repeat("v", 4<<10)); err != nil {
			t.Fatal(err)
		}
	}
	prefix := clientv3.WithPrefix()
	for n := 0; figure(t, metrics, "pontoon_gateway_mirror_hits_total") == 0; n++ {
		if _, err := cli.Get(ctx, "m/", prefix); err != nil {
			t.Fatalf("list %d: %v", n, err)
		}
		<-time.After(10 * time.Millisecond)
	}
	if got := figure(t, metrics, "pontoon_gateway_mirror_auto_ranges"); got != 1 {
		t.Errorf("%v ranges are mirrored", got)
	}
	reads := peers.reads.Load()
	for i := range 50 {
		put, err := direct.Put(ctx, "m/50", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		list, err := cli.Get(ctx, "m/", prefix)
		if err != nil {
			t.Fatal(err)
		}
		if string(list.Kvs[50].Value) != fmt.Sprint(i) || list.Count != 100 || list.Header.Revision < put.Header.Revision {
			t.Fatalf("after put %d at %d a list at %d of %d keys has %q", i, put.Header.Revision, list.Header.Revision, list.Count, list.Kvs[50].Value)
		}
	}
	if n := peers.reads.Load() - reads; n > 0 {
		t.Errorf("fifty lists have read ranges %d times", n)
	}
}

// TestNoAutoMirror: without room of their own ranges are not mirrored by themselves.
func TestNoAutoMirror(t *testing.T) {
	members := startHosts(t, 1)
	addr, metrics, _ := startMirroring(t, members, front.MirrorConfig{Prefixes: []string{"named"}})
	cli := open(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := cli.Put(ctx, "m/", strings.Repeat("v", 1<<20)); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if _, err := cli.Get(ctx, "m", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
	if figure(t, metrics, "pontoon_gateway_mirror_hits_total") != 0 || figure(t, metrics, "pontoon_gateway_mirror_auto_taken_total") != 0 {
		t.Error("a range is mirrored")
	}
}
