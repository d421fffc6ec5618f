package raftgroup

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Stranger is a replica that is not here and that a member of its group has spoken to.
type Stranger struct {
	From    shard.NodeID // who has spoken
	Group   shard.RangeID
	Replica shard.ReplicaID
}

// strangersMax bounds the groups that a host tells of in one tick.
const strangersMax = 1024

// strangers tells of messages for groups that are not here: of a group once in a tick, however much comes.
type strangers struct {
	mu struct {
		sync.Mutex
		told map[shard.RangeID]bool // in this tick
	}
}

// tick lets groups be told of again.
func (s *strangers) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.mu.told)
}

// isNew reports whether a group has not been told of in this tick, and may be.
func (s *strangers) isNew(id shard.RangeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.mu.told[id] && len(s.mu.told) < strangersMax
}

// take reports the same, once.
func (s *strangers) take(id shard.RangeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.told[id] || len(s.mu.told) >= strangersMax {
		return false
	}
	if s.mu.told == nil {
		s.mu.told = map[shard.RangeID]bool{}
	}
	s.mu.told[id] = true
	return true
}

// spokenTo looks at a message for a group that is not here. Only one who leads or wants to be elected speaks to a replica
// of its own accord: an answer comes to one that is gone.
func (s *strangers) spokenTo(h *Host, from shard.NodeID, gm *pb.GroupMessage) {
	id := shard.RangeID(gm.Group)
	if h.cfg.OnStranger == nil || !s.isNew(id) { // most are not worth being decoded
		return
	}
	m, err := decodeMessage(gm.Message)
	if err != nil {
		return
	}
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgVote, raftpb.MsgPreVote:
		s.tell(h, Stranger{from, id, shard.ReplicaID(m.GetTo())})
	}
}

func (s *strangers) tell(h *Host, r Stranger) {
	if h.cfg.OnStranger != nil && r.Replica != 0 && s.take(r.Group) {
		h.cfg.OnStranger(r)
	}
}
