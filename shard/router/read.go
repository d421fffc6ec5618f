package router

import (
	"context"
	"errors"

	"pontoon/internal/counts"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// RangeResult is the answer to a Range.
type RangeResult struct {
	KVs      []*pb.KeyValue
	Encoded  [][]byte // RangeEncoded: instead of KVs, pieces of etcd's RangeResponse
	Count    int64    // keys in the span at the revision read, whatever limit and filters
	More     bool
	Revision int64 // for the header: the current revision, not the one read
}

// reader chooses the revision of a read, and chooses anew where the world changed under it. It owns what a
// read must not fall behind, which writes raise too, and the counts that pages of one list share. The read
// itself is a snapshot's.
type reader struct {
	caller
	acked   acked
	counts  counts.Cache
	points  points
	recalls recalls
	homes   homes
}

// Recalled is how many times the oracle's answer alone has answered reads of one key at another node, which as many share as came meanwhile.
func (r *reader) Recalled() uint64 { return r.recalls.used.Load() }

// ReadHere is how many parts of linearizable reads were read at home, without their leaders.
func (r *reader) ReadHere() uint64 { return r.homes.home.Load() }

// Range reads a span at one revision over however many ranges hold it.
//
// Errors: shard.ErrFutureRevision and *shard.CompactedError for a revision that the client
// named; shard.ErrTimeout when patience ended.
func (r *reader) Range(ctx context.Context, op *pb.RangeOp, serializable bool) (*RangeResult, error) {
	return r.read(ctx, op, serializable, false)
}

// RangeEncoded is Range for the gateway of etcd's clients. The keys come as they stand in a RangeResponse,
// encoded where they are stored. KVs holds them instead where they had to be sorted or filtered.
func (r *reader) RangeEncoded(ctx context.Context, op *pb.RangeOp, serializable bool) (*RangeResult, error) {
	looked := op.CountOnly || sortsElsewhere(op) || filtered(op) && op.Limit > 0
	return r.read(ctx, op, serializable, !looked)
}

func (r *reader) read(ctx context.Context, op *pb.RangeOp, serializable, encode bool) (*RangeResult, error) {
	wait := r.patience(ctx)
	defer wait.Cancel()
	if !serializable && readsPoint(op) {
		if res, ok, err := r.readPoint(ctx, wait, op); ok {
			return res, err
		}
	}
	var res *RangeResult
	err := r.withSnapshot(wait, op, serializable, func(s *snapshot) error {
		s.encode = encode
		var err error
		res, err = s.readAll(wait, op)
		return err
	})
	return res, err
}

// RangePages reads like Range, but hands out the keys in pages of about maxBytes, in key
// order and all of one snapshot. Sorted and filtered reads come as a single page. The last
// page alone has Count and More set.
func (r *reader) RangePages(ctx context.Context, op *pb.RangeOp, serializable bool, maxBytes int, fn func(*RangeResult) error) error {
	if op.CountOnly || sorted(op) || filtered(op) {
		res, err := r.Range(ctx, op, serializable)
		if err != nil {
			return err
		}
		return fn(res)
	}
	started := false
	return r.withSnapshot(ctx, op, serializable, func(s *snapshot) error {
		err := s.stream(ctx, op, int64(maxBytes), func(res *RangeResult) error {
			started = true
			return fn(res)
		})
		if started && err != nil { // what was sent cannot be sent again
			return &finalError{err}
		}
		return err
	})
}

// finalError keeps withSnapshot from starting over.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }

func (e *finalError) Unwrap() error { return e.err }

// withSnapshot pins a revision and runs read on it. It starts over with a new one where the epoch or the map
// changed, or where the revision that we chose was compacted meanwhile.
func (r *reader) withSnapshot(ctx context.Context, op *pb.RangeOp, serializable bool, read func(*snapshot) error) error {
	var a attempt
	for {
		s, err := r.pin(ctx, op, serializable)
		if err == nil {
			err = read(s)
		}
		if err == nil {
			return nil
		}
		var final *finalError
		if errors.As(err, &final) {
			return final.err
		}
		var compacted *shard.CompactedError
		again := errors.Is(err, errRemap) || errors.Is(err, shard.ErrStaleEpoch)
		if errors.As(err, &compacted) && op.Revision <= 0 {
			// What all local replicas have closed may be compacted in one of them, and stay so
			// for as long as another one lags: then the oracle is asked.
			again, serializable = true, false
		}
		if !again {
			return err
		}
		if over := r.pause(ctx, &a, err); over != nil {
			return outOfPatience(over, err)
		}
	}
}

// pin chooses the revision and cuts the span by ranges.
func (r *reader) pin(ctx context.Context, op *pb.RangeOp, serializable bool) (*snapshot, error) {
	m, err := r.rangeMap(ctx)
	if err != nil {
		return nil, err
	}
	s := newSnapshot(r, m, op)
	if c := r.cfg.Cluster.Compacted(); s.pinned && op.Revision < c {
		return nil, &shard.CompactedError{Revision: c}
	}
	if serializable && r.pinLocal(ctx, s, op) {
		return s, nil
	}
	now, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	s.rev, s.header = now.Revision, now.Revision
	s.epoch.set(now.Epoch)
	if s.pinned {
		if op.Revision > now.Revision {
			return nil, shard.ErrFutureRevision
		}
		if op.Revision < now.CompactRevision {
			return nil, &shard.CompactedError{Revision: now.CompactRevision}
		}
		s.rev = op.Revision
	}
	return s, nil
}

// finalHere is the highest revision at which the content of these ranges' local replicas is known not to change any more; false if one of them is not held
// here. What nobody has written to, and nobody has told this node anything of, as where it is cut off from the others since early on, is final at
// revision 1, at which there are no keys.
func (r *reader) finalHere(ids []shard.RangeID) (int64, bool) {
	closed, ok := r.cfg.Local.ClosedRevision(ids)
	if ok && closed == 0 && r.cfg.Local.Untouched(ids) {
		closed = 1
	}
	return closed, ok
}

// pinLocal pins the lowest closed revision of the local replicas, after a bounded wait for
// what this node has answered itself. false: the span is not held here.
func (r *reader) pinLocal(ctx context.Context, s *snapshot, op *pb.RangeOp) bool {
	if r.cfg.Local == nil {
		return false
	}
	ids := make([]shard.RangeID, len(s.parts))
	for i, p := range s.parts {
		ids[i] = p.desc.ID
	}
	closed, ok := r.cfg.Local.ClosedRevision(ids)
	if !ok {
		return false
	}
	// Never for what the client names: to close a revision that was not handed out yet would bar it.
	want := max(r.acked.highest(ids), 1)
	if closed < want && op.Revision <= max(closed, want) {
		wctx, cancel := context.WithTimeout(ctx, r.cfg.LocalWait)
		_ = r.cfg.Local.WaitClosed(wctx, ids, want) // bounded: a node that is cut off serves what it has
		cancel()
		if closed, ok = r.finalHere(ids); !ok {
			return false
		}
	}
	if op.Revision > closed || closed <= 0 {
		return false // not known here yet: the linearizable way decides
	}
	s.rev, s.header = closed, closed
	if s.pinned {
		s.rev = op.Revision
	}
	s.local = true
	for _, p := range s.parts {
		p.local, p.node = true, r.cfg.Local.Self()
	}
	return true
}
