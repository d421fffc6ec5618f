package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

type outcome uint8

const (
	open      outcome = iota // no answer yet
	done                     // answered
	failed                   // certainly without effect
	ambiguous                // may have an effect, now or later
)

// op is one request of a client and what became of it.
type op struct {
	id      int
	client  int
	life    *life
	write   *pb.Op      // nil: a read
	read    *pb.RangeOp // nil: a write
	serial  bool        // a serializable read
	floor   int64       // the highest revision acknowledged before it began
	invoked time.Time
	outcome outcome
	rev     int64 // of the header
	wrote   bool
	result  *pb.Result
	found   *router.RangeResult
	demand  demand
	settled bool // an ambiguous one that was found in the history
}

func (o *op) String() string {
	what := fmt.Sprintf("read %v", o.read)
	if o.serial {
		what = "serializable " + what
	}
	if o.write != nil {
		what = fmt.Sprintf("write %v", o.write)
	}
	return fmt.Sprintf("op %d of client %d on node %d at %v (floor %d, outcome %d, revision %d): %s",
		o.id, o.client, o.life.n.id, o.invoked.Sub(o.life.n.w.start), o.floor, o.outcome, o.rev, what)
}

// records are the operations of all clients, in the order in which they began.
type records struct {
	w         *world
	ops       []*op
	acked     int64 // the highest revision that a client was told
	compacted int64 // the highest revision that somebody tried to compact at
}

func newHistory(w *world) *records { return &records{w: w} }

// begin notes that an operation is about to be asked for.
func (h *records) begin(o *op) {
	o.id, o.floor, o.invoked = len(h.ops), h.acked, time.Now()
	h.ops = append(h.ops, o)
}

// answer is what a router says.
type answer struct {
	rev    int64
	wrote  bool
	result *pb.Result
	found  *router.RangeResult
	err    error
}

// perform asks the router of the client's node. It blocks.
func (o *op) perform(ctx context.Context) answer {
	l := o.life
	ctx = context.WithValue(ctx, whoKey{}, o.demand.name())
	if o.write != nil {
		by, err := l.guard.Checked(ctx, o.write, nil)
		if err != nil {
			return answer{err: err}
		}
		res, err := l.router.WriteBy(ctx, o.write, by)
		if err != nil {
			return answer{err: err}
		}
		return answer{rev: res.Revision, wrote: res.Wrote, result: res.Result}
	}
	judged, err := l.guard.Read(ctx, o.read.Key, o.read.RangeEnd, o.serial)
	if err != nil {
		return answer{err: err}
	}
	res, err := l.list(ctx, o.read, o.serial)
	if denied := judged.Again(ctx); denied != nil {
		return answer{err: denied}
	}
	if err != nil {
		return answer{err: err}
	}
	return answer{rev: res.Revision, found: res}
}

// list reads, from memory where this is a gateway that can.
func (l *life) list(ctx context.Context, op *pb.RangeOp, serial bool) (*router.RangeResult, error) {
	if m := l.fans.mirrors; m != nil {
		if res, served, err := m.read(ctx, op, serial); served {
			return res, err
		}
	}
	return l.router.Range(ctx, op, serial)
}

// fate says what an error leaves open.
func fate(err error) outcome {
	var compacted *shard.CompactedError
	switch {
	case err == nil:
		return done
	case errors.Is(err, shard.ErrAmbiguous):
		return ambiguous
	case shard.Retryable(err), errors.Is(err, shard.ErrTimeout), errors.Is(err, shard.ErrTooManyRequests), errors.As(err, &compacted),
		errors.Is(err, shard.ErrFutureRevision), errors.Is(err, shard.ErrLeaseNotFound), errors.Is(err, shard.ErrStopped),
		errors.Is(err, shard.ErrLeaseExists), errors.Is(err, shard.ErrUnimplemented), noRoom(err), denied(err):
		return failed
	}
	return ambiguous // a context's end
}

// end notes an answer, and checks at once what can be: real time.
func (h *records) end(o *op, a answer) {
	o.outcome = fate(a.err)
	st := &h.w.stats
	switch o.outcome {
	case failed:
		st.Failed++
		switch {
		case noRoom(a.err):
			st.NoRoom++
		case denied(a.err):
			st.Denied++
		}
		h.checkRefusal(o, a.err)
		if err := o.demand.refused(o, a.err); err != nil {
			h.w.failf("%w", err)
		}
		return
	case ambiguous:
		st.Ambiguous++
		return
	}
	o.rev, o.wrote, o.result, o.found = a.rev, a.wrote, a.result, a.found
	if o.write != nil {
		st.Acked++
	} else {
		st.Reads++
	}
	if err := o.demand.succeeded(o); err != nil {
		h.w.failf("%w", err)
	}
	switch {
	case o.serial:
		return // may be old, and tells nobody what is current
	case o.wrote && o.rev <= o.floor:
		h.w.failf("real time: %v was given a revision at or below one acknowledged before", o)
	case o.rev < o.floor:
		h.w.failf("real time: %v was answered at a revision below one acknowledged before", o)
	}
	h.acked = max(h.acked, o.rev)
}

// checkRefusal: some errors state facts.
func (h *records) checkRefusal(o *op, err error) {
	var compacted *shard.CompactedError
	named := o.read != nil && o.read.Revision > 0
	switch {
	case errors.As(err, &compacted) && !named:
		h.w.failf("compaction: %v named no revision and was told %v", o, err)
	case errors.As(err, &compacted) && h.compacted <= o.read.Revision:
		h.w.failf("compaction: %v was told %v, but nobody has compacted above %d", o, err, h.compacted)
	case errors.Is(err, shard.ErrFutureRevision) && (!named || o.read.Revision <= o.floor):
		h.w.failf("future revision: %v was told %v", o, err)
	case errors.Is(err, shard.ErrUnimplemented) && h.w.cfg.Multi:
		h.w.failf("%v: %v", o, err)
	}
}
