package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var optPerRange = Option{
	Name: "keys-per-range", Usage: "how many keys a read asks for",
	Field: func(s *Spec) any { return &s.PerRange }, In: always(func(s Spec) int { return s.PerRange }),
}

func rangeWorkload() Definition {
	defaults := common("range", func(s *Spec) { s.PerRange = 1 })
	return Definition{
		Name:  "range",
		Short: "Reads of single keys or of many keys in a row",
		Long: `Writes --key-space-size keys, then every operation reads one key, or --keys-per-range keys in a row from
a random one on. Every answer is checked: keys, values, number, and for linearizable reads that it is not
stale. The defaults are those of etcd's benchmark tool.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace, optPerRange, optConsistency},
		Defaults: defaults,
		Brief: brief(defaults,
			func(*Spec) {},
			func(s *Spec) { s.Consistency = Serializable },
			func(s *Spec) { s.PerRange = 1000; s.Clients = 4 }),
		Standard: standard(defaults, clients(1, 1), clients(256, 16), due(2000),
			func(s *Spec) { s.Clients, s.Conns, s.Consistency = 256, 16, Serializable },
			func(s *Spec) { s.Clients, s.Conns, s.PerRange = 16, 16, 1000 }),
		check: func(s Spec) error {
			if s.PerRange < 1 || s.PerRange > s.KeySpace {
				return errors.New("--keys-per-range must be between 1 and --key-space-size")
			}
			return nil
		},
		open: func(e *env) workload { return &ranges{newBase(e)} },
	}
}

type ranges struct{ base }

func (w *ranges) kinds() []string                   { return []string{"range"} }
func (w *ranges) prepare(ctx context.Context) error { return w.fill(ctx) }

func (w *ranges) do(ctx context.Context, worker int, seq int64) (int, error) {
	return 0, w.read(ctx, worker, seq, w.spec.PerRange)
}

// read reads n keys in a row and checks them.
func (b base) read(ctx context.Context, worker int, seq int64, n int) error {
	first := b.ledger.keys.pick(seq) % (b.spec.KeySpace - n + 1)
	var opts []clientv3.OpOption
	var known entry
	if n > 1 {
		opts = append(opts, clientv3.WithRange(b.ledger.keys.end(first+n-1)))
	} else {
		known = b.ledger.at(first)
	}
	if b.spec.serializable() {
		opts = append(opts, clientv3.WithSerializable())
	}
	resp, err := b.kv(worker).Get(ctx, b.ledger.keys.at(first), opts...)
	if err != nil {
		return err
	}
	if len(resp.Kvs) != n || resp.Count != int64(n) {
		return fmt.Errorf("wrong answer: %w", wrongCount(len(resp.Kvs), n))
	}
	for i, kv := range resp.Kvs {
		if err := b.ledger.vet(kv, first+i, known, b.spec.serializable()); err != nil {
			return fmt.Errorf("wrong answer: %w", err)
		}
	}
	return nil
}

// fill writes every key once. Serializable reads may be stale, but not for ever: it waits until
// every endpoint has what was written, so that a key that is missing later is an error.
func (b base) fill(ctx context.Context) error {
	if err := b.ledger.prepare(ctx, b.kvs); err != nil {
		return err
	}
	var rev int64
	for i := range b.spec.KeySpace {
		rev = max(rev, b.ledger.at(i).rev)
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, kv := range b.kvs {
		for {
			resp, err := kv.Get(ctx, b.ledger.keys.at(0), clientv3.WithSerializable())
			if err != nil {
				return fmt.Errorf("wait for what was written: %w", err)
			}
			if resp.Header.Revision >= rev {
				break
			}
			wait(ctx, 50*time.Millisecond)
		}
	}
	return nil
}
