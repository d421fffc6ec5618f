package mvcc

import (
	"log/slog"
	"time"

	"pontoon/shard"
)

// MaxKeyBytes is the longest user key that the store takes: bbolt's limit, halved because
// every byte may need an escape in the base.
const MaxKeyBytes = 16<<10 - 64

// Rev is a revision and the number of a change within it.
type Rev struct{ Main, Sub int64 }

// Less orders revisions as they were handed out.
func (r Rev) Less(o Rev) bool {
	return r.Main < o.Main || r.Main == o.Main && r.Sub < o.Sub
}

// Mutation is one change of one key. CreateRevision and Version are derived by the store from
// the version before it. A Delete of a key that does not live changes nothing.
type Mutation struct {
	Key, Value []byte
	Lease      int64
	Delete     bool
	Rev        Rev
}

// Position is a place in the range's Raft log.
type Position struct{ Index, Term uint64 }

// StateUpdate sets one key of the opaque range state; a nil Value deletes it.
type StateUpdate struct {
	Key   string
	Value []byte
}

// Change is the effect of one log entry: it becomes visible as a whole, and durable as a whole.
type Change struct {
	Pos       Position
	Muts      []Mutation // ascending by Rev
	State     []StateUpdate
	CompactTo int64 // 0: no compaction
	Cut       *Cut  // nil: the store serves what it served
}

// Cut makes a store serve less than it did: what lies outside of Span is gone for every call that begins after the
// change, and for every restart that finds it in the file. The file lets go of it in steps of Maintain. A Change with a
// Cut has no mutations.
type Cut struct {
	Span shard.Span // within what was served, and not empty
	Keys int64      // live keys that are cut off: Split.Keys, or Count of what goes
}

// Options configure a store. The zero value of a field means its default.
type Options struct {
	// Path of the bbolt file; its directory exists. Required.
	Path string
	// RangeID is written into a new file and checked in an old one. Required.
	RangeID shard.RangeID
	// Birth is the range state that a new file has from the moment that there is one. A file that is there is left as
	// it is. Default: none.
	Birth []StateUpdate
	// Cache keeps records that were read from the file, one per node. Default nil: none.
	Cache *Cache
	// Memory counts what the store holds in memory, one per node. Default nil: nobody counts.
	Memory *Memory
	// InitialMmapSize is the address space mapped at open, in bytes. A file that outgrows it is
	// mapped again, for which writers wait for readers. Default 1 GiB (64 MiB on 32 bits).
	InitialMmapSize int
	// FlushBytes is the size of the write buffer above which NeedsFlush asks for a Flush: larger
	// means fewer page writes and a longer Raft log. Default 4 MiB.
	FlushBytes int
	// SettleBytes is the size of the in-memory index above which Maintain begins to settle. A
	// scheduler that divides a node's memory over ranges calls RequestSettle instead and sets
	// this high. Default 64 MiB.
	SettleBytes int
	// NoSync leaves out fsync: a crash of the machine then loses data. Tests and bulk loads only.
	NoSync bool
	// Damaged is told, once, when a check finds the file damaged after Open has returned. The call
	// that ran into it gets the same error. It must not block, nor call the store. Default: nobody.
	Damaged func(error)
	// Committed is told of every transaction that was written to the file. It must not block, nor call the store. Default: nobody.
	Committed func(Commit)
	// Sweep is called at the beginning of each step that deletes what was compacted, and what it returns at its end, with the number of records that
	// the step has deleted from the file. Neither may block, nor call the store. Default: nobody is told.
	Sweep func() (swept func(records int))
	// Logger receives what is worth a line in the node's log. Default: nothing.
	Logger *slog.Logger

	// hook is called right before ("before flush") and right after ("flush") each commit; an
	// error ends the step there, as a crash would.
	hook func(point string) error
	// gap is called by readers between memory and file.
	gap func()
	// steps are smaller in tests.
	steps steps
}

const (
	initialMmapDefault = 1 << 30
	initialMmap32      = 64 << 20
	flushBytesDefault  = 4 << 20
	settleBytesDefault = 64 << 20
)

func (o Options) withDefaults() Options {
	if o.InitialMmapSize == 0 {
		o.InitialMmapSize = initialMmapDefault
		if ^uint(0)>>32 == 0 {
			o.InitialMmapSize = initialMmap32
		}
	}
	if o.FlushBytes == 0 {
		o.FlushBytes = flushBytesDefault
	}
	if o.SettleBytes == 0 {
		o.SettleBytes = settleBytesDefault
	}
	if o.steps == (steps{}) {
		o.steps = defaultSteps()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Commit is what a transaction took that wrote to a store's file.
type Commit struct {
	Flush            bool          // it has written what was applied, so that no log has to keep that
	Rebalance, Spill time.Duration // of pages that became too small, and too large
	Write            time.Duration // with the sync
}

// Stats are sizes for schedulers and metrics.
type Stats struct {
	FileBytes      int64 // size of the file
	InUseBytes     int64 // without its free pages
	BufferBytes    int64 // applied, not yet in the file
	IndexBytes     int64 // versions held in memory, the buffer's included
	SettleRevision int64 // up to here everything is in the base
}
