package metaclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// judge says whether a failed or discarded answer is worth another attempt, and if a hint says
// where, so that no pause is needed.
func (a *attempt) judge(from shard.NodeID, err error) (again, follow bool) {
	c := a.c
	var nl *shard.NotLeaderError
	switch {
	case errors.As(err, &nl):
		if nl.Leader != 0 && nl.Leader != from {
			c.leader.Store(uint64(nl.Leader))
			return true, true
		}
	case err == nil, errors.Is(err, shard.ErrUnavailable), errors.Is(err, shard.ErrStopped), errors.Is(err, shard.ErrTooManyRequests):
	case errors.Is(err, shard.ErrTimeout): // certainly not sent within its time
	case errors.Is(err, shard.ErrAmbiguous) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		if a.once {
			return false, false
		}
	default:
		return false, false // the leader's own word
	}
	if !errors.Is(err, shard.ErrTooManyRequests) {
		c.leader.CompareAndSwap(uint64(from), 0)
		c.rotate.Add(1)
	}
	return true, false
}

// oracleAsk is one caller of the oracle.
type oracleAsk struct {
	n       int64 // 0: the current revision
	arrived time.Time
	cb      func(shard.Now, error)
}

// Allocate asks for n > 0 consecutive revisions. cb is called once, perhaps before Allocate
// returns, and must not block. After an error none of the revisions will be used: gaps there
// are gaps of a failure.
func (c *Client) Allocate(n int, cb func(first int64, epoch shard.Epoch, err error)) {
	if n <= 0 || n > allocateMax {
		cb(0, 0, fmt.Errorf("%w: %d revisions", shard.ErrInvalid, n))
		return
	}
	c.askOracle(int64(n), func(now shard.Now, err error) { cb(now.Revision, now.Epoch, err) })
}

// CurrentFunc asks for the current revision; cb is called once and must not block.
func (c *Client) CurrentFunc(cb func(rev int64, epoch shard.Epoch, err error)) {
	c.askOracle(0, func(now shard.Now, err error) { cb(now.Revision, now.Epoch, err) })
}

// NowFunc is Current with a callback, which must not block.
func (c *Client) NowFunc(cb func(shard.Now, error)) { c.askOracle(0, cb) }

func (c *Client) askOracle(n int64, cb func(shard.Now, error)) {
	if now, ok := c.askLocal(n); ok {
		cb(now, nil)
		return
	}
	a := oracleAsk{n: n, arrived: c.cfg.Now(), cb: cb}
	c.mu.Lock()
	if c.mu.closed || len(c.mu.queue) >= queueMax {
		err := shard.ErrUnavailable
		if !c.mu.closed {
			err = shard.ErrTooManyRequests
		}
		c.mu.Unlock()
		cb(shard.Now{}, err)
		return
	}
	c.mu.queue = append(c.mu.queue, a)
	c.sendUnlock()
}

// askLocal is the short way where this node's replica leads with a valid lease.
func (c *Client) askLocal(n int64) (shard.Now, bool) {
	if c.cfg.Local == nil {
		return shard.Now{}, false
	}
	now, ok := c.cfg.Local.AskLeased(c.epoch.Load(), n)
	if !ok || !c.noteNow(now, n) {
		return shard.Now{}, false
	}
	return now, true
}

// noteNow remembers what an answer tells. It reports whether the answer counts.
func (c *Client) noteNow(now shard.Now, n int64) bool {
	if uint64(now.Epoch) < c.epoch.Load() {
		return false
	}
	c.NoteEpoch(now.Epoch)
	c.NoteRevision(now.Revision + max(n-1, 0))
	raise(&c.compact, now.CompactRevision)
	c.noteVersion(now.RangesVersion)
	return true
}

// sendUnlock begins calls while somebody waits and fewer than CallsMax are under way, or one where
// AskedMax ask already, and releases mu. A call carries everybody who waits when it begins.
func (c *Client) sendUnlock() {
	if c.mu.sending { // the one who is sending comes back to the queue
		c.mu.Unlock()
		return
	}
	c.mu.sending = true
	for len(c.mu.queue) > 0 && (c.mu.underWay == 0 || c.mu.underWay < c.cfg.CallsMax && c.mu.asked < c.cfg.AskedMax) {
		batch := c.takeBatch()
		c.mu.underWay++
		c.mu.asked += len(batch)
		c.mu.Unlock()
		c.sendBatch(batch)
		c.mu.Lock()
	}
	c.mu.sending = false
	c.mu.Unlock()
}

// takeBatch takes from the queue, in order, what one call may carry.
func (c *Client) takeBatch() []oracleAsk {
	var sum int64
	for i, a := range c.mu.queue {
		if sum += a.n; sum > allocateMax && i > 0 {
			batch := c.mu.queue[:i:i]
			c.mu.queue = c.mu.queue[i:]
			return batch
		}
	}
	batch := c.mu.queue
	c.mu.queue = nil
	return batch
}

// sendBatch asks for all of a batch at once: revisions for those who want some, handed out in
// order of arrival; those who want the current one get what was current just before.
func (c *Client) sendBatch(batch []oracleAsk) {
	var n int64
	for _, a := range batch {
		n += a.n
	}
	c.call(&attempt{
		req:      &pb.PeerRequest{Oracle: &pb.OracleRequest{Count: uint32(n), Asker: c.asker, Seq: c.seq.Add(1)}},
		deadline: batch[0].arrived.Add(c.cfg.OraclePatience),
		check: func(resp *pb.PeerResponse) bool {
			return resp.Oracle != nil && c.noteNow(toNow(resp.Oracle), n)
		},
		done: func(resp *pb.PeerResponse, err error) {
			c.mu.Lock()
			c.mu.underWay--
			c.mu.asked -= len(batch)
			c.sendUnlock()
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

// one makes a call that blocks. A call that may have been logged and has no answer ends with
// shard.ErrAmbiguous if it must not be sent twice.
func (c *Client) one(ctx context.Context, req *pb.PeerRequest, once, long bool) (*pb.PeerResponse, error) {
	resp, err := wait(ctx, func(cb func(*pb.PeerResponse, error)) {
		c.call(&attempt{req: req, ctx: ctx, once: once, long: long, done: cb})
	})
	if err != nil && once && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil, shard.GivenUp(err)
	}
	return resp, err
}

// Lease is one lease as its holders see it.
type Lease struct {
	ID         int64
	TTL        int64 // what is left, in seconds
	GrantedTTL int64
	GrantIndex uint64
	Spans      []shard.Span
	Revoking   bool
	Revision   int64 // that was current when the answer was made; 0: not told
}

func toLease(l *pb.LeaseInfo) Lease {
	return Lease{ID: l.GetId(), TTL: l.GetTtl(), GrantedTTL: l.GetGrantedTtl(), GrantIndex: l.GetGrantIndex(),
		Spans: pb.ToSpans(l.GetSpans()), Revoking: l.GetRevoking()}
}

func firstLease(resp *pb.PeerResponse, err error) (Lease, error) {
	if err != nil {
		return Lease{}, err
	}
	if ls := resp.GetLeaseInfo().GetLeases(); len(ls) > 0 {
		l := toLease(ls[0])
		l.Revision = resp.GetLeaseInfo().GetRevision()
		return l, nil
	}
	return Lease{}, fmt.Errorf("%w: an answer without a lease", shard.ErrCorrupt)
}

// Grant creates a lease; with id 0 the cluster chooses one. The TTL, in seconds, may be raised.
func (c *Client) Grant(ctx context.Context, id, ttl int64) (Lease, error) {
	l, err := firstLease(c.one(ctx, &pb.PeerRequest{LeaseGrant: &pb.LeaseGrantRequest{Id: id, Ttl: ttl}}, true, false))
	c.NoteRevision(l.Revision)
	return l, err
}

// Revoke ends a lease and returns when its keys are deleted, with the revision of the deletes, or the one
// that was current if there was nothing to delete. shard.ErrAmbiguous: it may be going on, or it is done
// and nobody knows at which revision.
func (c *Client) Revoke(ctx context.Context, id int64) (rev int64, err error) {
	resp, err := c.one(ctx, &pb.PeerRequest{LeaseRevoke: &pb.LeaseRevokeRequest{Id: id}}, true, true)
	rev = resp.GetLeaseRevoke().GetRevision()
	c.NoteRevision(rev)
	return rev, err
}

// Info returns a lease; shard.ErrLeaseNotFound, and the revision alone, if there is none.
func (c *Client) Info(ctx context.Context, id int64) (Lease, error) {
	l, err := firstLease(c.one(ctx, &pb.PeerRequest{LeaseInfo: &pb.LeaseInfoRequest{Id: id}}, false, false))
	c.NoteRevision(l.Revision)
	if err == nil && l.TTL < 0 {
		return Lease{Revision: l.Revision}, shard.ErrLeaseNotFound
	}
	return l, err
}

// Leases lists the ids of all leases, the next to expire first, and tells the revision that was current.
func (c *Client) Leases(ctx context.Context) (ids []int64, rev int64, err error) {
	resp, err := c.one(ctx, &pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}}, false, false)
	rev = resp.GetLeaseList().GetRevision()
	c.NoteRevision(rev)
	return resp.GetLeaseList().GetIds(), rev, err
}

// Attach records, before a put with the lease is proposed, that span may hold keys of it. With
// grantIndex 0 any grant of the id will do. It returns the index of the grant.
func (c *Client) Attach(ctx context.Context, id int64, grantIndex uint64, span shard.Span) (uint64, error) {
	req := &pb.LeaseAttachRequest{Id: id, GrantIndex: grantIndex, Span: pb.FromSpan(span)}
	resp, err := c.one(ctx, &pb.PeerRequest{LeaseAttach: req}, false, false)
	return resp.GetLeaseAttach().GetGrantIndex(), err
}

// Compact decides that revisions below rev may be dropped, and tells the revision that was current then;
// with physical set it returns when their space is free.
func (c *Client) Compact(ctx context.Context, rev int64, physical bool) (current int64, err error) {
	resp, err := c.one(ctx, &pb.PeerRequest{Compact: &pb.CompactRequest{Revision: rev, Physical: physical}}, true, physical)
	var compacted *shard.CompactedError
	switch {
	case err == nil:
		raise(&c.compact, rev)
	case errors.As(err, &compacted):
		raise(&c.compact, compacted.Revision)
	}
	current = resp.GetCompact().GetRevision()
	c.NoteRevision(current)
	return current, err
}

// Publish makes a member's name and client URLs known to the cluster, and which formats it speaks. A
// member that does not speak the cluster's version is refused.
func (c *Client) Publish(ctx context.Context, id shard.NodeID, name string, clientURLs []string) error {
	req := &pb.MemberAttrsRequest{Id: uint64(id), Name: name, ClientUrls: clientURLs, Formats: uint32(c.cfg.Formats)}
	_, err := c.one(ctx, &pb.PeerRequest{MemberAttrs: req}, false, false)
	return err
}

// Alarm gets, raises or clears alarms (etcd's actions 0, 1, 2) and returns the leader's status
// with those that are raised.
func (c *Client) Alarm(ctx context.Context, action int32, member shard.NodeID, kind int32) (*pb.MetaStatusResponse, error) {
	req := &pb.AlarmRequest{Action: action, MemberId: uint64(member), Alarm: kind}
	resp, err := c.one(ctx, &pb.PeerRequest{Alarm: req}, false, false)
	return resp.GetMetaStatus(), err
}

// Status returns what the leader of the meta group says of itself.
func (c *Client) Status(ctx context.Context) (*pb.MetaStatusResponse, error) {
	resp, err := c.one(ctx, &pb.PeerRequest{MetaStatus: &pb.MetaStatusRequest{}}, false, false)
	return resp.GetMetaStatus(), err
}

func toNow(r *pb.OracleResponse) shard.Now {
	return shard.Now{Revision: r.GetRevision(), Epoch: shard.Epoch(r.GetEpoch()), CompactRevision: r.GetCompactRevision(),
		AuthRevision: r.GetAuthRevision(), RangesVersion: r.GetRangesVersion()}
}
