package peerrpc

import (
	"context"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Two nodes may have no wire between them while both reach a third. What leads a range on one of
// them would wait for the other, where the oracle may be, and keep its lead all the same, because the
// third node follows it. So a call to a peer that cannot be reached goes by way of one that can, and
// is passed on there once. What the caller is told stays true: an answer is the node's own, and what
// was lost on the way may have been seen.

// detour returns the connection to a node that passes calls on to p's; nil: the direct way is taken.
func (m *Mesh) detour(p *conn) *conn {
	if p == nil || m.cfg.Relays == nil || !p.takesDetours() {
		return nil
	}
	for _, node := range m.cfg.Relays(p.to) {
		if node == p.to || node == m.cfg.Node {
			continue
		}
		if via := m.conn(node); via != nil && !via.isBroken() {
			m.count.callsDetoured.Add(1)
			return via
		}
	}
	return nil
}

func (p *conn) isBroken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.broken
}

// takesDetours is isBroken for the target of a call: the next tick tries the direct way.
func (p *conn) takesDetours() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.detours = p.mu.broken
	return p.mu.broken
}

// relay passes a call on to the node that it is for, which this one must reach itself.
func (m *Mesh) relay(ctx context.Context, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	to := shard.NodeID(req.RelayTo)
	fail := func(err error) { reply(&pb.PeerResponse{Error: pb.ErrorToPB(err)}) }
	if m.cfg.Relays == nil {
		fail(fmt.Errorf("%w: calls are not passed on here", shard.ErrInvalid))
		return
	}
	req.Id, req.TimeoutMs, req.Revision, req.Epoch, req.RelayTo = 0, 0, 0, 0, 0
	body, err := encodeBody(req)
	if err != nil {
		fail(err)
		return
	}
	m.count.callsRelayed.Add(1)
	m.send(ctx, to, m.conn(to), body, func(resp *pb.PeerResponse, err error) {
		if err != nil {
			fail(err)
			return
		}
		reply(resp)
	}, true)
}
