package host

import (
	"log/slog"
	"sync/atomic"
	"time"

	"pontoon/shard/replica"
)

// compactionLookAfter is how long after a step of maintenance it is looked whether a compaction has come to its end here: one look, which asks every
// replica, for all steps until then.
const compactionLookAfter = time.Second

// compactionLog tells, once for each compaction, that all replicas of this node have deleted what it has forgotten. It is safe for concurrent use.
type compactionLog struct {
	log   *slog.Logger
	armed atomic.Bool  // a look is due
	told  atomic.Int64 // revision
}

// stepped is called when a replica has done a step of maintenance.
func (c *compactionLog) stepped(ranges *ranges) {
	if c.armed.CompareAndSwap(false, true) {
		time.AfterFunc(compactionLookAfter, func() {
			c.armed.Store(false)
			c.look(ranges)
		})
	}
}

func (c *compactionLog) look(ranges *ranges) {
	low, some, pending := int64(0), false, false
	ranges.each(func(rep *replica.Replica) {
		rev, waits := rep.Compacted()
		if !some || rev < low {
			low, some = rev, true
		}
		pending = pending || waits
	})
	if told := c.told.Load(); low > told && !pending && c.told.CompareAndSwap(told, low) {
		c.log.Info("finished scheduled compaction", "compact-revision", low)
	}
}
