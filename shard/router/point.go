package router

import (
	"context"
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// A linearizable read of one key, the request that most programs send most, needs nothing of what
// reads over many ranges do: no plan, no pages, no totals. It is a chain of callbacks. The goroutine that
// brings the oracle's answer sends the fence, and the reader waits once. Readers that share a call to the
// oracle so share the next message, too. Where the leader does anything but answer, the read begins again
// the long way, which knows what to do.

// pointRead is one such read.
type pointRead struct {
	r     *reader
	until patience.Until
	id    shard.RangeID
	gen   shard.Generation
	end   []byte // the key's successor, which holds the key; the caller's may be gone when the oracle answers
	to    shard.NodeID
	now   Now // from the oracle
	done  chan pointResult
}

// pointResult ends a pointRead. With sent set the leader has been asked, and err is what came of that.
type pointResult struct {
	resp *pb.ReadResponse
	sent bool
	err  error
}

// readsPoint reports whether op is a read of one key as it is now.
func readsPoint(op *pb.RangeOp) bool {
	return len(op.RangeEnd) == 0 && op.Revision <= 0 && !op.CountOnly && !op.KeysOnly && !filtered(op) &&
		!mutate.On(mutate.FollowerNoFence) // that is about replicas which the leader is not asked for
}

// readPoint reads one key; false: the long way is to be taken.
func (r *reader) readPoint(client context.Context, ctx *patience.Context, op *pb.RangeOp) (*RangeResult, bool, error) {
	m := r.maps.newest()
	if m == nil {
		return nil, false, nil
	}
	desc := m.Lookup(op.Key)
	to := r.leaderOf(desc.ID)
	if to == 0 {
		return nil, false, nil
	}
	p := &pointRead{
		r: r, until: patience.UntilEndOf(ctx), id: desc.ID, gen: desc.Generation, end: shard.Point(op.Key).End,
		to: to, done: make(chan pointResult, 1),
	}
	r.cfg.Cluster.CurrentFunc(p.onCurrent)
	a, err := patience.Wait(ctx, p.done)
	switch {
	case err != nil:
		return nil, true, overdue(client, ctx, err)
	case a.err != nil && !a.sent:
		return nil, true, a.err
	case a.err != nil:
		r.learnFrom(&attempt{desc: desc}, to, a.err)
		return nil, false, nil
	}
	r.LearnLeader(desc.ID, to)
	if r.cfg.Local != nil {
		r.acked.note(desc.ID, p.now.Revision)
	}
	return &RangeResult{KVs: a.resp.Kvs, Count: a.resp.Count, Revision: p.now.Revision}, true, nil
}

// overdue names the end of a wait: the client's own as it is, that of our patience as a timeout. It
// goes by the deadlines: which of two timers of one instant is seen first is chance.
func overdue(client, ctx context.Context, err error) error {
	ours, _ := ctx.Deadline()
	if at, ok := client.Deadline(); errors.Is(err, context.Canceled) || ok && !ours.Before(at) {
		return err
	}
	return fmt.Errorf("%w: %w", shard.ErrTimeout, err)
}

// leaderOf is the leader of a range as it is known or followed here; 0: nobody.
func (r *reader) leaderOf(id shard.RangeID) shard.NodeID {
	if n := r.Leader(id); n != 0 || r.cfg.Local == nil {
		return n
	}
	return r.cfg.Local.Leader(id)
}

// onCurrent takes the oracle's answer and asks the leader.
func (p *pointRead) onCurrent(now Now, err error) {
	if err != nil {
		p.done <- pointResult{err: err}
		return
	}
	p.now = now
	q := fencedReads.Get().(*fencedRead)
	req := q.request(p.id, p.gen, shard.Span{Start: p.end[:len(p.end)-1], End: p.end}, now.Revision, now.Epoch)
	p.r.cfg.Peers.CallFunc(&p.until, p.to, req, p.onFence)
	if l := p.r.cfg.Local; l == nil || p.to != l.Self() {
		fencedReads.Put(q)
	}
}

// onFence takes the leader's answer.
func (p *pointRead) onFence(resp *pb.PeerResponse, err error) {
	a := pointResult{sent: true, err: err}
	if err == nil {
		p.r.learned(resp)
		if a.resp = resp.GetFence().GetRead(); a.resp == nil {
			a.err = errNoRead
		}
	}
	p.done <- a
}
