package replica

import (
	"context"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// question is what a leader asks all replicas of its range, itself too, while it prepares a change. T is an answer.
type question[T any] struct {
	req  *pb.PeerRequest                                 // to the others
	here func(ctx context.Context, reply func(T, error)) // asks this replica
	of   func(*pb.PeerResponse) T
}

// ask asks every replica of desc once, and calls take with each answer, one after the other, in the order in which they come. It returns when all have
// answered; what does not come within Config.TxnPatience is an error.
func (q *question[T]) ask(r *Replica, desc shard.Descriptor, take func(from shard.Replica, is T, err error)) {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.TxnPatience)
	defer cancel()
	type answer struct {
		from shard.Replica
		is   T
		err  error
	}
	answers := make(chan answer, len(desc.Replicas))
	for _, rep := range desc.Replicas {
		if rep.ID == r.cfg.Self.ID {
			q.here(ctx, func(is T, err error) { answers <- answer{rep, is, err} })
			continue
		}
		r.cfg.Nodes.CallFunc(ctx, rep.Node, q.req, func(resp *pb.PeerResponse, err error) {
			if err == nil {
				err = pb.ErrorFromPB(resp.GetError())
			}
			answers <- answer{rep, q.of(resp), err}
		})
	}
	for range desc.Replicas {
		a := <-answers
		take(a.from, a.is, a.err)
	}
}
