package host

import (
	"context"
	"sync"
	"time"

	"pontoon/internal/patience"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// births lets ranges come into being here that others are cut into: it is replica.Births for the replicas of this node.
type births struct {
	rs *ranges
	// until ends with Run: nobody waits any more then for a group to stop.
	until context.Context
	end   context.CancelFunc

	mu     sync.Mutex
	failed []replica.Birth // to be tried again; as many as ranges were cut while their children could not be opened
	wake   chan struct{}
}

const birthRetry = time.Second

func newBirths(rs *ranges) *births {
	b := &births{rs: rs, wake: make(chan struct{}, 1)}
	b.until, b.end = context.WithCancel(context.Background())
	return b
}

// Wanted implements replica.Births.
func (b *births) Wanted(child shard.RangeID, self shard.ReplicaID) bool {
	return b.rs.held.wanted(b.until, child, self)
}

// Born implements replica.Births. What cannot be opened now, for want of files or memory, is tried again: the child's other
// replicas serve it meanwhile.
func (b *births) Born(birth replica.Birth) {
	if err := b.bear(birth); err != nil {
		b.rs.log.Error("a range that was cut off is not served here yet", "range", birth.Desc.ID.String(), "error", err)
		b.mu.Lock()
		b.failed = append(b.failed, birth)
		b.mu.Unlock()
		patience.Wake(b.wake)
	}
}

func (b *births) bear(birth replica.Birth) error {
	id := birth.Desc.ID
	b.rs.env.born(id) // before its first item
	here, err := b.rs.addReplica(birth.Desc, birth.Self, beginning{campaign: birth.Leads, born: true, closed: birth.Closed, load: birth.Load})
	if err != nil {
		return err
	}
	b.rs.held.born(id)
	if here {
		b.rs.env.moved(id)
	}
	return nil
}

// run tries again what has failed, until ctx ends.
func (b *births) run(ctx context.Context) {
	defer b.end()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		pause(ctx, birthRetry)
		b.mu.Lock()
		failed := b.failed
		b.failed = nil
		b.mu.Unlock()
		for _, birth := range failed {
			b.Born(birth)
		}
	}
}
