package tuning

import (
	"log/slog"

	"pontoon/internal/tuning/heap"
)

// HeapGrowth is what the heap of a busy process may grow by between two garbage collections, in bytes. A node with little data
// collected twice a second under load for want of it, which cost an eighth of its CPU.
const HeapGrowth = 128 << 20

// Config says what a process asks for.
type Config struct {
	Batch bool // to be scheduled as a batch process
	Heap  bool // HeapGrowth
}

// Apply asks for it. What the system refuses is logged, and the process runs as it would without. undo lets go of what
// can be given back.
func Apply(cfg Config, lg *slog.Logger) (undo func()) {
	if cfg.Batch {
		if err := Batch(); err != nil { // a sandbox may forbid it
			lg.Info("the node is not scheduled as a batch process", "error", err)
		}
	}
	if cfg.Heap {
		return heap.Keep(HeapGrowth)
	}
	return func() {}
}
