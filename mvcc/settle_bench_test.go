package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkFlushSettle writes random keys of a small space and shows what Flush and Maintain cost for each
// put, in time and in bytes of pages written, as a node does that looks after a range: a flush when the store
// wants one, settling when the index holds 8 MiB.
func BenchmarkFlushSettle(b *testing.B) {
	const unsettled, budget = 8 << 20, 2000
	for _, keys := range []int{6_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			s, err := Open(Options{Path: filepath.Join(b.TempDir(), "db"), RangeID: 7, NoSync: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			rng := rand.New(rand.NewPCG(1, 2))
			value := bytes.Repeat([]byte("v"), 256)
			var flush, settle time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; {
				b.StopTimer()
				for ; i < b.N && err == nil && !s.Maintenance().NeedsFlush(); i++ {
					m := Mutation{Key: fmt.Appendf(nil, "%08d", rng.IntN(keys)), Value: value, Rev: Rev{int64(i + 2), 0}}
					if _, err = s.Apply(Change{Pos: Position{uint64(i + 11), 6}, Muts: []Mutation{m}}); s.Maintenance().Unsettled() >= unsettled {
						s.Maintenance().RequestSettle()
					}
				}
				b.StartTimer()
				began := time.Now()
				err = errors.Join(err, s.Maintenance().Flush())
				flush += time.Since(began)
				for more := true; more && err == nil; {
					more, err = s.Maintenance().Maintain(budget)
				}
				settle += time.Since(began)
				if err != nil {
					b.Fatal(err)
				}
			}
			settle -= flush
			st := s.file.db.Load().Stats().TxStats
			b.ReportMetric(float64(flush.Nanoseconds())/float64(b.N), "flush-ns/op")
			b.ReportMetric(float64(settle.Nanoseconds())/float64(b.N), "settle-ns/op")
			b.ReportMetric(float64(st.GetPageAlloc())/float64(b.N), "page-B/op")
		})
	}
}
