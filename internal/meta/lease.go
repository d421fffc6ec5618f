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

// reply answers a call: with a body or with an error. It is called with mu held.
type reply func(*pb.PeerResponse, error)

// write logs what make builds, on the leader. make is called with mu held and may refuse.
func (m *Meta) write(epoch uint64, rep reply, build func() (*pb.MetaEntry, error), done func(state.Result)) {
	m.ask(epoch, ask{
		write: true,
		fail:  func(err error) { rep(nil, err) },
		run: func() {
			e, err := build()
			if err != nil {
				rep(nil, err)
				return
			}
			m.propose(e, func(r state.Result) {
				if r.Err != nil {
					rep(nil, r.Err)
					return
				}
				done(r)
			})
		},
	})
}

// read answers from the leader's memory, with proof. Either function is called with mu held.
func (m *Meta) read(epoch uint64, rep reply, run func()) {
	m.ask(epoch, ask{run: run, fail: func(err error) { rep(nil, err) }})
}

// drawsMax bounds the search for an id that is not in use.
const drawsMax = 100

func (m *Meta) grant(epoch uint64, req *pb.LeaseGrantRequest, rep reply) {
	m.write(epoch, rep, func() (*pb.MetaEntry, error) {
		if req.Ttl > lease.MaxTTL {
			return nil, shard.ErrLeaseTTLTooLarge
		}
		id := req.Id
		for i := 0; id == 0; i++ {
			if i == drawsMax {
				return nil, fmt.Errorf("%w: no free lease id was found", shard.ErrUnavailable)
			}
			if drawn := m.cfg.RandomID(); drawn > 0 {
				if _, used := m.mu.state.Lease(drawn); !used {
					id = drawn
				}
			}
		}
		return &pb.MetaEntry{Grant: &pb.MetaGrant{Id: id, Ttl: max(req.Ttl, lease.MinTTL(m.cfg.ElectionTimeout))}}, nil
	}, func(r state.Result) {
		l := &pb.LeaseInfo{Id: r.Lease.ID, Ttl: r.Lease.TTL, GrantedTtl: r.Lease.TTL, GrantIndex: r.Lease.GrantIndex}
		rep(m.leaseInfo(l), nil)
	})
}

// leaseInfo answers at this point in the order of all changes.
func (m *Meta) leaseInfo(leases ...*pb.LeaseInfo) *pb.PeerResponse {
	return &pb.PeerResponse{LeaseInfo: &pb.LeaseInfoResponse{Leases: leases, Revision: m.mu.oracle.Last()}}
}

// revoke answers after the lease is gone everywhere. Who comes while another one is at it waits
// too, and learns that there is no such lease any more.
func (m *Meta) revoke(epoch uint64, req *pb.LeaseRevokeRequest, rep reply) {
	m.write(epoch, rep, func() (*pb.MetaEntry, error) {
		return &pb.MetaEntry{Revoke: &pb.MetaRevoke{Id: req.Id}}, nil
	}, func(r state.Result) {
		m.urgent(req.Id)
		m.awaitEnd(req.Id, func(rev int64, err error) {
			switch {
			case err != nil: // the next leader goes on
				rep(nil, shard.ErrAmbiguous)
			case r.Already:
				rep(nil, shard.ErrLeaseNotFound)
			case rev == 0: // it is gone, but at which point in the order nobody can say
				rep(nil, shard.ErrAmbiguous)
			default:
				rep(&pb.PeerResponse{LeaseRevoke: &pb.LeaseRevokeResponse{Revision: rev}}, nil)
			}
		})
	})
}

// keepAlive renews. One that is ending is waited for if nothing else was asked; in a batch it
// is only said to be ending, so that it does not hold up the others.
func (m *Meta) keepAlive(epoch uint64, req *pb.LeaseKeepAliveRequest, rep reply) {
	m.read(epoch, rep, func() {
		now := m.cfg.Now()
		leases := make([]*pb.LeaseInfo, len(req.Ids))
		for i, id := range req.Ids {
			ttl, state := m.mu.lessor.Renew(now, id)
			leases[i] = &pb.LeaseInfo{Id: id, Ttl: ttl, GrantedTtl: ttl, Revoking: state == lease.Ending}
		}
		if len(leases) == 1 && leases[0].Revoking {
			m.awaitEnd(req.Ids[0], func(_ int64, err error) {
				rep(m.leaseInfo(&pb.LeaseInfo{Id: req.Ids[0]}), err)
			})
			return
		}
		rep(m.leaseInfo(leases...), nil)
	})
}

func (m *Meta) info(epoch uint64, req *pb.LeaseInfoRequest, rep reply) {
	m.read(epoch, rep, func() {
		m.afterTry(req.Id, func(err error) {
			if err != nil {
				rep(nil, err)
				return
			}
			out := &pb.LeaseInfo{Id: req.Id, Ttl: -1}
			if l, ok := m.mu.state.Lease(req.Id); ok {
				left, _ := m.mu.lessor.Remaining(m.cfg.Now(), req.Id)
				out = &pb.LeaseInfo{Id: l.ID, Ttl: int64(left / time.Second), GrantedTtl: l.TTL, GrantIndex: l.GrantIndex,
					Spans: pb.FromSpans(l.Spans), Revoking: l.Revoking}
			}
			rep(m.leaseInfo(out), nil)
		})
	})
}

// list gives the leases that are there once the attempts to remove some are over.
func (m *Meta) list(epoch uint64, rep reply) {
	m.read(epoch, rep, func() {
		ids := m.mu.lessor.ByExpiry()
		waits := 1
		var failed error
		over := func(err error) {
			failed = cmp.Or(failed, err)
			if waits--; waits > 0 {
				return
			}
			if failed != nil {
				rep(nil, failed)
				return
			}
			ids = slices.DeleteFunc(ids, func(id int64) bool {
				_, there := m.mu.state.Lease(id)
				return !there
			})
			rep(&pb.PeerResponse{LeaseList: &pb.LeaseListResponse{Ids: ids, Revision: m.mu.oracle.Last()}}, nil)
		}
		for _, id := range ids {
			waits++
			m.afterTry(id, over)
		}
		over(nil)
	})
}

// attach adds a span to a lease. What is attached already needs no entry.
func (m *Meta) attach(epoch uint64, req *pb.LeaseAttachRequest, rep reply) {
	span := pb.ToSpan(req.Span)
	if span.Empty() {
		m.read(epoch, rep, func() { rep(nil, fmt.Errorf("%w: a lease is attached to no key", shard.ErrInvalid)) })
		return
	}
	m.read(epoch, rep, func() {
		l, ok := m.mu.state.Lease(req.Id)
		switch {
		case !ok || l.Revoking || req.GrantIndex != 0 && req.GrantIndex != l.GrantIndex:
			rep(nil, shard.ErrLeaseNotFound)
		case l.Covers(span):
			rep(attached(l), nil)
		default:
			e := &pb.MetaEntry{Attach: &pb.MetaAttach{Id: req.Id, GrantIndex: l.GrantIndex, Span: req.Span}}
			m.propose(e, func(r state.Result) {
				if r.Err != nil {
					rep(nil, r.Err)
					return
				}
				rep(attached(r.Lease), nil)
			})
		}
	})
}

func attached(l lease.Lease) *pb.PeerResponse {
	return &pb.PeerResponse{LeaseAttach: &pb.LeaseAttachResponse{GrantIndex: l.GrantIndex}}
}

// expire begins to end what has run out. It needs proof: a replaced leader does not know what
// was renewed elsewhere.
func (m *Meta) expire() {
	m.ask(0, ask{
		fail: func(error) { m.mu.ends.asking = false },
		run: func() {
			m.mu.ends.asking = false
			for _, e := range m.mu.lessor.Expired(m.cfg.Now(), expiredMax) {
				m.revokeExpired(e)
			}
		},
	})
}

func (m *Meta) revokeExpired(e lease.Ended) {
	m.propose(&pb.MetaEntry{Revoke: &pb.MetaRevoke{Id: e.ID, GrantIndex: e.GrantIndex}}, func(r state.Result) {
		if r.Err != nil && r.Err != shard.ErrLeaseNotFound {
			m.mu.lessor.Retry(e)
		}
	})
}
