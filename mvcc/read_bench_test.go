package mvcc

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"pontoon/shard"
)

// BenchmarkRead shows what each kind of read allocates, of keys in the base and of keys in memory.
func BenchmarkRead(b *testing.B) {
	const keys = 1000
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "db"), RangeID: 1, NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	key := func(i int) []byte { return fmt.Appendf(nil, "key-%06d", i) }
	load := func(from int) {
		for i := from; i < from+keys; i++ {
			m := Mutation{Key: key(i), Value: make([]byte, 100), Rev: Rev{int64(i + 1), 0}}
			if _, err := s.Apply(Change{Pos: Position{uint64(i + 1), 1}, Muts: []Mutation{m}}); err != nil {
				b.Fatal(err)
			}
		}
	}
	load(0)
	if err := s.SettleNow(); err != nil {
		b.Fatal(err)
	}
	load(keys)
	settled, unsettled := key(keys/2), key(keys*3/2)
	both := shard.Span{Start: key(keys - 100), End: key(keys + 100)}
	scan := ScanOptions{Span: both, Rev: math.MaxInt64}
	inPlace := scan
	inPlace.InPlace = true
	all := func(*shard.KeyValue) bool { return true }
	reads := []struct {
		name string
		do   func() error
	}{
		{"get/base", func() error { _, _, err := s.Get(settled, math.MaxInt64); return err }},
		{"get/memory", func() error { _, _, err := s.Get(unsettled, math.MaxInt64); return err }},
		{"head/base", func() error { _, _, err := s.Head(settled, math.MaxInt64); return err }},
		{"head/memory", func() error { _, _, err := s.Head(unsettled, math.MaxInt64); return err }},
		{"scan", func() error { return s.Scan(scan, all) }},
		{"scan/inplace", func() error { return s.Scan(inPlace, all) }},
		{"count", func() error { _, err := s.Count(both, math.MaxInt64); return err }},
		{"history", func() error {
			_, _, err := s.History([]shard.Span{both}, keys-50, keys+50, 1<<20, true)
			return err
		}},
	}
	for _, r := range reads {
		b.Run(r.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if err := r.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
