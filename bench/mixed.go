package bench

import (
	"context"
	"errors"
)

var optReadShare = Option{
	Name: "read-share", Usage: "share of reads, 0…1",
	Field: func(s *Spec) any { return &s.ReadShare }, In: always(func(s Spec) float64 { return s.ReadShare }),
}

func mixedWorkload() Definition {
	defaults := common("mixed", func(s *Spec) { s.ReadShare = 0.5 })
	return Definition{
		Name:  "mixed",
		Short: "Reads and puts of single keys",
		Long: `Writes --key-space-size keys, then every operation reads or puts one of them, at random, reads in
--read-share of the cases. Every answer is checked: a linearizable read must not be older than a put of
that key which was acknowledged before. Afterwards every key must hold its latest acknowledged value.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace, optReadShare, optConsistency},
		Defaults: defaults,
		Brief:    brief(defaults, func(*Spec) {}, func(s *Spec) { s.ReadShare = 0.9; s.Consistency = Serializable }),
		Standard: standard(defaults, func(s *Spec) { s.Clients, s.Conns, s.ReadShare = 256, 16, 0.9 }),
		check: func(s Spec) error {
			if s.ReadShare < 0 || s.ReadShare > 1 {
				return errors.New("--read-share must be between 0 and 1")
			}
			return nil
		},
		open: func(e *env) workload { return &mixed{newBase(e)} },
	}
}

type mixed struct{ base }

func (w *mixed) kinds() []string                   { return []string{"read", "put"} }
func (w *mixed) prepare(ctx context.Context) error { return w.fill(ctx) }

func (w *mixed) do(ctx context.Context, worker int, seq int64) (int, error) {
	const resolution = 1 << 32
	if float64(w.ledger.keys.draw(seq, 2)%resolution) < w.spec.ReadShare*resolution {
		return 0, w.read(ctx, worker, seq, 1)
	}
	return 1, w.put(ctx, worker, seq)
}
