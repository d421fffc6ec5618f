package metaclient

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// oracle asks the revision oracle: in this process where its replica leads, else by calls that many
// requests share.
type oracle struct {
	calls  *caller
	views  *views
	client uint64        // this client's name in calls to the oracle
	seq    atomic.Uint64 // of its last call

	mu struct {
		sync.Mutex
		closed   bool
		queue    []oracleRequest // in order of arrival
		inFlight int             // calls
		carried  int             // requests in them
		sending  bool
	}
}

func (o *oracle) init(calls *caller, views *views, client uint64) {
	o.calls, o.views, o.client = calls, views, client
}

// oracleRequest is one request: for revisions, or for the current one.
type oracleRequest struct {
	n       int64 // 0: the current revision
	arrived time.Time
	cb      func(shard.Now, error)
}

// Allocate asks for n > 0 consecutive revisions. cb is called once, perhaps before Allocate
// returns, and must not block. After an error none of the revisions will be used: gaps there
// are gaps of a failure.
func (o *oracle) Allocate(n int, cb func(first int64, epoch shard.Epoch, err error)) {
	if n <= 0 || n > allocateMax {
		cb(0, 0, fmt.Errorf("%w: %d revisions", shard.ErrInvalid, n))
		return
	}
	o.request(int64(n), func(now shard.Now, err error) { cb(now.Revision, now.Epoch, err) })
}

// CurrentFunc asks for the current revision; cb is called once and must not block.
func (o *oracle) CurrentFunc(cb func(rev int64, epoch shard.Epoch, err error)) {
	o.request(0, func(now shard.Now, err error) { cb(now.Revision, now.Epoch, err) })
}

// NowFunc is Current with a callback, which must not block.
func (o *oracle) NowFunc(cb func(shard.Now, error)) { o.request(0, cb) }

// Current asks for the current revision: at least every revision acknowledged before the call.
func (o *oracle) Current(ctx context.Context) (shard.Now, error) {
	return wait(ctx, func(cb func(shard.Now, error)) { o.NowFunc(cb) })
}

func (o *oracle) request(n int64, cb func(shard.Now, error)) {
	if now, ok := o.requestLocal(n); ok {
		cb(now, nil)
		return
	}
	a := oracleRequest{n: n, arrived: o.calls.cfg.Now(), cb: cb}
	o.mu.Lock()
	if o.mu.closed || len(o.mu.queue) >= queueMax {
		err := shard.ErrUnavailable
		if !o.mu.closed {
			err = shard.ErrTooManyRequests
		}
		o.mu.Unlock()
		cb(shard.Now{}, err)
		return
	}
	o.mu.queue = append(o.mu.queue, a)
	o.sendUnlock()
}

// requestLocal is the short way where this node's replica leads with a valid lease.
func (o *oracle) requestLocal(n int64) (shard.Now, bool) {
	if o.calls.cfg.Local == nil {
		return shard.Now{}, false
	}
	now, ok := o.calls.cfg.Local.ServeLeased(o.calls.epoch.Load(), n)
	if !ok || !o.noteNow(now, n) {
		return shard.Now{}, false
	}
	return now, true
}

// noteNow remembers what an answer tells. False: the answer is of an older epoch, and does not count.
func (o *oracle) noteNow(now shard.Now, n int64) bool {
	if uint64(now.Epoch) < o.calls.epoch.Load() {
		return false
	}
	o.calls.NoteEpoch(now.Epoch)
	o.calls.NoteRevision(now.Revision + max(n-1, 0))
	raise(&o.calls.compact, now.CompactRevision)
	o.views.noteVersion(now.RangesVersion)
	return true
}

// sendUnlock begins calls, each with all requests that wait, and releases mu. Calls in flight leave room for
// another one while they are fewer than CallsMax, with fewer than RequestsMax requests in them.
func (o *oracle) sendUnlock() {
	if o.mu.sending { // the one who is sending comes back to the queue
		o.mu.Unlock()
		return
	}
	o.mu.sending = true
	for len(o.mu.queue) > 0 && (o.mu.inFlight == 0 || o.mu.inFlight < o.calls.cfg.CallsMax && o.mu.carried < o.calls.cfg.RequestsMax) {
		batch := o.nextBatch()
		o.mu.inFlight++
		o.mu.carried += len(batch)
		o.mu.Unlock()
		o.sendBatch(batch)
		o.mu.Lock()
	}
	o.mu.sending = false
	o.mu.Unlock()
}

// nextBatch removes from the queue, in order, what one call may carry.
func (o *oracle) nextBatch() []oracleRequest {
	var sum int64
	for i, a := range o.mu.queue {
		if sum += a.n; sum > allocateMax && i > 0 {
			batch := o.mu.queue[:i:i]
			o.mu.queue = o.mu.queue[i:]
			return batch
		}
	}
	batch := o.mu.queue
	o.mu.queue = nil
	return batch
}

// sendBatch makes one call for a batch. Its revisions are shared out in order of arrival. Requests for the
// current one get what was current just before them.
func (o *oracle) sendBatch(batch []oracleRequest) {
	var n int64
	for _, a := range batch {
		n += a.n
	}
	o.calls.call(&attempt{
		req:      &pb.PeerRequest{Oracle: &pb.OracleRequest{Count: uint32(n), Asker: o.client, Seq: o.seq.Add(1)}},
		deadline: batch[0].arrived.Add(o.calls.cfg.OraclePatience),
		check: func(resp *pb.PeerResponse) bool {
			return resp.Oracle != nil && o.noteNow(toNow(resp.Oracle), n)
		},
		done: func(resp *pb.PeerResponse, err error) {
			o.mu.Lock()
			o.mu.inFlight--
			o.mu.carried -= len(batch)
			o.sendUnlock()
			now := toNow(resp.GetOracle())
			next, current := now.Revision, now.Revision
			if n > 0 {
				current--
			}
			for _, a := range batch {
				mine := now
				mine.Revision = current
				if a.n > 0 {
					mine.Revision = next
					next += a.n
				}
				if err != nil {
					mine = shard.Now{}
				}
				a.cb(mine, err)
			}
		},
	})
}

// close refuses whoever comes from now on, and returns the requests that wait for a call.
func (o *oracle) close() []oracleRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	queue := o.mu.queue
	o.mu.closed, o.mu.queue = true, nil
	return queue
}

func toNow(r *pb.OracleResponse) shard.Now {
	return shard.Now{Revision: r.GetRevision(), Epoch: shard.Epoch(r.GetEpoch()), CompactRevision: r.GetCompactRevision(),
		AuthRevision: r.GetAuthRevision(), RangesVersion: r.GetRangesVersion()}
}
