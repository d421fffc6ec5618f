package router

import (
	"context"
	"sync"

	"pontoon/shard"
)

// epoch is that of the oracle in whose name a snapshot's parts are fenced. The snapshot keeps its revision where the oracle
// is replaced: whatever has been handed out is below what the next one hands out.
type epoch struct {
	mu  sync.Mutex
	now shard.Epoch // 0: not known yet, as for a serializable read
}

func (e *epoch) set(to shard.Epoch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = to
}

// epochOf is the epoch for a fence at the snapshot's revision.
func (s *snapshot) epochOf(ctx context.Context) (shard.Epoch, error) {
	s.epoch.mu.Lock()
	now := s.epoch.now
	s.epoch.mu.Unlock()
	if now != 0 {
		return now, nil
	}
	return s.renewEpoch(ctx)
}

// renewEpoch asks the oracle for its epoch.
func (s *snapshot) renewEpoch(ctx context.Context) (shard.Epoch, error) {
	now, err := s.r.cfg.Cluster.Current(ctx)
	if err != nil {
		return 0, err
	}
	if s.rev < now.CompactRevision {
		return 0, &shard.CompactedError{Revision: now.CompactRevision}
	}
	s.epoch.set(now.Epoch)
	return now.Epoch, nil
}

// localNode is this node where a serializable read may read the range here; 0: the range is not held here, or not
// final yet.
func (s *snapshot) localNode(id shard.RangeID) shard.NodeID {
	if !s.local {
		return 0
	}
	if closed, ok := s.r.finalHere([]shard.RangeID{id}); !ok || closed < s.rev {
		return 0
	}
	return s.r.cfg.Local.Self()
}
