package meta

import (
	"context"
	"fmt"

	"pontoon/internal/calls"
	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Handle serves a call without blocking. answer is called once, from any goroutine. A replica that does not
// lead answers with *shard.NotLeaderError and what it knows of the leader.
func (m *Meta) Handle(ctx context.Context, _ shard.NodeID, req *pb.PeerRequest, answer func(*pb.PeerResponse)) {
	if m == nil {
		answer(&pb.PeerResponse{Error: pb.ErrorToPB(&shard.NotLeaderError{Range: shard.MetaID})})
		return
	}
	kind, _ := calls.Of(req)
	if kind == calls.Oracle {
		m.serveOracle(req.Epoch, questionOf(req.Oracle), func(now Now, err error) {
			answer(&pb.PeerResponse{Error: pb.ErrorToPB(err), Oracle: fromNow(now, err)})
		})
		return
	}
	c := &call{m: m, ctx: ctx, epoch: req.Epoch, answer: answer}
	if serve := servers[kind]; serve != nil {
		serve(c, req)
		return
	}
	m.mu.Lock()
	c.fail(fmt.Errorf("%w: the meta group does not know this call", shard.ErrUnimplemented))
	m.mu.unlock()
}

// serveOracle answers a question to the oracle. cb is called once, perhaps before serveOracle returns, and must not
// block. epoch is the highest that the caller has seen.
func (m *Meta) serveOracle(epoch uint64, q question, cb func(Now, error)) {
	if q.ask.Count < 0 {
		cb(Now{}, fmt.Errorf("%w: %d revisions", shard.ErrInvalid, q.ask.Count))
		return
	}
	if now, ok := m.serveLeased(epoch, q); ok {
		cb(now, nil)
		return
	}
	w := waiter{q, cb}
	m.read(epoch, leaderRead{
		run:  func() { m.revisions.serve(w) },
		fail: func(err error) { m.revisions.reply(w, Now{}, err) },
	})
}

// ServeLeased answers a question of this node to the oracle if that can be done at once: this replica leads by a valid lease, in an
// epoch that is not below the given one, the limit leaves room, and nobody waits. Otherwise it reports false and has done nothing.
// lend: the node goes by the settings of the answer.
func (m *Meta) ServeLeased(epoch uint64, ask shard.Ask, lend bool) (Now, bool) {
	var lendTo shard.NodeID
	if lend && m != nil {
		lendTo = m.cfg.Node
	}
	return m.serveLeased(epoch, ownQuestion(ask, lendTo))
}

// serveLeased is the short way: a valid lease, room below the limit, nobody waiting.
func (m *Meta) serveLeased(epoch uint64, q question) (Now, bool) {
	leased := m.leased()
	if leased == 0 {
		return Now{}, false
	}
	m.mu.Lock()
	defer m.mu.unlock()
	if m.lead.refuses(epoch) != nil || !m.ready() || leased != m.lead.ownTerm || len(m.revisions.waiters) > 0 {
		return Now{}, false
	}
	return m.revisions.answer(q)
}

// call is one call, which is answered once. Functions that it gives away are called with the lock held.
type call struct {
	m      *Meta
	ctx    context.Context
	epoch  uint64 // the highest that the caller has seen
	answer func(*pb.PeerResponse)
}

// reply answers with a body or with an error. Called with the lock held.
func (c *call) reply(resp *pb.PeerResponse, err error) {
	if err != nil {
		resp = &pb.PeerResponse{Error: pb.ErrorToPB(err)}
	}
	c.m.mu.later(func() { c.answer(resp) })
}

func (c *call) fail(err error) { c.reply(nil, err) }

// read answers from the leader's memory, once the leadership is confirmed.
func (c *call) read(run func()) { c.m.read(c.epoch, leaderRead{run: run, fail: c.fail}) }

// write logs what build makes, on the leader. build may refuse.
func (c *call) write(build func() (*pb.MetaEntry, error), done func(state.Result)) {
	c.m.read(c.epoch, leaderRead{write: true, fail: c.fail, run: func() {
		e, err := build()
		if err != nil {
			c.fail(err)
			return
		}
		c.propose(e, done)
	}})
}

// propose logs e; an entry that is refused answers the call.
func (c *call) propose(e *pb.MetaEntry, done func(state.Result)) {
	c.m.log.propose(e, func(r state.Result) {
		if r.Err != nil {
			c.fail(r.Err)
			return
		}
		done(r)
	})
}

// last is the revision that is current at this point in the order of all changes.
func (c *call) last() int64 { return c.m.revisions.oracle.Last() }

// servers serve the calls that package calls gives to the meta group, but questions to the oracle.
var servers = [calls.Kinds]func(c *call, req *pb.PeerRequest){
	calls.Descriptors: func(c *call, req *pb.PeerRequest) {
		c.read(func() { c.descriptors(req.Descriptors) })
	},
	calls.BeginOp:        func(c *call, req *pb.PeerRequest) { c.beginOp(req.BeginOp) },
	calls.Ops:            func(c *call, req *pb.PeerRequest) { c.read(func() { c.listOps(shard.OpID(req.Ops.Id)) }) },
	calls.Unstick:        func(c *call, req *pb.PeerRequest) { serveUnstick(c, req.Unstick) },
	calls.Borders:        func(c *call, _ *pb.PeerRequest) { c.read(func() { serveBorders(c) }) },
	calls.Plan:           func(c *call, req *pb.PeerRequest) { servePlan(c, req.Plan) },
	calls.LeaseGrant:     func(c *call, req *pb.PeerRequest) { c.grant(req.LeaseGrant) },
	calls.LeaseRevoke:    func(c *call, req *pb.PeerRequest) { c.revoke(req.LeaseRevoke) },
	calls.LeaseKeepAlive: func(c *call, req *pb.PeerRequest) { c.read(func() { c.keepAlive(req.LeaseKeepAlive) }) },
	calls.LeaseInfo:      func(c *call, req *pb.PeerRequest) { c.read(func() { c.info(req.LeaseInfo.Id) }) },
	calls.LeaseList:      func(c *call, _ *pb.PeerRequest) { c.read(c.list) },
	calls.LeaseAttach:    func(c *call, req *pb.PeerRequest) { c.read(func() { c.attach(req.LeaseAttach) }) },
	calls.Compact:        func(c *call, req *pb.PeerRequest) { c.read(func() { c.compact(req.Compact) }) },
	calls.MemberAttrs:    func(c *call, req *pb.PeerRequest) { c.memberAttrs(req.MemberAttrs) },
	calls.ChangeMember:   func(c *call, req *pb.PeerRequest) { c.changeMember(req.ChangeMember) },
	calls.Members:        func(c *call, req *pb.PeerRequest) { serveMembers(c, shard.NodeID(req.Members.Dispensable)) },
	calls.AuthChange:     func(c *call, req *pb.PeerRequest) { serveAuthChange(c, req.AuthChange) },
	calls.Alarm:          func(c *call, req *pb.PeerRequest) { serveAlarm(c, req.Alarm) },
	calls.MetaStatus:     func(c *call, _ *pb.PeerRequest) { c.read(c.status) },
	calls.Gateways:       func(c *call, req *pb.PeerRequest) { c.read(func() { serveGateways(c, req.Gateways) }) },
	calls.Settings:       func(c *call, req *pb.PeerRequest) { c.read(func() { serveSettings(c, req.Settings) }) },
}

func fromNow(now Now, err error) *pb.OracleResponse {
	if err != nil {
		return nil
	}
	return &pb.OracleResponse{Revision: now.Revision, Epoch: uint64(now.Epoch), CompactRevision: now.CompactRevision,
		AuthRevision: now.AuthRevision, RangesVersion: now.RangesVersion,
		SettingsVersion: now.SettingsVersion, Refused: now.Refused, LentMs: now.Lent.Milliseconds(), Granted: pb.FromGranted(now.Granted)}
}

// descriptors answers with everything, with the differences to what is known, or with the version alone. The oracle's
// answers need the lock, and the goroutine that makes the calls that wait for it: so an answer is rendered without
// the lock, and a large one on a goroutine of its own.
//
// Where the group's own replicas are is told once the file has it, too: a replica that has left goes by what it is told here, and a crash must not take that
// back. A commit index is not synced, so without the file this replica could be in need of a vote that is gone.
func (c *call) descriptors(req *pb.DescriptorsRequest) {
	if c.m.unfiled() && !mutate.On(mutate.MetaMoveUnfiled) {
		c.m.untold = append(c.m.untold, func(err error) {
			if err == nil {
				c.read(func() { c.descriptors(req) })
				return
			}
			c.m.mu.Lock()
			c.fail(fmt.Errorf("%w: %w", shard.ErrUnavailable, err))
			c.m.mu.unlock()
		})
		return
	}
	v := c.m.state.View(req.KnownVersion, req.Differences)
	v.Meta = c.m.descriptor()
	render(c.m, v.Size(), func() { c.answer(&pb.PeerResponse{Descriptors: v.Response()}) })
}

// render makes an answer of so many parts without the lock. Called with it.
func render(m *Meta, size int, answer func()) {
	if size <= renderAtOnce {
		m.mu.later(answer)
		return
	}
	m.wg.Go(func() { // no Close waits yet: it needs the lock first
		m.rendering <- struct{}{}
		defer func() { <-m.rendering }()
		answer()
	})
}

func (c *call) memberAttrs(req *pb.MemberAttrsRequest) {
	c.write(func() (*pb.MetaEntry, error) {
		return &pb.MetaEntry{MemberAttrs: &pb.MetaMemberAttrs{Id: req.Id, Name: req.Name, ClientUrls: req.ClientUrls, Formats: req.Formats}}, nil
	}, func(state.Result) { // once the last member is told that it is published, what its release brings can be used
		c.m.raiseVersion(func() { c.reply(&pb.PeerResponse{Empty: &pb.Empty{}}, nil) })
	})
}

// status answers with what the leader says of itself, and the alarms that are raised.
func (c *call) status() {
	s := c.m.state
	index, _ := s.Position()
	out := &pb.MetaStatusResponse{LeaderNode: uint64(c.m.cfg.Node), Term: c.m.lead.Term, Index: index,
		CompactRevision: s.CompactRevision()}
	for _, a := range s.Settings().Alarms {
		out.Alarms = append(out.Alarms, &pb.MetaAlarmMember{MemberId: uint64(a.Member), Alarm: a.Kind})
	}
	c.reply(&pb.PeerResponse{MetaStatus: out}, nil)
}

// compact decides a compaction. With physical set the answer waits until the ranges have freed the space.
func (c *call) compact(req *pb.CompactRequest) {
	m := c.m
	current, ok := m.revisions.oracle.Current()
	switch {
	case !ok:
		c.fail(shard.ErrUnavailable)
		return
	case req.Revision <= m.state.CompactRevision():
		c.fail(&shard.CompactedError{Revision: m.state.CompactRevision()})
		return
	case req.Revision > current:
		c.fail(shard.ErrFutureRevision)
		return
	case req.Physical && m.compactions.waiting >= physicalsMax:
		c.fail(shard.ErrTooManyRequests)
		return
	}
	c.propose(&pb.MetaEntry{Compact: &pb.MetaCompact{Revision: req.Revision}}, func(state.Result) {
		resp := &pb.PeerResponse{Compact: &pb.CompactResponse{Revision: c.last()}}
		if !req.Physical {
			c.reply(resp, nil)
			return
		}
		m.compactions.awaitPhysical(c.ctx, req.Revision, func(err error) { c.reply(resp, err) })
	})
}
