package counts_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"pontoon/internal/counts"
	"pontoon/shard"
)

func span(start, end string) shard.Span { return shard.Span{Start: []byte(start), End: []byte(end)} }

// TestBytesAreBounded: D3 of a review: a client's keys have no limit of their own, and a bound in number
// alone let 4 096 of them hold 4 GiB.
func TestBytesAreBounded(t *testing.T) {
	for _, tc := range []struct{ size, entries int }{{1 << 20, 300}, {100 << 10, 300}, {10, 50_000}} {
		c := counts.Cache{Limit: counts.Limit{Entries: 4096, Bytes: 1 << 20}}
		before := heap()
		end := bytes.Repeat([]byte("z"), tc.size)
		for i := range tc.entries {
			c.Put(shard.Span{Start: fmt.Appendf(nil, "k%08d", i), End: append(bytes.Clone(end), fmt.Sprint(i)...)}, 7, int64(i))
		}
		end = nil
		if grown := heap() - before; grown > 3<<20 {
			t.Errorf("%d entries of %d bytes hold %d bytes", tc.entries, tc.size, grown)
		}
		runtime.KeepAlive(&c)
	}
}

// TestALongKeyDrivesNobodyOut: a count that would take an eighth of the bytes is not kept, for the sake of the others.
func TestALongKeyDrivesNobodyOut(t *testing.T) {
	c := counts.Cache{Limit: counts.Limit{Entries: 100, Bytes: 16 << 10}}
	long := string(bytes.Repeat([]byte("z"), 2<<10))
	const others = 50
	for i := range others {
		c.Put(span(fmt.Sprintf("k%02d", i), "l"), 7, int64(i))
	}
	for i := range 10 {
		c.Put(span("a", fmt.Sprint(long, i)), 7, 1)
	}
	if _, ok := c.Exact(span("a", fmt.Sprint(long, 9)), 7); ok {
		t.Error("an eighth of the bytes is kept for one count")
	}
	for i := range others {
		if n, ok := c.Exact(span(fmt.Sprintf("k%02d", i), "l"), 7); !ok || n != int64(i) {
			t.Fatalf("count %d: %d, %v", i, n, ok)
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestAgainstAll: whatever is put in and falls out, an answer is what was put in, and the nearest.
func TestAgainstAll(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	c := counts.Cache{Limit: counts.Limit{Entries: 20, Bytes: 1 << 20}}
	type at struct {
		start, end string
		rev        int64
	}
	var order []at
	count := func(k at) int64 { return 1000*k.rev + int64(k.start[0])*10 + int64(len(k.end)) }
	for range 5000 {
		k := at{start: string(rune('a' + r.IntN(26))), end: []string{"", "zz"}[r.IntN(2)], rev: int64(1 + r.IntN(3))}
		kept, nearest := false, ""
		for _, o := range order[max(0, len(order)-20):] {
			kept = kept || o == k
			if o.end == k.end && o.rev == k.rev && o.start <= k.start {
				nearest = max(nearest, o.start)
			}
		}
		if n, ok := c.Exact(span(k.start, k.end), k.rev); ok != kept || ok && n != count(k) {
			t.Fatalf("%v: %d %v, kept %v", k, n, ok, kept)
		}
		start, n, ok := c.Nearest(span(k.start, k.end), k.rev)
		if ok != (nearest != "") || ok && (string(start) != nearest || n != count(at{nearest, k.end, k.rev})) {
			t.Fatalf("%v: from %q %d %v, nearest is %q", k, start, n, ok, nearest)
		}
		if c.Put(span(k.start, k.end), k.rev, count(k)); !kept {
			order = append(order, k)
		}
	}
}

func TestWithoutLimitNothingIsKept(t *testing.T) {
	var c counts.Cache
	c.Put(span("a", "b"), 1, 5)
	if _, ok := c.Exact(span("a", "b"), 1); ok {
		t.Error("kept")
	}
}

func BenchmarkPages(b *testing.B) {
	c := counts.Cache{Limit: counts.Limit{Entries: 4096, Bytes: 4 << 20}}
	end := []byte("/registry/pods0")
	keys := make([][]byte, 8192)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "/registry/pods/namespace/pod-%08d", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := keys[i%len(keys)]
		rev := int64(77 + i/len(keys)) // who lists again does so at another revision
		c.Exact(shard.Span{Start: k, End: end}, rev)
		c.Put(shard.Span{Start: append(k[:len(k):len(k)], 0), End: end}, rev, int64(i))
	}
}
