package bench

import (
	"context"
	"errors"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func txnWorkload() Definition {
	defaults := common("txn", func(s *Spec) { s.KeySpace = 100_000 })
	return Definition{
		Name:  "txn",
		Short: "Compare-and-swap transactions on single keys",
		Long: `Writes --key-space-size keys, then every operation is a transaction that puts a key if its revision
is still the one last seen, and reads it otherwise, as Kubernetes updates its objects. One that finds another
revision has succeeded as an operation, and is counted as a conflict. Afterwards every key must hold its
latest acknowledged value, with a version that is the number of swaps.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace, optSequential},
		Defaults: defaults,
		Brief:    brief(defaults, func(*Spec) {}, func(s *Spec) { s.KeySpace = 4 }),
		Standard: standard(defaults, clients(256, 16), due(1000)),
		open:     func(e *env) workload { return &swaps{base: newBase(e)} },
	}
}

type swaps struct {
	base
	conflicts atomic.Int64
}

func (w *swaps) kinds() []string                   { return []string{"txn"} }
func (w *swaps) prepare(ctx context.Context) error { return w.fill(ctx) }

func (w *swaps) report(r *Run) {
	r.figure("conflicts/op", float64(w.conflicts.Load())/float64(max(r.Operations, 1)))
}

func (w *swaps) do(ctx context.Context, worker int, seq int64) (int, error) {
	i := w.ledger.keys.pick(seq)
	key, seen := w.ledger.keys.at(i), w.ledger.at(i)
	resp, err := w.kv(worker).Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", seen.rev)).
		Then(clientv3.OpPut(key, w.ledger.values.of(uint64(seq)))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, err
	}
	if resp.Succeeded {
		w.ledger.acked(i, resp.Header.Revision, uint64(seq))
		return 0, nil
	}
	w.conflicts.Add(1)
	if len(resp.Responses) != 1 || len(resp.Responses[0].GetResponseRange().GetKvs()) != 1 {
		return 0, errors.New("wrong answer: a compare failed on a key that is not there")
	}
	kv := resp.Responses[0].GetResponseRange().Kvs[0]
	if kv.ModRevision == seen.rev {
		return 0, errors.New("wrong answer: a compare failed with the revision that is there")
	}
	return 0, w.ledger.vet(kv, i, seen, false)
}
