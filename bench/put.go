package bench

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func putWorkload() Definition {
	defaults := common("put", func(*Spec) {})
	return Definition{
		Name:  "put",
		Short: "Puts of single keys",
		Long: `Every operation puts one key. Afterwards every key must hold its latest acknowledged value, at the
revision that was acknowledged, with a version that is the number of puts.

Keys are decimal numbers of --key-size digits, drawn at random from --key-space-size of them, or one
after the other. The defaults are those of etcd's benchmark tool: one client, one key, 8 bytes each.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace, optSequential},
		Defaults: defaults,
		Brief: brief(defaults,
			func(*Spec) {},
			func(s *Spec) { s.KeySpace, s.ValueSize = 1, 8 },
			func(s *Spec) { s.Sequential = true; s.Rate = 200 }),
		Standard: standard(defaults, clients(1, 1), clients(256, 16), clients(1000, 100), due(1000),
			func(s *Spec) { s.Clients, s.Conns, s.KeySpace, s.ValueSize = 64, 16, 1, 8 }),
		open: func(e *env) workload { return &puts{newBase(e)} },
	}
}

type puts struct{ base }

func (w *puts) kinds() []string               { return []string{"put"} }
func (w *puts) prepare(context.Context) error { return nil }

func (w *puts) do(ctx context.Context, worker int, seq int64) (int, error) {
	return 0, w.put(ctx, worker, seq)
}

// put performs a put and notes it.
func (b base) put(ctx context.Context, worker int, seq int64) error {
	return b.putOn(ctx, b.kv(worker), seq)
}

func (b base) putOn(ctx context.Context, kv clientv3.KV, seq int64) error {
	i := b.ledger.keys.pick(seq)
	resp, err := kv.Put(ctx, b.ledger.keys.at(i), b.ledger.values.of(uint64(seq)))
	if err != nil {
		return err
	}
	b.ledger.acked(i, resp.Header.Revision, uint64(seq))
	return nil
}
