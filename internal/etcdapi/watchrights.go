package etcdapi

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"pontoon/internal/auth"
	"pontoon/internal/mutate"
	"pontoon/shard"
	"pontoon/watchfanout"
)

// watchRights is what who made a stream may still watch. It is the stream's turns'; another goroutine tells only that a question has been
// answered.
//
// What the hub had for a stream is delivered only if, after it was taken from there, every change that anybody has been told of is in the view
// that all watches of the stream were judged by. So no event of a write that began after a right was revoked, and that was acknowledged,
// reaches who has lost it.
type watchRights struct {
	guard    *Guard
	schedule func()
	fail     func(error)

	seen *auth.View // by which all watches were judged; nil: nothing was asked for
	by   shard.Who  // who made the last one
	lost []int64    // watches that were ended by the last look
	// held waits until the oracle has answered the question of that number.
	held     []watchfanout.Delivery
	waiting  bool
	question uint64
	answered atomic.Uint64 // the last one
}

// refuse is why a watch may not be created; empty if it may. The newest view is new enough: the command has waited for the oracle.
func (r *watchRights) refuse(ctx context.Context, c *command) string {
	v := r.guard.on()
	if v == nil {
		return ""
	}
	end := c.end
	if unbounded := len(end) == 1 && end[0] == 0; unbounded && mutate.On(mutate.AuthWatchEnd) {
		end = nil
	}
	w, err := r.guard.by(ctx, v, func(v *auth.View, w shard.Who) error { return v.MayRead(w, c.key, end) })
	if err != nil {
		return cancelReason(err)
	}
	r.by = w
	r.by.Dated = false // it was new enough then: another change does not end a watch that keeps its right
	return ""
}

// cancelReason is the text by which clients of etcd know why they may not watch.
func cancelReason(err error) string {
	switch rpc := toRPC(err); rpc {
	case rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty:
		return rpc.Error()
	}
	return rpctypes.ErrGRPCPermissionDenied.Error()
}

// judgeAll ends the watches of a stream that may not be any more, where users and roles have changed.
func (s *watchStream) judgeAll(out *responseBuffer) error {
	r := &s.rights
	v := r.guard.on()
	r.lost = r.lost[:0]
	if v == r.seen || mutate.On(mutate.AuthWatchStays) {
		return nil
	}
	r.seen = v
	if v == nil {
		return nil
	}
	for id, span := range s.hub.Watched() {
		end := span.End
		if span.Unbounded() {
			end = []byte{0}
		}
		err := v.MayRead(r.by, span.Start, end)
		if err == nil || !s.hub.Cancel(id) {
			continue
		}
		r.lost = append(r.lost, id)
		r.cancelled(id)
		s.forget(id)
		if err := out.add(watchHead{id: id, canceled: true, cancelReason: cancelReason(err)}); err != nil {
			return err
		}
	}
	return nil
}

// take returns what has been held, once that may be delivered.
func (r *watchRights) take(dst []watchfanout.Delivery) []watchfanout.Delivery {
	if len(r.held) == 0 {
		return dst
	}
	dst = append(dst, r.held...)
	r.held = nil
	return dst
}

// sure reports whether what was polled may be delivered after a look at the newest view. Else it holds that until the oracle has been asked,
// and a turn is taken then.
func (r *watchRights) sure(polled []watchfanout.Delivery) bool {
	if r.guard.lent() || r.waiting && r.answered.Load() == r.question {
		r.waiting = false
		return true
	}
	r.held = slices.Clone(polled)
	if r.waiting {
		return false
	}
	r.waiting = true
	r.question++
	n := r.question
	r.guard.access.BorrowFunc(func(err error) { r.borrowed(n, err) })
	return false
}

// borrowed hears that the oracle was asked, for the nth time.
func (r *watchRights) borrowed(n uint64, err error) {
	if err != nil {
		r.fail(toRPC(err)) // the client goes on at another node
		return
	}
	for old := r.answered.Load(); old < n && !r.answered.CompareAndSwap(old, n); old = r.answered.Load() {
	}
	r.schedule()
}

// left is what was polled, without what was of watches that have just been ended.
func (r *watchRights) left(polled []watchfanout.Delivery) []watchfanout.Delivery {
	if len(r.lost) == 0 {
		return polled
	}
	return slices.DeleteFunc(polled, func(d watchfanout.Delivery) bool { return slices.Contains(r.lost, d.ID) })
}

// unmarked drops the markers for the whole stream of what is held: they do not speak for a watch that begins now, to which they would come all the
// same. The highest of them is to be asked for again; 0: there was none.
func (r *watchRights) unmarked() (rev int64) {
	if mutate.On(mutate.HeldMarker) {
		return 0
	}
	r.held = slices.DeleteFunc(r.held, func(d watchfanout.Delivery) bool {
		if d.ID != watchfanout.StreamWide {
			return false
		}
		rev = max(rev, d.Revision)
		return true
	})
	return rev
}

// cancelled drops what is held of a watch that has been ended: another may take its number.
func (r *watchRights) cancelled(id int64) {
	if mutate.On(mutate.HeldEvents) {
		return
	}
	r.held = slices.DeleteFunc(r.held, func(d watchfanout.Delivery) bool { return d.ID == id })
}

// streamSet is the watch streams that are open.
type streamSet struct {
	mu  sync.Mutex
	all map[*watchStream]struct{}
}

func (t *streamSet) add(s *watchStream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = make(map[*watchStream]struct{})
	}
	t.all[s] = struct{}{}
}

func (t *streamSet) remove(s *watchStream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, s)
}

// AccessChanged has every watch judged again. It does not block.
func (a *API) AccessChanged() {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	for s := range a.streams.all {
		s.schedule()
	}
}
