package mvcc

import (
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkApply is the store's part of applying a change of one put, and of a transaction of eight.
func BenchmarkApply(b *testing.B) {
	for _, muts := range []int{1, 8} {
		b.Run(fmt.Sprintf("puts=%d", muts), func(b *testing.B) {
			s, err := Open(Options{Path: filepath.Join(b.TempDir(), "db"), RangeID: 7, NoSync: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			keys := make([][]byte, 1024)
			for i := range keys {
				keys[i] = fmt.Appendf(nil, "key-%06d", i)
			}
			value := make([]byte, 256)
			c := Change{Muts: make([]Mutation, muts)}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				for k := range c.Muts {
					c.Muts[k] = Mutation{Key: keys[(i*muts+k)%len(keys)], Value: value, Rev: Rev{int64(i + 1), int64(k)}}
				}
				c.Pos = Position{uint64(i + 10), 6}
				if evs, err := s.Apply(c); err != nil || len(evs) != muts {
					b.Fatal(len(evs), err)
				}
			}
		})
	}
}
