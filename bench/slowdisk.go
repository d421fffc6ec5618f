package bench

import (
	"context"
	"errors"
	"time"
)

var optReaders = Option{
	Name: "readers", Usage: "how many of the clients read; the others write",
	Field: func(s *Spec) any { return &s.Readers }, In: always(func(s Spec) int { return s.Readers }),
}

// slowDiskWrites is how many writes a second the servers of slow-disk are held to: what a worn or a shared disk gives.
const slowDiskWrites = 100

func slowDiskWorkload() Definition {
	defaults := common("slow-disk", func(s *Spec) {
		s.Clients, s.Conns, s.Readers, s.KeySpace, s.ValueSize = 72, 9, 8, 10_000, 256
		s.Operations, s.Duration, s.WarmUp = 0, 20*time.Second, 5*time.Second
	})
	return Definition{
		Name:  "slow-disk",
		Short: "Reads beside writes that wait for a slow disk",
		Long: `Writes --key-space-size keys, then --readers of the clients read keys at random, linearizably, while all others put them. Each server may
write to its disk 100 times a second, unless --server-writes says otherwise (Linux, root; 0: as often as it can). What counts is the latency of
reads: etcd answers one once all that was committed before it is applied, which waits for the disk; a read here waits for writes of its own key.
Every answer is checked, and afterwards every key must hold its latest acknowledged value.`,
		Options:      []Option{optKeySize, optValueSize, optKeySpace, optReaders},
		Defaults:     defaults,
		ServerWrites: slowDiskWrites,
		Brief:        brief(defaults, func(s *Spec) { s.Readers, s.KeySpace = 4, 200 }),
		Standard:     standard(defaults, func(s *Spec) { s.Clients, s.Conns, s.KeySpace = defaults.Clients, defaults.Conns, defaults.KeySpace }),
		check: func(s Spec) error {
			if s.Readers < 1 || s.Readers >= s.Clients {
				return errors.New("--readers must be between 1 and one less than --clients")
			}
			return nil
		},
		open: func(e *env) workload { return &slowDisk{newBase(e)} },
	}
}

type slowDisk struct{ base }

func (w *slowDisk) kinds() []string                   { return []string{"read", "put"} }
func (w *slowDisk) prepare(ctx context.Context) error { return w.fill(ctx) }

func (w *slowDisk) do(ctx context.Context, worker int, seq int64) (int, error) {
	if worker < w.spec.Readers {
		return 0, w.read(ctx, worker, seq, 1)
	}
	return 1, w.put(ctx, worker, seq)
}
