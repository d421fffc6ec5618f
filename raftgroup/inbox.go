package raftgroup

import (
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/shard"
)

// ticksMax bounds the ticks that a group catches up on after its worker was slow: a burst of
// them would look like silence of the leader.
const ticksMax = 3

// proposal waits for the group's worker.
type proposal struct {
	term    uint64
	data    []byte
	dropped func(error)
}

func (p *proposal) drop(err error) {
	if p.dropped != nil {
		p.dropped(err)
	}
}

// appliedItem comes back from the apply lane.
type appliedItem struct {
	resps []*raftpb.Message
	confs []*raftpb.Entry // configuration changes among what was applied
	// places are where the state machine's replicas live after them, nil where it does not say.
	places map[shard.ReplicaID]shard.NodeID
	last   Position
}

// inbox is what has come in for a group's worker since its last turn.
type inbox struct {
	msgs      []*raftpb.Message // from the network and the log writer, in order
	calls     []func()
	props     []proposal
	applied   []appliedItem
	lost      []shard.NodeID // could not be reached
	ticks     int
	saved     int    // append tasks that have been written
	bytes     uint64 // of the entries in applied
	received  int    // messages and calls that came from other nodes
	unwritten int64  // bytes of entries in msgs and props, as intake counts them
	propBytes uint64 // of props
	work      bool   // something that ends quiescence
}

// intake counts, for all groups of a host, the bytes of entries that have come in and are not in the log
// yet: in inboxes, and on their way to the writer. A disk that stalls lets them pile up, and nothing
// else bounds them over all groups. What comes from other nodes is dropped then, which Raft makes up
// for, and what is proposed is refused. What has been taken in stays.
type intake struct {
	limit     int64
	bytes     atomic.Int64
	dropped   atomic.Uint64 // messages of other nodes
	forgotten atomic.Uint64 // bytes in them
}

// room reports whether so many bytes more may come in. Whoever comes first may bring any number.
func (i *intake) room(bytes int64) bool {
	held := i.bytes.Load()
	return bytes == 0 || held == 0 || held+bytes <= i.limit
}

func (i *intake) drop(bytes int) {
	i.dropped.Add(1)
	i.forgotten.Add(uint64(bytes))
}

// mailbox is how everybody but the group's worker speaks to it.
type mailbox struct {
	h       *Host
	slot    slot
	running sync.Mutex // held during a turn; contended only by RemoveGroup
	mu      struct {
		sync.Mutex
		in      inbox
		stopped error // why the group does nothing any more
	}
}

// put adds to the inbox and wakes the worker. It reports whether the group still runs.
func (b *mailbox) put(fn func(*inbox)) bool {
	return b.putIf(func(in *inbox) bool { fn(in); return true })
}

// putIf adds to the inbox, and wakes the worker if fn says so: what can wait comes with the next
// thing that cannot, or with the next tick.
func (b *mailbox) putIf(fn func(*inbox) (wake bool)) bool {
	b.mu.Lock()
	if b.mu.stopped != nil {
		b.mu.Unlock()
		return false
	}
	wake := fn(&b.mu.in)
	b.mu.Unlock()
	if wake {
		b.h.steps.wake(&b.slot)
	}
	return true
}

// call runs fn on the worker, which ends quiescence.
func (b *mailbox) call(fn func()) bool {
	return b.put(func(in *inbox) { in.calls, in.work = append(in.calls, fn), true })
}

// receive adds what another node has sent, unless there is no room for it: Raft copes with messages
// that are lost. size is how many bytes came, entries how many of them wait for the log.
func (b *mailbox) receive(size int, entries int64, fn func(*inbox)) {
	fits := false
	running := b.putIf(func(in *inbox) bool {
		if fits = in.received < b.h.cfg.MaxReceivedMessages && b.h.intake.room(entries); fits {
			in.received++
			b.h.intake.bytes.Add(entries)
			in.unwritten += entries
			fn(in)
		}
		return fits
	})
	if running && !fits {
		b.h.intake.drop(size)
	}
}

// receiveCall runs fn on the worker for something that another node has sent.
func (b *mailbox) receiveCall(work bool, fn func()) {
	b.receive(0, 0, func(in *inbox) { in.calls, in.work = append(in.calls, fn), in.work || work })
}

func (b *mailbox) propose(p proposal) error {
	limits, size := &b.h.cfg, int64(len(p.data))
	var full bool
	running := b.putIf(func(in *inbox) bool {
		full = len(in.props) >= limits.MaxQueuedProposals || !b.h.intake.room(size) ||
			in.propBytes > 0 && in.propBytes+uint64(size) > limits.MaxUncommittedBytes
		if !full {
			in.props, in.work = append(in.props, p), true
			in.propBytes += uint64(size)
			in.unwritten += size
			b.h.intake.bytes.Add(size)
		}
		return !full
	})
	switch {
	case !running:
		return shard.ErrUnavailable
	case full:
		return shard.ErrTooManyRequests
	}
	return nil
}

func (b *mailbox) tick(lost []shard.NodeID) {
	b.put(func(in *inbox) {
		in.ticks = min(in.ticks+1, ticksMax)
		in.lost = lost
	})
}

// take empties the inbox for a turn. It reports whether the group still runs.
func (b *mailbox) take() (inbox, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.takeLocked(), b.mu.stopped == nil
}

func (b *mailbox) takeLocked() inbox {
	in := b.mu.in
	b.mu.in = inbox{}
	if in.unwritten != 0 {
		b.h.intake.bytes.Add(-in.unwritten)
	}
	return in
}

// saved reports whether the writer has written something that the next turn will hear of.
func (b *mailbox) saved() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.in.saved > 0
}

// stop ends the group, and returns what no worker will take any more; false if it had ended before.
func (b *mailbox) stop(why error) (inbox, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.stopped != nil {
		return inbox{}, false
	}
	b.mu.stopped = why
	return b.takeLocked(), true
}

// stoppedBy says why the group does nothing any more, nil while it runs.
func (b *mailbox) stoppedBy() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.stopped
}

// mayArrive reports whether a message is of a type that other nodes send. Local ones, above all the answers
// of the own log and state machine, would make Raft believe of this node what is not so.
func mayArrive(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow, raftpb.MsgTransferLeader:
		return true
	default:
		return false
	}
}

// bytesOf is what entries count for until they are in the log.
func bytesOf(ents []*raftpb.Entry) (n int64) {
	for _, e := range ents {
		n += int64(len(e.GetData()))
	}
	return n
}
