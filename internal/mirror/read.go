package mirror

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"pontoon/internal/mirror/runs"
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Request is a list, in ascending order unless Reverse is set.
type Request struct {
	Span         shard.Span
	Revision     int64 // the client's own; 0: it named none
	Limit        int64 // keys; 0: all
	Reverse      bool
	KeysOnly     bool // without values and leases
	CountOnly    bool
	Serializable bool
}

// Result is the answer.
type Result struct {
	Pieces   [][]byte // of etcd's RangeResponse, in order; shared, and never written
	Keys     int64    // in Pieces
	Count    int64    // in the span
	Revision int64    // for the header
}

// wait is a list that waits until all parts of its span are closed.
type wait struct {
	req  *Request
	rev  int64 // at which they are to be closed
	done chan struct{}

	at    int64 // the revision that was chosen; 0: the list goes to the ranges
	views []partView
	on    *part // that is not closed enough yet; nil: it is over
}

// partView is what a list reads of one part.
type partView struct {
	span shard.Span
	view runs.View
	auto shard.RangeID // the range, where it is mirrored by itself; else 0
}

// lister answers lists.
type lister struct {
	cfg *Config
	*table
	stale atomic.Pointer[shard.Now] // what a mutation answers with
}

// read answers a list; nil: the ranges have to.
func (l *lister) read(ctx context.Context, req *Request) (*Result, error) {
	over, told, ok := l.standing(req.Span)
	if !ok {
		return nil, nil
	}
	if req.Serializable {
		if c := l.cfg.Compacted(); req.Revision > 0 && req.Revision < c {
			return nil, &shard.CompactedError{Revision: c}
		}
		if res, ok := l.readAtHand(ctx, req, max(1, told, l.cfg.Answered(over))); ok {
			return res, nil
		}
	}
	now, err := l.current(ctx)
	if err != nil {
		return nil, err
	}
	w := &wait{req: req, rev: now.Revision, done: make(chan struct{})}
	header := int64(0)
	if req.Revision > 0 {
		if req.Revision > now.Revision {
			return nil, shard.ErrFutureRevision
		}
		if req.Revision < now.CompactRevision {
			return nil, &shard.CompactedError{Revision: now.CompactRevision}
		}
		w.rev, header = req.Revision, now.Revision
	}
	if err := l.await(ctx, w, l.cfg.Wait); err != nil || w.at == 0 {
		return nil, err
	}
	if header == 0 {
		header = w.at
	}
	return l.gather(req, w.views, header), nil
}

// current asks the oracle, for a list that has come.
func (l *lister) current(ctx context.Context) (shard.Now, error) {
	if mutate.On(mutate.MirrorStale) {
		if l.stale.Load() == nil {
			now, err := l.cfg.Current(ctx)
			l.stale.Store(&now)
			return now, err
		}
		return *l.stale.Load(), nil
	}
	return l.cfg.Current(ctx)
}

// readAtHand answers a serializable list by what is closed, after a bounded wait for what this process has told its clients. false: only the oracle can tell.
func (l *lister) readAtHand(ctx context.Context, req *Request, told int64) (*Result, bool) {
	w := &wait{req: req, rev: told, done: make(chan struct{})}
	if err := l.await(ctx, w, askAgain); err != nil {
		return nil, false
	}
	l.mu.Lock()
	if w.at == 0 { // as much as there is: a process that is cut off serves what it has
		w = &wait{req: req, rev: 1, done: make(chan struct{})}
		l.settleLocked(w)
	}
	header := l.mu.parts.closed(req.Span)
	l.mu.Unlock()
	switch {
	case w.at == 0, req.Revision > header:
		return nil, false
	case req.Revision == 0:
		header = w.at
	}
	return l.gather(req, w.views, header), true
}

// await has a list wait until its parts are closed where it wants them to be, and its views are taken. It asks for what is missing.
func (l *lister) await(ctx context.Context, w *wait, patience time.Duration) error {
	late := l.begin(w)
	if len(late) == 0 {
		return nil
	}
	over := time.Now().Add(patience) // no timer of its own: which of two that end together is heard first would be by chance
	again := time.NewTicker(min(askAgain, patience))
	defer again.Stop()
	for {
		l.cfg.AskClose(w.rev, late)
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			l.leave(w)
			return ctx.Err()
		case now := <-again.C:
			if !now.Before(over) {
				l.leave(w)
				return nil
			}
			late = l.late(w)
		}
	}
}

// gather reads what a list wants of its parts.
func (l *lister) gather(req *Request, views []partView, header int64) *Result {
	res := &Result{Revision: header}
	if req.Reverse {
		slices.Reverse(views)
	}
	for i := range views {
		v := &views[i]
		if req.CountOnly || req.Limit > 0 && res.Keys >= req.Limit {
			res.Count += v.view.Count(v.span)
			continue
		}
		q := runs.Query{Span: v.span, Reverse: req.Reverse, KeysOnly: req.KeysOnly}
		if req.Limit > 0 {
			q.Limit = req.Limit - res.Keys
		}
		pieces, n, count := v.view.Read(q)
		res.Pieces = append(res.Pieces, pieces...)
		if v.auto != 0 { // what is used stays
			size := 0
			for _, piece := range pieces {
				size += len(piece)
			}
			l.chooser.listed(v.auto, v.span, size, 0)
		}
		res.Keys += n
		res.Count += count
	}
	return res
}
