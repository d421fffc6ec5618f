package raftgroup

import (
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/shard"
)

// ProposeConfChange lets a leader propose any change of the configuration that Raft knows.
func (h *Host) ProposeConfChange(id shard.RangeID, cc raftpb.ConfChangeI, done func(error)) {
	if g := h.group(id); g != nil {
		g.box.call(func() { done(g.rn.ProposeConfChange(cc)) })
	}
}

// Propose is ProposeFunc without a callback.
func (h *Host) Propose(id shard.RangeID, term uint64, data []byte) error {
	return h.ProposeFunc(id, term, data, nil)
}
