package replica

import (
	"fmt"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard/replica/replicatest"
)

// BenchmarkWrite is a request through one replica that is its whole group, 64 at a time: a put, a
// transaction on a key that is in memory, and one on a key that is not there, which is looked up in the file
// on another goroutine.
func BenchmarkWrite(b *testing.B) {
	for name, op := range map[string]func(i int) *pb.Op{
		"put": func(i int) *pb.Op { return replicatest.Put(fmt.Sprint("k", i%1000), "v") },
		"memory": func(i int) *pb.Op {
			return replicatest.Txn(replicatest.IfMod("k1", -1), nil, []*pb.Op{replicatest.Put(fmt.Sprint("k", i%1000), "v")})
		},
		"absent": func(i int) *pb.Op {
			k := fmt.Sprint("new", i)
			return replicatest.Txn(replicatest.IfMod(k, 0), []*pb.Op{replicatest.Put(k, "v")}, nil)
		},
	} {
		b.Run(name, func(b *testing.B) {
			f := newFixture(b)
			done := make(chan error, 64)
			reply := func(_ *pb.WriteResponse, err error) { done <- err }
			f.r.Write(b.Context(), &pb.WriteRequest{Op: replicatest.Put("k1", "v")}, reply)
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += 64 {
				for j := range 64 {
					f.r.Write(b.Context(), &pb.WriteRequest{Op: op(i + j)}, reply)
				}
				for range 64 {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
