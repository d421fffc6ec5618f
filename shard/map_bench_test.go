package shard

import (
	"fmt"
	"runtime"
	"testing"
)

// benchDescriptors are n ranges with keys of 40 bytes.
func benchDescriptors(n int) []Descriptor {
	ds := make([]Descriptor, n)
	for i := range ds {
		ds[i] = Descriptor{ID: RangeID(i + 2), Generation: 1, Replicas: []Replica{
			{ID: ReplicaID(3*i + 1), Node: 1}, {ID: ReplicaID(3*i + 2), Node: 2}, {ID: ReplicaID(3*i + 3), Node: 3},
		}}
		if i > 0 {
			ds[i].Span.Start = benchKey(i, 0)
			ds[i-1].Span.End = ds[i].Span.Start
		}
	}
	return ds
}

// benchKey is a key of range i, between 0 and 99 in it.
func benchKey(i, in int) []byte {
	return fmt.Appendf(nil, "/registry/pods/namespace-1/%08d-%04d", i, in)
}

func benchMap(b *testing.B, n int) *Map {
	m, err := NewMap(1, benchDescriptors(n))
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func benchKeys(n int) [][]byte {
	keys := make([][]byte, 1024)
	for i := range keys {
		keys[i] = benchKey(i*7919%n, 50)
	}
	return keys
}

func eachSize(b *testing.B, run func(b *testing.B, n int)) {
	for _, n := range []int{10, 1000, 10_000, 1_000_000} {
		b.Run(fmt.Sprintf("ranges=%d", n), func(b *testing.B) { run(b, n) })
	}
}

var sink Descriptor

func BenchmarkMapLookup(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		m, keys := benchMap(b, n), benchKeys(n)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			sink = m.Lookup(keys[i%len(keys)])
		}
	})
}

func BenchmarkMapGet(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		m := benchMap(b, n)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			sink, _ = m.Get(RangeID(2 + i*7919%n))
		}
	})
}

// BenchmarkMapOverlapping visits the range of one key, as most requests do.
func BenchmarkMapOverlapping(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		m, keys := benchMap(b, n), benchKeys(n)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			key := keys[i%len(keys)]
			for d := range m.Overlapping(Span{key, append(key, 0)}) {
				sink = d
			}
		}
	})
}

// BenchmarkMapChange cuts a range and merges its parts again, elsewhere each time.
func BenchmarkMapChange(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		m := benchMap(b, n)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			at := i * 7919 % n
			next, err := m.Split(RangeID(at+2), benchKey(at, 50), RangeID(n+2+i), m.Lookup(nil).Replicas)
			if err == nil {
				m, err = next.Merge(RangeID(at+2), RangeID(n+2+i))
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/change")
	})
}

// BenchmarkMapDifference takes the two parts of a split to another node's map by differences.
func BenchmarkMapDifference(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		old := benchMap(b, n)
		m, err := old.Split(RangeID(n/2+2), benchKey(n/2, 50), RangeID(n+2), old.Lookup(nil).Replicas)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			changed, removed := m.Changes(old)
			if m, err = old.Update(m.Version(), changed, removed); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMapBuild makes a map anew, and says what it holds.
func BenchmarkMapBuild(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		live := func() uint64 {
			var st runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&st)
			return st.HeapAlloc
		}
		before := live()
		m := benchMap(b, n)
		held := live() - before
		ds := benchDescriptors(n)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := NewMap(1, ds); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(held)/float64(n), "B/range")
		runtime.KeepAlive(m)
	})
}
