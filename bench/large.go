package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/bench/load"
)

var (
	optSize = Option{
		Name: "size-mib", Usage: "MiB of values to write",
		Field: func(s *Spec) any { return &s.SizeMiB }, In: always(func(s Spec) int { return s.SizeMiB }),
	}
	optSteps = Option{
		Name: "steps", Usage: "equal parts of it, after each of which the servers are looked at and restarted",
		Field: func(s *Spec) any { return &s.Steps }, In: always(func(s Spec) int { return s.Steps }),
	}
	optBatch = Option{
		Name: "batch", Usage: "keys that an operation writes, in one transaction",
		Field: func(s *Spec) any { return &s.Batch }, In: always(func(s Spec) int { return s.Batch }),
	}
)

func largeWorkload() Definition {
	defaults := common("large", func(s *Spec) {
		s.Clients, s.Conns, s.ValueSize, s.KeySize, s.Timeout, s.Operations = 256, 16, 1024, 16, 2*time.Minute, 1
		s.SizeMiB, s.Steps, s.Batch = 4096, 4, 1
	})
	return Definition{
		Name:  "large",
		Short: "A store that grows large",
		Long: `Writes --size-mib of values in --steps parts, every key once, in an order that looks random or, with
--sequential-keys, in theirs. After each part it tells the rate of the writes, the anonymous memory of the servers and
the space that they take on the disk, and restarts them with SIGTERM until keys all over the key space are read
again. Latencies and the servers' consumption are those of the last part. --total and --duration have no meaning
here. Quotas are raised on every kind of server. Afterwards every key must be there.`,
		Options:  []Option{optSize, optSteps, optBatch, optKeySize, optValueSize, optSequential},
		Defaults: defaults,
		Brief: brief(defaults, func(s *Spec) {
			s.Clients, s.WarmUp, s.Duration, s.Operations, s.KeySpace, s.ValueSize, s.SizeMiB, s.Steps = 32, 0, 0, 1, 1, 1024, 4, 2
		}),
		Standard: []Spec{defaults},
		check:    checkLarge,
		splits:   func(s Spec, n int) []string { return keysOf(largeSpec(s)).splits(n) },
		args:     func(s Spec, kind string) []string { return raisedQuota(largeSpec(s), kind) },
		open: func(e *env) workload {
			e.spec = largeSpec(e.spec)
			w := &large{base: newBase(e), again: e.sys.restart, disk: e.sys.disk}
			w.stride = strideOf(e.spec)
			return w
		},
	}
}

func checkLarge(s Spec) error {
	switch {
	case s.SizeMiB < 1 || s.Batch < 1 || s.Batch > 100 || s.Steps < 1 || s.Steps > 100:
		return errors.New("--size-mib must be at least 1, --batch and --steps between 1 and 100")
	case s.WarmUp > 0 || s.Rate > 0 || s.Duration > 0:
		return errors.New("a given size is written, as fast as possible: --duration, --warm-up and --rate have no meaning")
	}
	return checkSize(s, s.Steps*s.Batch, "--steps × --batch")
}

// checkSize refuses a size that is fewer keys than least, which is named, or more than there may be.
func checkSize(s Spec, least int, name string) error {
	l := largeSpec(s)
	switch {
	case l.KeySpace > keySpaceMax || l.KeySpace < least:
		return fmt.Errorf("--size-mib with values of %d bytes is %d keys, want between %s and %d", s.ValueSize, l.KeySpace, name, keySpaceMax)
	case len(fmt.Sprint(l.KeySpace-1)) > s.KeySize:
		return fmt.Errorf("--key-size is too small for %d keys", l.KeySpace)
	}
	return nil
}

// largeSpec has as many keys as make up the size.
func largeSpec(s Spec) Spec {
	s.KeySpace = int(int64(s.SizeMiB) << 20 / int64(s.ValueSize))
	s.KeySpace -= s.KeySpace % max(s.Batch*s.Steps, 1)
	return s
}

// strideOf is the distance of keys that are written one after the other. It has no divisor in common
// with their number, so that each comes once.
func strideOf(s Spec) int64 {
	if s.Sequential {
		return 1
	}
	for _, prime := range []int64{2_654_435_761, 1_000_000_007, 998_244_353} {
		if int64(s.KeySpace)%prime != 0 {
			return prime
		}
	}
	return 1
}

type large struct {
	base
	stride int64
	again  func(kill bool) (time.Time, error)
	disk   func() (int64, error)

	written int64 // operations of the parts that are over
	grown   [4][][2]float64
}

// growth is what is measured after each part.
var growth = [4]Series{
	{Name: "write rate", X: "MiB", Y: "keys/s"},
	{Name: "anonymous memory", X: "MiB", Y: "B"},
	{Name: "disk", X: "MiB", Y: "B"},
	{Name: "restart", X: "MiB", Y: "s"},
}

func (w *large) kinds() []string { return []string{"write"} }

// perStep is how many operations a part has.
func (w *large) perStep() int64 { return int64(w.spec.KeySpace / w.spec.Batch / w.spec.Steps) }

// prepare writes all parts but the last.
func (w *large) prepare(ctx context.Context) error {
	if !w.sys.target.Local() {
		return errors.New("this workload restarts servers: it cannot do that to endpoints")
	}
	for step := 1; step < w.spec.Steps; step++ {
		w.say(fmt.Sprintf("writing part %d of %d", step, w.spec.Steps))
		out := w.write(ctx, load.Plan{Workers: w.spec.Clients, Timeout: w.spec.Timeout})
		if ctx.Err() != nil {
			return ErrInterrupted
		}
		if out.Failed > 0 {
			return fmt.Errorf("part %d: %d operations failed: %s", step, out.Failed, reasons(out.Errors))
		}
		if err := w.look(ctx, out); err != nil {
			return fmt.Errorf("part %d: %w", step, err)
		}
	}
	return nil
}

// write writes the next part.
func (w *large) write(ctx context.Context, plan load.Plan) load.Outcome {
	plan.First, plan.Operations, plan.Duration = w.written, w.perStep(), 0
	out := load.Run(ctx, plan, w.do)
	w.written += plan.Operations
	return out
}

func (w *large) run(ctx context.Context, plan load.Plan) load.Outcome { return w.write(ctx, plan) }

func (w *large) do(ctx context.Context, worker int, seq int64) (int, error) {
	var ops []clientv3.Op
	var keys []int
	for n := range int64(w.spec.Batch) {
		i := w.keyOf(seq*int64(w.spec.Batch) + n)
		keys = append(keys, i)
		ops = append(ops, clientv3.OpPut(w.ledger.keys.at(i), w.ledger.values.of(preparedBit|uint64(i))))
	}
	rev, err := w.commit(ctx, w.kv(worker), ops)
	if err != nil {
		return 0, err
	}
	for _, i := range keys {
		w.ledger.acked(i, rev, preparedBit|uint64(i))
	}
	return 0, nil
}

// keyOf is the key that is written as the n-th.
func (w *large) keyOf(n int64) int { return int(n * w.stride % int64(w.spec.KeySpace)) }

func (w *large) commit(ctx context.Context, kv clientv3.KV, ops []clientv3.Op) (rev int64, err error) {
	if len(ops) == 1 {
		resp, err := kv.Put(ctx, string(ops[0].KeyBytes()), string(ops[0].ValueBytes()))
		if err != nil {
			return 0, err
		}
		return resp.Header.Revision, nil
	}
	resp, err := kv.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// look tells what the servers take after a part, and restarts them.
func (w *large) look(ctx context.Context, out load.Outcome) error {
	size := float64(w.written) * float64(w.spec.Batch*w.spec.ValueSize) / (1 << 20)
	u, err := w.usage()
	if err != nil {
		return err
	}
	disk, err := w.disk()
	if err != nil {
		return err
	}
	w.say("restarting")
	began, err := w.again(false)
	if err != nil {
		return err
	}
	if err := w.serves(ctx, nil); err != nil {
		return err
	}
	took := time.Since(began)
	for i, y := range []float64{float64(out.Done) * float64(w.spec.Batch) / out.Elapsed.Seconds(), float64(u.Anon), float64(disk), took.Seconds()} {
		w.grown[i] = append(w.grown[i], [2]float64{size, y})
	}
	return serving(ctx, w.clients)
}

func (w *large) report(r *Run) { w.last(r) }

// conclude looks at the servers after the last part, too.
func (w *large) conclude(ctx context.Context, r *Run) error {
	err := w.look(ctx, load.Outcome{Done: r.Operations, Elapsed: r.Elapsed})
	w.last(r)
	return err
}

// last shows what was measured, the end of it as figures.
func (w *large) last(r *Run) {
	r.Series = nil
	for i, s := range growth {
		s.Points = w.grown[i]
		r.Series = append(r.Series, s)
	}
	for i, name := range []string{"writes-in-the-end/s", "anon-in-the-end-B", "disk-in-the-end-B", "restart-in-the-end-s"} {
		if n := len(w.grown[i]); n == w.spec.Steps {
			r.figure(name, w.grown[i][n-1][1])
		}
	}
}
