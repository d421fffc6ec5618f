package bench

import (
	"context"
	"errors"
	"time"

	"pontoon/bench/load"
	"pontoon/bench/machine"
)

func idleWorkload() Definition {
	defaults := common("idle", func(s *Spec) {
		s.KeySpace, s.ValueSize, s.Operations = 10_000, 64, 0
		s.Rate, s.Duration, s.WarmUp = 1, 30*time.Second, 10*time.Second
	})
	return Definition{
		Name:  "idle",
		Short: "What a cluster costs that nobody uses",
		Long: `Writes --key-space-size keys, then only reads one at random once a second. Told are the CPU time of the servers
as a part of one core (cpu-cores) and the anonymous memory that they hold in the end. --ranges 1,100,10000 shows what
ranges cost; there must be as many keys.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace},
		Defaults: defaults,
		Brief: []Spec{func(s Spec) Spec {
			s.KeySpace, s.Rate, s.Duration, s.WarmUp = 100, 10, time.Second, 0
			return s
		}(defaults)},
		Standard: []Spec{defaults},
		check: func(s Spec) error {
			if s.Rate == 0 || s.Rate > 10 {
				return errors.New("--rate must be between 0 and 10, else nothing is idle")
			}
			return nil
		},
		open: func(e *env) workload { return &idle{ranges: ranges{newBase(e)}} },
	}
}

type idle struct {
	ranges
	before, after machine.Usage
}

// prepare puts one key at a time: where each has a range of its own, transactions over many of them
// would be another load than the one that is looked for.
func (w *idle) prepare(ctx context.Context) error {
	return w.ledger.prepareBy(ctx, w.kvs, 1)
}

func (w *idle) do(ctx context.Context, worker int, seq int64) (int, error) {
	return 0, w.read(ctx, worker, seq, 1)
}

func (w *idle) run(ctx context.Context, plan load.Plan) load.Outcome {
	w.before, _ = w.usage() // without it there are figures less
	out := load.Run(ctx, plan, w.do)
	w.after, _ = w.usage()
	return out
}

func (w *idle) report(r *Run) {
	if w.before.CPU > 0 && w.after.CPU > 0 {
		r.figure("cpu-cores", (w.after.CPU-w.before.CPU).Seconds()/r.Elapsed.Seconds())
		r.figure("anon-in-the-end-B", float64(w.after.Anon))
	}
}
