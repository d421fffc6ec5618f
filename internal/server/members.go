package server

import (
	"time"

	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
	"pontoon/placement/gossip"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// startGossip lets memberlist find the other nodes. What it says is a hint; the node works
// without it.
func (s *Server) startGossip() {
	addr, ok := s.resolve(s.cfg.NodeID)
	if !ok {
		return
	}
	g, err := gossip.Start(gossip.Config{
		Node: s.cfg.NodeID, Name: s.cfg.Name, Addr: addr, Seeds: s.seeds, OnChange: s.memberChanged,
		Dial: s.dialer.For(peer.ClassGossip), Logger: s.log,
	})
	if err != nil {
		s.log.Error("membership gossip could not be started", "error", err)
		return
	}
	s.gossip = g
}

// memberChanged says in the log how a member is seen from here.
func (s *Server) memberChanged(e gossip.Event) {
	m := e.Member
	if m.Node == s.cfg.NodeID {
		return
	}
	log := s.log.Info
	if m.State != gossip.StateAlive {
		log = s.log.Warn
	}
	log("gossip: a member is "+m.State.String(), "peer", m.Node.String(), "name", m.Name, "address", m.Addr, "was", e.Previous.String())
}

// Nodes lists the members as gossip sees them from here.
func (s *Server) Nodes() []httpapi.Node {
	if s.gossip == nil {
		return nil
	}
	var out []httpapi.Node
	for _, m := range s.gossip.Members() {
		n := httpapi.Node{Node: uint64(m.Node), Name: m.Name, Address: m.Addr, Locality: m.Locality, State: m.State.String()}
		if !m.Since.IsZero() {
			n.Since = m.Since.UTC().Format(time.RFC3339)
		}
		out = append(out, n)
	}
	return out
}

// gossiped counts the members in a state.
func (s *Server) gossiped(state gossip.State) int {
	n := 0
	if s.gossip != nil {
		for _, m := range s.gossip.Members() {
			if m.State == state {
				n++
			}
		}
	}
	return n
}

// relays are the nodes that may reach one which this node cannot: where gossip has it alive, the others
// that it has alive.
func (s *Server) relays(to shard.NodeID) []shard.NodeID {
	if s.gossip == nil || !s.gossip.Alive(to) {
		return nil
	}
	var via []shard.NodeID
	for _, m := range s.gossip.Members() {
		if m.State == gossip.StateAlive && m.Node != to && m.Node != s.cfg.NodeID {
			via = append(via, m.Node)
		}
	}
	return via
}

// tellLeadsEvery is how often a node tells by gossip which ranges it leads.
const tellLeadsEvery = 2 * time.Second

// tellLeads tells the other nodes which ranges this one leads, where some of them hold no replica of a
// range and would have to ask around.
func (s *Server) tellLeads() {
	if s.gossip == nil {
		return
	}
	told := map[shard.RangeID]uint64{}
	t := time.NewTicker(tellLeadsEvery)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		if len(s.members()) <= s.cfg.ReplicationFactor {
			continue
		}
		news := map[shard.RangeID]uint64{}
		s.ranges.each(func(rep *replica.Replica) {
			if term, ok := rep.Leading(); ok && told[rep.ID()] != term {
				news[rep.ID()], told[rep.ID()] = term, term
			}
		})
		if len(news) > 0 {
			s.gossip.SetLeaderHints(news)
		}
	}
}

// hintedLeader is who leads a range as gossip has it; 0 if it has nothing, or that node is dead.
func (s *Server) hintedLeader(id shard.RangeID) shard.NodeID {
	if s.gossip == nil {
		return 0
	}
	if h, ok := s.gossip.LeaderHint(id); ok && s.gossip.Alive(h.Node) {
		return h.Node
	}
	return 0
}
