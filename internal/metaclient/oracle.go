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
	calls    *caller
	views    *views
	settings *settings
	client   uint64        // this client's name in calls to the oracle
	seq      atomic.Uint64 // of its last call
	current  atomic.Uint64 // questions for the current revision

	mu struct {
		sync.Mutex
		closed   bool
		queue    []oracleRequest // in order of arrival
		inFlight int             // calls
		carried  int             // requests in them
		sending  bool
	}
}

func (o *oracle) init(calls *caller, views *views, settings *settings, client uint64) {
	o.calls, o.views, o.settings, o.client = calls, views, settings, client
}

// oracleRequest is one request: for revisions, or for the current one.
type oracleRequest struct {
	ask     shard.Ask
	arrived time.Time
	cb      func(shard.Now, error)
}

// Allocate asks for ask.Count > 0 consecutive revisions, the first of which is the answer's. cb is called once, perhaps before Allocate
// returns, and must not block. After an error none of the revisions will be used: gaps there
// are gaps of a failure. But shard.ErrOldSettings says that none were allocated, because the condition does not hold; newer settings are known then.
func (o *oracle) Allocate(ask shard.Ask, cb func(shard.Now, error)) {
	if ask.Count <= 0 || ask.Count > allocateMax {
		cb(shard.Now{}, fmt.Errorf("%w: %d revisions", shard.ErrInvalid, ask.Count))
		return
	}
	o.request(ask, cb)
}

// NowFunc asks for the current revision. cb is called once and must not block. Settings of which the answer speaks are known then.
func (o *oracle) NowFunc(cb func(shard.Now, error)) {
	o.current.Add(1)
	o.request(shard.Ask{}, cb)
}

// GrantedFunc asks who was given revisions above since. cb is called once and must not block. Granted is nil in the answer of an oracle that does not tell.
func (o *oracle) GrantedFunc(since int64, cb func(shard.Now, error)) {
	o.current.Add(1)
	o.request(shard.Ask{Granted: true, Since: since}, cb)
}

// Granted asks who was given revisions above since.
func (o *oracle) Granted(ctx context.Context, since int64) (shard.Now, error) {
	return wait(ctx, func(cb func(shard.Now, error)) { o.GrantedFunc(since, cb) })
}

// OracleQuestions is how often the current revision was asked for.
func (o *oracle) OracleQuestions() uint64 { return o.current.Load() }

// Current asks for the current revision: at least every revision acknowledged before the call.
func (o *oracle) Current(ctx context.Context) (shard.Now, error) {
	return wait(ctx, func(cb func(shard.Now, error)) { o.NowFunc(cb) })
}

func (o *oracle) request(ask shard.Ask, cb func(shard.Now, error)) {
	if o.requestLocal(ask, cb) {
		return
	}
	a := oracleRequest{ask: ask, arrived: o.calls.cfg.Now(), cb: cb}
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

// requestLocal is the short way where this node's replica leads with a valid lease. False: it could not be taken.
func (o *oracle) requestLocal(ask shard.Ask, cb func(shard.Now, error)) bool {
	if o.calls.cfg.Local == nil {
		return false
	}
	asked := o.asked()
	now, ok := o.calls.cfg.Local.ServeLeased(o.calls.epoch.Load(), ask, o.calls.cfg.FollowSettings)
	if !ok || !o.noteNow(now, allocated(now, ask.Count)) {
		return false
	}
	known := o.settings.answered(now, asked)
	o.deliver(oracleRequest{ask: ask, cb: cb}, now, known)
	return true
}

// allocated is how many revisions an answer brings to a question for n.
func allocated(now shard.Now, n int64) int64 {
	if now.Refused {
		return 0
	}
	return n
}

// asked is the time from which on a loan counts; nobody needs it where nothing is lent.
func (o *oracle) asked() time.Time {
	if !o.settings.borrows(o.settings.Settings()) {
		return time.Time{}
	}
	return o.calls.cfg.Steady()
}

// deliver tells an answer, once the settings are known of which it speaks; not known: they have to be fetched first. Revisions that were allocated
// are used in any case.
func (o *oracle) deliver(a oracleRequest, now shard.Now, known bool) {
	tell := func() {
		if a.ask.Count > 0 && now.Refused && a.ask.Conditional {
			a.cb(shard.Now{}, shard.ErrOldSettings)
			return
		}
		a.cb(now, nil)
	}
	switch {
	case known:
		tell()
		return
	case a.ask.Count > 0 && !now.Refused:
		tell()
		o.settings.await(now.SettingsVersion, func(error) {})
		return
	}
	o.settings.await(now.SettingsVersion, func(err error) {
		if err != nil {
			a.cb(shard.Now{}, err)
			return
		}
		tell()
	})
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
		batch, all := o.nextBatch()
		o.mu.inFlight++
		o.mu.carried += len(batch)
		o.mu.Unlock()
		o.sendBatch(batch, all)
		o.mu.Lock()
	}
	o.mu.sending = false
	o.mu.Unlock()
}

// nextBatch removes from the queue, in order, what one call may carry: revisions under one condition, and whoever wants the current one.
func (o *oracle) nextBatch() ([]oracleRequest, shard.Ask) {
	var all shard.Ask
	apart := len(o.settings.Settings().Alarms) > 0 // what an alarm forbids is refused by itself
	for i, a := range o.mu.queue {
		if all.Count+a.ask.Count > allocateMax && i > 0 || !joins(&all, a.ask, apart) {
			batch := o.mu.queue[:i:i]
			o.mu.queue = o.mu.queue[i:]
			return batch, all
		}
	}
	batch := o.mu.queue
	o.mu.queue = nil
	return batch, all
}

// joins adds a request to what a call asks for, or reports that it needs one of its own. apart: what grows does, too. Whose the revisions are stands in
// the call's shares.
func joins(all *shard.Ask, a shard.Ask, apart bool) bool {
	switch {
	case a.Granted:
		if !all.Granted || a.Since < all.Since {
			all.Since = a.Since
		}
		all.Granted = true
	case a.Count == 0:
	case all.Count == 0:
		all.Count, all.Conditional, all.Settings, all.Grows = a.Count, a.Conditional, a.Settings, a.Grows
	case all.Conditional != a.Conditional, all.Settings != a.Settings, apart && all.Grows != a.Grows:
		return false
	default:
		all.Count += a.Count
		all.Grows = all.Grows || a.Grows
	}
	return true
}

// sendBatch makes one call for a batch. Its revisions are shared out in order of arrival. Requests for the
// current one get what was current just before them.
func (o *oracle) sendBatch(batch []oracleRequest, all shard.Ask) {
	n := all.Count
	req := &pb.OracleRequest{Count: uint32(n), Asker: o.client, Seq: o.seq.Add(1)}
	if req.Shares = sharesOf(batch); all.Granted {
		req.Granted = &pb.GrantedRequest{Since: all.Since}
	}
	if all.Conditional {
		req.Condition = &pb.Condition{SettingsVersion: all.Settings, Grows: all.Grows}
	}
	if o.calls.cfg.FollowSettings {
		req.LendTo = uint64(o.calls.cfg.Self)
	}
	known, asked := true, o.asked()
	o.calls.call(&attempt{
		req:      &pb.PeerRequest{Oracle: req},
		deadline: batch[0].arrived.Add(o.calls.cfg.OraclePatience),
		check: func(resp *pb.PeerResponse) bool {
			if resp.Oracle == nil {
				return false
			}
			now := toNow(resp.Oracle)
			if !o.noteNow(now, allocated(now, n)) {
				return false
			}
			known = o.settings.answered(now, asked)
			return true
		},
		done: func(resp *pb.PeerResponse, err error) {
			o.mu.Lock()
			o.mu.inFlight--
			o.mu.carried -= len(batch)
			o.sendUnlock()
			now := toNow(resp.GetOracle())
			next, current := now.Revision, now.Revision
			if allocated(now, n) > 0 {
				current--
			}
			for _, a := range batch {
				if err != nil {
					a.cb(shard.Now{}, err)
					continue
				}
				mine := now
				mine.Revision = current
				if a.ask.Count > 0 && !now.Refused {
					mine.Revision = next
					next += a.ask.Count
				}
				o.deliver(a, mine, known)
			}
		},
	})
}

// sharesOf says whose the revisions of a batch are, one behind the other.
func sharesOf(batch []oracleRequest) []*pb.RevisionShare {
	n, named := 0, false
	for _, a := range batch {
		if a.ask.Count > 0 {
			n, named = n+1, named || a.ask.Range != 0
		}
	}
	if !named {
		return nil
	}
	made, out := make([]pb.RevisionShare, n), make([]*pb.RevisionShare, 0, n)
	for _, a := range batch {
		if a.ask.Count > 0 {
			s := &made[len(out)]
			s.RangeId, s.Generation, s.Count = uint64(a.ask.Range), uint64(a.ask.Generation), uint32(a.ask.Count)
			out = append(out, s)
		}
	}
	return out
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
		AuthRevision: r.GetAuthRevision(), RangesVersion: r.GetRangesVersion(), SettingsVersion: r.GetSettingsVersion(),
		Refused: r.GetRefused(), Lent: time.Duration(r.GetLentMs()) * time.Millisecond, Granted: pb.ToGranted(r.GetGranted())}
}
