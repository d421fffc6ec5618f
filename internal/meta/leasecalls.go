package meta

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"pontoon/internal/meta/lease"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// drawsMax bounds the search for an id that is not in use.
	drawsMax = 100
	// expiredMax is how many leases one look at the clock may find expired; the pace over time
	// is the lessor's.
	expiredMax = 500
)

func (c *call) grant(req *pb.LeaseGrantRequest) {
	m := c.m
	c.write(func() (*pb.MetaEntry, error) {
		switch {
		case req.Ttl > lease.MaxTTL:
			return nil, shard.ErrLeaseTTLTooLarge
		case m.lessor.Len() >= leasesMax:
			return nil, shard.ErrTooManyRequests
		}
		id := req.Id
		for i := 0; id == 0; i++ {
			if i == drawsMax {
				return nil, fmt.Errorf("%w: no free lease id was found", shard.ErrUnavailable)
			}
			if drawn := m.cfg.RandomID(); drawn > 0 {
				if _, used := m.state.Lease(drawn); !used {
					id = drawn
				}
			}
		}
		return &pb.MetaEntry{Grant: &pb.MetaGrant{Id: id, Ttl: max(req.Ttl, lease.MinTTL(m.cfg.ElectionTimeout))}}, nil
	}, func(r state.Result) {
		c.leases(&pb.LeaseInfo{Id: r.Lease.ID, Ttl: r.Lease.TTL, GrantedTtl: r.Lease.TTL, GrantIndex: r.Lease.GrantIndex})
	})
}

// leases answers at this point in the order of all changes.
func (c *call) leases(leases ...*pb.LeaseInfo) {
	c.reply(&pb.PeerResponse{LeaseInfo: &pb.LeaseInfoResponse{Leases: leases, Revision: c.last()}}, nil)
}

// revoke answers after the lease is gone everywhere. Concurrent calls wait for the same end, and hear that
// there is no such lease any more.
func (c *call) revoke(req *pb.LeaseRevokeRequest) {
	c.write(func() (*pb.MetaEntry, error) {
		return &pb.MetaEntry{Revoke: &pb.MetaRevoke{Id: req.Id}}, nil
	}, func(r state.Result) {
		c.m.revocations.urgent(req.Id)
		c.m.revocations.awaitRevoked(c.ctx, req.Id, func(rev int64, err error) {
			switch {
			case err != nil: // the next leader goes on
				c.fail(shard.ErrAmbiguous)
			case r.Already:
				c.fail(shard.ErrLeaseNotFound)
			case rev == 0: // it is gone, but at which point in the order nobody can say
				c.fail(shard.ErrAmbiguous)
			default:
				c.reply(&pb.PeerResponse{LeaseRevoke: &pb.LeaseRevokeResponse{Revision: rev}}, nil)
			}
		})
	})
}

// keepAlive renews leases. The end of one that is being revoked is waited for if it is alone in the call. In a
// batch it is only marked, so that the others need not wait.
func (c *call) keepAlive(req *pb.LeaseKeepAliveRequest) {
	now := c.m.cfg.Now()
	leases := make([]*pb.LeaseInfo, len(req.Ids))
	for i, id := range req.Ids {
		ttl, renewal := c.m.lessor.Renew(now, id)
		leases[i] = &pb.LeaseInfo{Id: id, Ttl: ttl, GrantedTtl: ttl, Revoking: renewal == lease.Ending}
	}
	if len(leases) != 1 || !leases[0].Revoking {
		c.leases(leases...)
		return
	}
	c.m.revocations.awaitRevoked(c.ctx, req.Ids[0], func(_ int64, err error) {
		if err != nil {
			c.fail(err)
			return
		}
		c.leases(&pb.LeaseInfo{Id: req.Ids[0]})
	})
}

func (c *call) info(id int64) {
	m := c.m
	m.revocations.awaitAttempt(c.ctx, id, func(err error) {
		if err != nil {
			c.fail(err)
			return
		}
		out := &pb.LeaseInfo{Id: id, Ttl: -1}
		if l, ok := m.state.Lease(id); ok {
			left, _ := m.lessor.Remaining(m.cfg.Now(), id)
			out = &pb.LeaseInfo{Id: l.ID, Ttl: int64(left / time.Second), GrantedTtl: l.TTL, GrantIndex: l.GrantIndex,
				Spans: pb.FromSpans(l.Spans), Revoking: l.Revoking}
		}
		c.leases(out)
	})
}

// list answers with the leases that are left when the attempts in flight to remove some have ended.
func (c *call) list() {
	m := c.m
	ids := m.lessor.ByExpiry()
	waits := 1
	var failed error
	attemptDone := func(err error) {
		failed = cmp.Or(failed, err)
		if waits--; waits > 0 {
			return
		}
		if failed != nil {
			c.fail(failed)
			return
		}
		ids = slices.DeleteFunc(ids, func(id int64) bool {
			_, there := m.state.Lease(id)
			return !there
		})
		ttls := make([]int64, len(ids))
		for i, id := range ids {
			l, _ := m.state.Lease(id)
			ttls[i] = l.TTL
		}
		c.reply(&pb.PeerResponse{LeaseList: &pb.LeaseListResponse{Ids: ids, GrantedTtls: ttls, Revision: c.last()}}, nil)
	}
	for _, id := range ids {
		waits++
		m.revocations.awaitAttempt(c.ctx, id, attemptDone)
	}
	attemptDone(nil)
}

// attach adds a span to a lease. What is attached already needs no entry.
func (c *call) attach(req *pb.LeaseAttachRequest) {
	span := pb.ToSpan(req.Span)
	if span.Empty() {
		c.fail(fmt.Errorf("%w: a lease is attached to no key", shard.ErrInvalid))
		return
	}
	l, ok := c.m.state.Lease(req.Id)
	switch {
	case !ok || l.Revoking || req.GrantIndex != 0 && req.GrantIndex != l.GrantIndex:
		c.fail(shard.ErrLeaseNotFound)
	case l.Covers(span):
		c.attached(l)
	default:
		e := &pb.MetaEntry{Attach: &pb.MetaAttach{Id: req.Id, GrantIndex: l.GrantIndex, Span: req.Span}}
		c.propose(e, func(r state.Result) { c.attached(r.Lease) })
	}
}

func (c *call) attached(l lease.Lease) {
	c.reply(&pb.PeerResponse{LeaseAttach: &pb.LeaseAttachResponse{GrantIndex: l.GrantIndex}}, nil)
}

// expire begins to revoke what has expired, once the leadership is confirmed: a replaced leader does not know
// what was renewed elsewhere. Called without the lock.
func (m *Meta) expire() {
	m.read(0, leaderRead{
		fail: func(error) { m.revocations.expiring = false },
		run: func() {
			m.revocations.expiring = false
			for _, e := range m.lessor.Expired(m.cfg.Now(), expiredMax) {
				m.revokeExpired(e)
			}
		},
	})
}

func (m *Meta) revokeExpired(e lease.Ended) {
	m.log.propose(&pb.MetaEntry{Revoke: &pb.MetaRevoke{Id: e.ID, GrantIndex: e.GrantIndex}}, func(r state.Result) {
		switch {
		case r.Err == nil && m.cfg.Expired != nil:
			m.cfg.Expired()
		case r.Err != nil && r.Err != shard.ErrLeaseNotFound:
			m.lessor.Retry(e)
		}
	})
}
