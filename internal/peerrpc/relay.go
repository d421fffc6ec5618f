package peerrpc

import (
	"context"
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Two nodes may have no wire between them while both reach a third. What leads a range on one of
// them would wait for the other, where the oracle may be, and keep its lead all the same, because the
// third node follows it. So a call to a peer that cannot be reached goes by way of one that can, and
// is passed on there once. What the caller is told stays true: an answer is the node's own, and what
// was lost on the way may have been seen. A node that may be as cut off as this one, as where both stand
// in one rack, is asked until a call by way of it fails: then the next one is.

// detours are the ways around a peer that cannot be reached.
type detours struct {
	taken bool // since the last tick
	turn  uint // of those that pass calls on, in the order of Config.Relays
}

// detour returns the connection to a node that passes calls on to p's, and whose turn that is; nil: the direct way is taken.
func (m *Mesh) detour(p *conn) (via *conn, turn uint) {
	if p == nil || m.cfg.Relays == nil {
		return nil, 0
	}
	turn, takes := p.takesDetours()
	if !takes {
		return nil, 0
	}
	nodes := m.cfg.Relays(p.to)
	for i := range nodes {
		node := nodes[(turn+uint(i))%uint(len(nodes))]
		if node == p.to || node == m.cfg.Node {
			continue
		}
		if via := m.conn(node); via != nil && !via.isBroken() {
			m.count.callsDetoured.Add(1)
			return via, turn
		}
	}
	return nil, 0
}

// detoured is told how a call by way of another node went. Whether that node did not reach the target, or the target said so itself, cannot be seen.
func (p *conn) detoured(turn uint, err error) {
	switch {
	case err == nil:
		return
	case errors.Is(err, shard.ErrUnavailable), errors.Is(err, shard.ErrTimeout), errors.Is(err, shard.ErrAmbiguous), errors.Is(err, shard.ErrAmbiguousTimeout):
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.mu.detours.turn == turn && !mutate.On(mutate.DetourStays) { // of many calls that fail together one is enough
			p.mu.detours.turn++
		}
	}
}

func (p *conn) isBroken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.broken
}

// takesDetours is isBroken for the target of a call, and whose turn it is to pass it on: the next tick tries the direct way.
func (p *conn) takesDetours() (turn uint, takes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.detours.taken = p.mu.broken
	return p.mu.detours.turn, p.mu.broken
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
