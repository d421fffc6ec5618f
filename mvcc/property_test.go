package mvcc

import (
	"flag"
	"fmt"
	"testing"
)

var (
	seedFlag = flag.Uint64("mvcc.seed", 0, "run the model test with this seed only")
	runsFlag = flag.Int("mvcc.runs", 6, "seeds of the model tests; half as many with -short")
	opsFlag  = flag.Int("mvcc.ops", 200, "operations per seed of the model test")
)

// TestStoreAgainstModel runs random operations, crashes, restarts and snapshots on a store and
// on a naive model. To run a failure again: go test ./mvcc -run TestStoreAgainstModel -mvcc.seed=N
func TestStoreAgainstModel(t *testing.T) {
	defragmented := 0
	all := seeds(1)
	for _, seed := range all {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			d := newDriver(t, seed)
			defer d.close()
			for range *opsFlag {
				d.op()
			}
			d.check()
			d.recover()
			d.check()
			defragmented += d.defragmented
		})
	}
	if len(all) > 1 && defragmented == 0 {
		t.Error("no defragmentation came to its end")
	}
}
