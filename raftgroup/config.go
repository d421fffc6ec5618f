package raftgroup

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"pontoon/shard"
)

// Work is a kind of work that Step does.
type Work uint8

// The kinds: to step a group, to write the shared log, to apply what is committed.
const (
	WorkSteps Work = iota
	WorkWrites
	WorkApplies
)

// Config configures a Host. NewHost copies it and fills in defaults.
type Config struct {
	Node   shard.NodeID
	Log    Log
	Sender Sender
	// Now is monotonic, and in production keeps counting while the machine is suspended:
	// leases are measured by it. Default: time.Now.
	Now func() time.Time
	// Alone is from when on, by Now, no former life of the node can have acted: its vote leases are taken to
	// have been granted no later. A node that was started again knows it when it holds the lock of its data;
	// what it does before NewHost need not be waited for then. Default: when NewHost is called.
	Alone time.Time
	// Boot tells the lives of a node's process apart. Default: taken from Now.
	Boot uint64

	// TickInterval is Raft's unit of time. Default 100 ms.
	TickInterval time.Duration
	// ElectionTicks without a leader make a follower campaign. Default 10. It must exceed
	// HeartbeatTicks; ten times is the tested ratio.
	ElectionTicks int
	// HeartbeatTicks is how often a leader of an active group speaks up. Default 1.
	HeartbeatTicks int
	// LeaseDuration is what a follower grants to a leader with a lease; the leader counts on a
	// tenth less, for clocks that drift. Shorter, and a leader that hears nothing is unsure sooner; longer,
	// and a cluster that was started again waits longer for its first leader. Default 0.6 election
	// timeouts, and never more than one.
	LeaseDuration time.Duration
	// QuiesceTicks is at which tick after the last work a leader puts its group to sleep. Default 1: the
	// next one. Sleeping and waking cost less than a heartbeat and its answers.
	QuiesceTicks int

	// Workers steps groups; as many more apply. 0: nobody does until Step is called.
	Workers int
	// Choose is for simulations (Workers = 0): which of n kinds of waiting work Step does next.
	// Default: the first.
	Choose func(n int) int
	// Hold is for simulations too: Step asks before it takes work of a kind, and leaves it waiting
	// where the answer is true. A disk that takes its time holds WorkWrites. Default: never.
	Hold func(Work) bool

	// MaxMessageBytes bounds the entries of one append message. Default 512 KiB.
	MaxMessageBytes uint64
	// MaxInflightMessages bounds append messages per follower that are not acknowledged yet.
	// Default 256.
	MaxInflightMessages int
	// MaxInflightBytes bounds the entries in them: a follower whose disk stalls holds no more of a group.
	// Over this and a round trip's time a group cannot replicate faster. At least MaxMessageBytes; default
	// 8 MiB.
	MaxInflightBytes uint64
	// MaxUnwrittenBytes bounds, over all groups, the entries that have come in and are not in the log yet.
	// Beyond it what other nodes send is dropped, for them to send again, and Propose answers
	// shard.ErrTooManyRequests. Default 128 MiB.
	MaxUnwrittenBytes uint64
	// MaxReceivedMessages bounds the messages of other nodes that wait for a group's worker; more are
	// dropped. Default 4096.
	MaxReceivedMessages int
	// MaxApplyBytes bounds what is handed to a state machine and not yet applied. Default 4 MiB.
	MaxApplyBytes uint64
	// MaxUncommittedBytes bounds what a leader appends without a majority; proposals beyond it
	// are dropped, and say so. Default 64 MiB.
	MaxUncommittedBytes uint64
	// MaxQueuedProposals bounds the proposals that wait for a group's worker, MaxUncommittedBytes their
	// bytes; beyond it Propose answers shard.ErrTooManyRequests. Default 4096.
	MaxQueuedProposals int
	// MaxSnapshots bounds the snapshots that are sent at a time, and those that are received.
	// Default 2.
	MaxSnapshots int
	// CatchUpEntries and CatchUpBytes bound what the log keeps for followers that are behind:
	// one that needs more gets a snapshot. Defaults 5000 and 4 MiB.
	CatchUpEntries uint64
	CatchUpBytes   uint64

	// Logger defaults to silence.
	Logger *slog.Logger
	// OnGroupError is told, once, that a group has stopped. Others go on.
	OnGroupError func(shard.RangeID, error)
	// OnStranger is told of messages for replicas of groups that are not here, at most once in a tick for a group, and
	// of at most 1024 groups in one: as long as somebody speaks to it, it is told again. It runs where frames are
	// received, and must not block. nil: such messages are dropped.
	OnStranger func(Stranger)
	// OnFatal is told that the shared log failed: the process must stop. Default: panic.
	OnFatal func(error)
}

func orDefault[T int | uint64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (c *Config) setDefaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Alone.IsZero() {
		c.Alone = c.Now()
	}
	orDefault(&c.Boot, uint64(c.Now().UnixNano()))
	orDefault(&c.TickInterval, 100*time.Millisecond)
	orDefault(&c.ElectionTicks, 10)
	orDefault(&c.HeartbeatTicks, 1)
	orDefault(&c.LeaseDuration, c.electionTimeout()*6/10)
	orDefault(&c.QuiesceTicks, 1)
	orDefault(&c.MaxMessageBytes, 512<<10)
	orDefault(&c.MaxInflightMessages, 256)
	orDefault(&c.MaxInflightBytes, max(8<<20, c.MaxMessageBytes))
	orDefault(&c.MaxUnwrittenBytes, 128<<20)
	orDefault(&c.MaxReceivedMessages, 4096)
	orDefault(&c.MaxApplyBytes, 4<<20)
	orDefault(&c.MaxUncommittedBytes, 64<<20)
	orDefault(&c.MaxQueuedProposals, 4096)
	orDefault(&c.MaxSnapshots, 2)
	orDefault(&c.CatchUpEntries, 5000)
	orDefault(&c.CatchUpBytes, 4<<20)
	if c.Choose == nil {
		c.Choose = func(int) int { return 0 }
	}
	if c.Hold == nil {
		c.Hold = func(Work) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.OnGroupError == nil {
		c.OnGroupError = func(shard.RangeID, error) {}
	}
	if c.OnFatal == nil {
		c.OnFatal = func(err error) { panic(err) }
	}
}

func (c *Config) electionTimeout() time.Duration {
	return time.Duration(c.ElectionTicks) * c.TickInterval
}

// leaderLease is how long a leader counts on a vote lease of LeaseDuration.
func (c *Config) leaderLease() time.Duration { return c.LeaseDuration * 9 / 10 }

func (c *Config) validate() error {
	switch {
	case c.Node == 0:
		return errors.New("raftgroup: Config.Node is 0")
	case c.Log == nil || c.Sender == nil:
		return errors.New("raftgroup: Config needs a Log and a Sender")
	case c.ElectionTicks <= c.HeartbeatTicks:
		return errors.New("raftgroup: ElectionTicks must exceed HeartbeatTicks")
	case c.MaxInflightBytes < c.MaxMessageBytes:
		return errors.New("raftgroup: MaxInflightBytes is less than MaxMessageBytes")
	case c.LeaseDuration > c.electionTimeout():
		return errors.New("raftgroup: LeaseDuration exceeds the election timeout")
	case c.Workers < 0:
		return errors.New("raftgroup: Workers is negative")
	}
	return nil
}
