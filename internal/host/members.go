package host

import (
	"context"
	"time"

	"pontoon/internal/peer"
	"pontoon/placement/gossip"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// hints is what gossip says: never more than a hint.
type hints interface {
	Alive(node shard.NodeID) bool
	Members() []gossip.Member
	LeaderHint(id shard.RangeID) (gossip.Hint, bool)
	SetLeaderHints(led map[shard.RangeID]uint64)
	Leave(timeout time.Duration) error
	Service() peer.GossipService
	Close() error
}

// silence is a node without gossip, which works as well as it can: everybody may be alive.
type silence struct{}

func (silence) Alive(shard.NodeID) bool                      { return true }
func (silence) Members() []gossip.Member                     { return nil }
func (silence) LeaderHint(shard.RangeID) (gossip.Hint, bool) { return gossip.Hint{}, false }
func (silence) SetLeaderHints(map[shard.RangeID]uint64)      {}
func (silence) Leave(time.Duration) error                    { return nil }
func (silence) Service() peer.GossipService                  { return nil }
func (silence) Close() error                                 { return nil }

// membership is who belongs to the cluster as gossip sees it from here.
type membership struct {
	hints hints
}

// openMembers lets memberlist find the other nodes. The node works without it.
func (h opening) openMembers() error {
	h.members = membership{hints: silence{}}
	if addr, ok := h.net.directory.Resolve(h.cfg.Identity.Node); ok {
		g, err := gossip.Start(gossip.Config{
			Node: h.cfg.Identity.Node, Name: h.cfg.Name, Addr: addr, Seeds: h.net.directory.Others, OnChange: h.memberChanged,
			Dial: h.net.dialer.For(peer.ClassGossip), Logger: h.log,
		})
		if err == nil {
			h.members.hints = g
		} else {
			h.log.Error("membership gossip could not be started", "error", err)
		}
	}
	h.opened(h.members.hints.Close)
	h.opened(peer.StartProber(peer.ProberConfig{
		Others: h.net.directory.Others, Dial: h.net.dialer.For(peer.ClassGossip), Answered: h.net.traffic.RoundTrip,
	}).Close)
	return nil
}

// healths are what gossip's states say to the directory.
var healths = map[gossip.State]peer.Health{
	gossip.StateAlive: peer.HealthAlive, gossip.StateSuspect: peer.HealthCut, gossip.StateDead: peer.HealthDead,
}

// memberChanged tells the directory how a member is seen from here, and says so in the log.
func (h *Host) memberChanged(e gossip.Event) {
	m := e.Member
	h.net.directory.SetHealth(m.Node, healths[m.State])
	if m.Node == h.cfg.Identity.Node {
		return
	}
	log := h.log.Info
	if m.State != gossip.StateAlive {
		log = h.log.Warn
	}
	log("gossip: a member is "+m.State.String(), "peer", m.Node.String(), "name", m.Name, "address", m.Addr, "was", e.Previous.String())
}

// reach is for how long each other member has been within reach, as gossip has it; nil where that does not work: all count.
func (h *Host) reach() map[shard.NodeID]time.Duration {
	if _, silent := h.members.hints.(silence); silent {
		return nil
	}
	now, out := time.Now(), map[shard.NodeID]time.Duration{}
	for _, m := range h.members.list() {
		if m.State == gossip.StateAlive {
			out[m.Node] = now.Sub(m.Since)
		}
	}
	return out
}

func (m membership) alive(node shard.NodeID) bool { return m.hints.Alive(node) }
func (m membership) list() []gossip.Member        { return m.hints.Members() }
func (m membership) service() peer.GossipService  { return m.hints.Service() }

// leave tells the others; a courtesy, since they notice anyway.
func (m membership) leave() { _ = m.hints.Leave(200 * time.Millisecond) }

// count counts the members in a state.
func (m membership) count(state gossip.State) (n int) {
	for _, o := range m.hints.Members() {
		if o.State == state {
			n++
		}
	}
	return n
}

// leaderHint is who leads a range as gossip has it; 0 if it has nothing, or that node is dead.
func (m membership) leaderHint(id shard.RangeID) shard.NodeID {
	if hint, ok := m.hints.LeaderHint(id); ok && m.hints.Alive(hint.Node) {
		return hint.Node
	}
	return 0
}

// gossipLeadersEvery is how often a node tells by gossip which ranges it leads.
const gossipLeadersEvery = 2 * time.Second

// gossipLeaders tells the other nodes which ranges this one leads, where some of them hold no replica of a
// range and would have to ask around.
func (h *Host) gossipLeaders(ctx context.Context) {
	told := map[shard.RangeID]uint64{}
	t := time.NewTicker(gossipLeadersEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if len(h.net.directory.Members()) <= h.cfg.ReplicationFactor {
			continue
		}
		news := map[shard.RangeID]uint64{}
		h.ranges.each(func(rep *replica.Replica) {
			if term, ok := rep.Leading(); ok && told[rep.ID()] != term {
				news[rep.ID()], told[rep.ID()] = term, term
			}
		})
		if len(news) > 0 {
			h.members.hints.SetLeaderHints(news)
		}
	}
}
