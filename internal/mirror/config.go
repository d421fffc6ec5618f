package mirror

import (
	"context"
	"log/slog"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Config is what a Set is built of. What has no default is required.
type Config struct {
	// Spans are what is mirrored in any case.
	Spans []shard.Span
	// Map is the newest range map known here; nil while there is none. AskMap has a newer one fetched. Neither may block.
	Map    func() *shard.Map
	AskMap func()
	// Current returns a revision at or above every one handed out before the call, and a compaction revision at or above every one acknowledged before it.
	Current func(ctx context.Context) (shard.Now, error)
	// Compacted is the highest compaction revision that is known here.
	Compacted func() int64
	// AskClose asks that ranges be closed at rev or above soon. It must not block. It is repeated.
	AskClose func(rev int64, ranges []shard.RangeID)
	// Answered is a revision that serializable lists of some ranges must not stay behind: what this process has told its clients.
	Answered func(ranges []shard.RangeID) int64
	// Fence returns an index of a range's log from which on what it has of a span at a revision is final.
	Fence func(ctx context.Context, d *shard.Descriptor, span shard.Span, rev int64) (index uint64, err error)
	// Read reads a page of a range from a node; Nodes are those that have it, whom to ask first first.
	Read  func(ctx context.Context, node shard.NodeID, req *pb.ReadRequest) (*pb.ReadResponse, error)
	Nodes func(d *shard.Descriptor) []shard.NodeID
	// Subscribe and Unsubscribe begin and end the feed of a range. They may block for a while, and are called by one goroutine.
	Subscribe, Unsubscribe func(id shard.RangeID)
	// Expect is called within Publish, with the child of a border: every item of its feed is to be published from now on. false: some may have come already,
	// for others. Subscribe follows.
	Expect func(child shard.RangeID) bool

	// History is for how long states are remembered, HistoryBytes what that may take. Defaults 75 s and 64 MiB.
	History      time.Duration
	HistoryBytes int
	// SizeMax bounds the keys that are mirrored, in bytes. What does not fit is not mirrored. Default 1 GiB.
	SizeMax int
	// AutoSize is how many bytes ranges may take that are listed often, and mirrored by themselves, where Spans leave so many of SizeMax; 0: there are none.
	// AutoFloor is as large as the smallest of them counts. Default auto.DefaultFloor.
	AutoSize, AutoFloor int
	// Wait is how long a list waits for its ranges to be closed before it goes to them. Default 1 s.
	Wait time.Duration
	// AuditEvery is the pause between two comparisons with replicas; below 0: there are none. Default 10 minutes.
	AuditEvery time.Duration
	Logger     *slog.Logger
}

func (c *Config) setDefaults() {
	if c.History <= 0 {
		c.History = 75 * time.Second
	}
	if c.HistoryBytes <= 0 {
		c.HistoryBytes = 64 << 20
	}
	if c.SizeMax <= 0 {
		c.SizeMax = 1 << 30
	}
	if c.Wait <= 0 {
		c.Wait = time.Second
	}
	if c.AuditEvery == 0 {
		c.AuditEvery = 10 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats are figures of a Set. Those named Total only rise.
type Stats struct {
	Parts        int64 // that are whole
	PartsVoid    int64 // that are not: they are to be built, or have no room
	Bytes        int64 // of keys and values that are there
	HistoryBytes int64 // of what leads back from there
	Keys         int64
	HitsTotal    int64 // lists that were answered here
	MissesTotal  int64 // lists of what is to be mirrored that went to the ranges
	BuildsTotal  int64
	VoidTotal    int64 // times that a part was given up
	AuditsTotal  int64 // comparisons of a part with a replica
	WrongTotal   int64 // of these, that found a difference

	AutoRanges       int64 // that are mirrored by themselves
	AutoTakenTotal   int64 // times that one was taken
	AutoDroppedTotal int64 // times that one was given up
}
