package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

func restartWorkload() Definition {
	defaults := common("restart", func(s *Spec) {
		s.Operations, s.KeySpace, s.ValueSize, s.Timeout = 6, 1_000_000, 256, 10*time.Minute
	})
	return Definition{
		Name:  "restart",
		Short: "Restarts with many keys, until the servers serve",
		Long: `Writes --key-space-size keys, then every operation ends all servers and starts them again: with SIGTERM (stop)
and with SIGKILL (kill) in turn. It ends when linearizable reads of keys all over the key space have been answered
through every node, rightly, and a put has been acknowledged. Latency is the whole time without service;
serve-after-… is the part of it from the start of the processes on, cpu-until-it-serves what CPU time they took for
that, which others on the machine change less. Afterwards every key must be there.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace},
		Defaults: defaults,
		Brief: brief(defaults, func(s *Spec) {
			s.Clients, s.Conns, s.Duration, s.WarmUp, s.Operations = 1, 1, 0, 0, 2
		}),
		Standard: []Spec{defaults},
		check: func(s Spec) error {
			if s.Clients != 1 || s.WarmUp > 0 || s.Rate > 0 {
				return errors.New("there is one restart at a time: --clients must be 1, and neither --warm-up nor --rate given")
			}
			return nil
		},
		args: raisedQuota,
		open: func(e *env) workload { return &restarts{base: newBase(e), again: e.sys.restart} },
	}
}

// raisedQuota lets a store take several times what is written to it.
func raisedQuota(s Spec, _ string) []string {
	const least = 8 << 30
	return []string{fmt.Sprintf("--quota-backend-bytes=%d", max(least, 4*int64(s.KeySpace)*int64(s.KeySize+s.ValueSize)))}
}

type restarts struct {
	base
	// again ends the servers and starts them again, and returns when it started the first.
	again func(kill bool) (time.Time, error)
	serve [2][]float64 // seconds from the start of the processes on, by kind
	// What the new processes had used when they served again.
	anon, cpu []float64
}

func (w *restarts) kinds() []string { return []string{"stop", "kill"} }

func (w *restarts) prepare(ctx context.Context) error {
	if !w.sys.target.Local() {
		return errors.New("this workload restarts servers: it cannot do that to endpoints")
	}
	return w.ledger.prepare(ctx, w.kvs)
}

func (w *restarts) do(ctx context.Context, _ int, seq int64) (int, error) {
	kind := int(seq % 2)
	began, err := w.again(kind == 1)
	if err != nil {
		return kind, err
	}
	put := func(kv clientv3.KV) error { return w.putOn(ctx, kv, seq) }
	if err := w.serves(ctx, put); err != nil {
		return kind, err
	}
	w.serve[kind] = append(w.serve[kind], time.Since(began).Seconds())
	u, err := w.usage()
	w.anon, w.cpu = append(w.anon, float64(u.Anon)), append(w.cpu, u.CPU.Seconds())
	return kind, err
}

func (w *restarts) report(r *Run) {
	for kind, name := range w.kinds() {
		if len(w.serve[kind]) > 0 {
			r.figure("serve-after-"+name+"-s", Median(w.serve[kind]))
		}
	}
	if len(w.anon) > 0 {
		r.figure("anon-after-restart-B", Median(w.anon))
		r.figure("cpu-until-it-serves-s", Median(w.cpu))
	}
}

func (w *restarts) verify(ctx context.Context) ([]string, error) {
	// The connections of before need a moment to notice.
	if err := serving(ctx, w.clients); err != nil {
		return nil, err
	}
	return w.base.verify(ctx)
}

// probes is how many keys are read to tell whether all of the key space is served.
const probes = 16

// serves waits until every node serves keys all over the key space, then does something through one
// of them, unless nil.
func (b base) serves(ctx context.Context, then func(clientv3.KV) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for node := range b.sys.info.Endpoints {
		g.Go(func() error {
			c, err := b.sys.dial(node, eager)
			for err != nil && ctx.Err() == nil { // some clients contact the servers at once
				wait(ctx, time.Millisecond)
				c, err = b.sys.dial(node, eager)
			}
			if err != nil {
				return err
			}
			err = b.probe(ctx, c)
			if err == nil && node == 0 && then != nil {
				err = then(c)
			}
			return errors.Join(err, c.Close())
		})
	}
	return g.Wait()
}

// eager makes a client try again at once where others let some time pass.
func eager(c *clientv3.Config) {
	c.BackoffWaitBetween = 2 * time.Millisecond
	c.DialOptions = append(c.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.1, MaxDelay: 10 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}))
}

// probe reads keys all over the key space until each has been answered.
func (b base) probe(ctx context.Context, kv clientv3.KV) error {
	for p := range probes {
		i := int(int64(p) * int64(b.ledger.keys.space) / probes)
		known := b.ledger.at(i)
		for {
			try, end := context.WithTimeout(ctx, time.Second)
			resp, err := kv.Get(try, b.ledger.keys.at(i))
			end()
			if err == nil {
				if err := b.vetProbe(resp, i, known); err != nil {
					return fmt.Errorf("after the restart: %w", err)
				}
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("key %q is not served: %w", b.ledger.keys.at(i), err)
			}
			wait(ctx, time.Millisecond)
		}
	}
	return nil
}

func (b base) vetProbe(resp *clientv3.GetResponse, i int, known entry) error {
	want := 0
	if known.writes > 0 {
		want = 1
	}
	if len(resp.Kvs) != want {
		return fmt.Errorf("key %q: %w", b.ledger.keys.at(i), wrongCount(len(resp.Kvs), want))
	}
	if want == 0 {
		return nil
	}
	return b.ledger.vet(resp.Kvs[0], i, known, false)
}
