package raftgroup

import (
	"fmt"
	"io"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// A group that is born empty and that nobody has written to begins as if a snapshot at this position had been
// installed everywhere. A replica without a log is therefore behind it, and can only join by a
// snapshot.
const (
	InitialIndex uint64 = 10
	InitialTerm  uint64 = 5
)

// Entry is one committed entry. Data is nil for Raft's own entries (a new term, a change of the
// configuration), which a state machine only counts; Context is what came with a change (ConfChange.Context), never
// nil for one and nil for all others. Both are shared and must not be written.
type Entry struct {
	Index, Term   uint64
	Data, Context []byte
}

// StateMachine is what a group replicates. Apply, Durable and Staged.Install are called by one
// worker at a time and never concurrently, also not with the group's Observer. None may block
// on the network.
type StateMachine interface {
	// Apply takes committed entries in order. An error stops the group, unless it is a *Later.
	Apply(ents []Entry) error
	// Applied is called once, when the group is added: the host resumes after it. (0, 0) for a
	// state machine that has never applied anything.
	Applied() (index, term uint64)
	// Durable is the index up to which a crash loses nothing: the log is truncated up to it.
	Durable() uint64
	// SnapshotTo writes the state at a position at or after the last Apply that returned before
	// the call. It runs off the workers, concurrently with Apply.
	SnapshotTo(w io.Writer) error
	// Receive stages an incoming snapshot durably, without touching the state. It runs off the
	// workers. It must read r to its end.
	Receive(r io.Reader) (Staged, error)
}

// Later is what Apply returns where an entry cannot be applied yet, for want of something that the node is about to have. What is ahead of the entry has
// been applied. The group applies nothing then, and holds no worker, until it is woken by Retry: the entry is handed over again, with what is behind
// it; so it is, now and then, when the group has something else to do. Whatever it is that it waits for must wake it, also where that never comes. A
// snapshot takes its place; and who leads lets another one lead if it lasts.
type Later struct {
	Index uint64 // of the entry
	Why   error
}

func (l *Later) Error() string { return fmt.Sprintf("entry %d has to wait: %v", l.Index, l.Why) }

func (l *Later) Unwrap() error { return l.Why }

// Staged is a snapshot that has been received. Exactly one of Install and Discard is called.
type Staged interface {
	// Position is the last index and its term that the snapshot holds.
	Position() (index, term uint64)
	// Install replaces the state machine's state, durably: the Raft log is reset after it.
	Install() error
	// Discard throws the snapshot away.
	Discard()
}

// Observer is told about leadership. Its methods are called like Apply, in order with it, and
// must not block.
type Observer interface {
	// LeaderChanged reports any change of term, leader or own role.
	LeaderChanged(l Leadership)
	// OwnTermApplied reports, once per term, that this replica leads term and has applied an
	// entry of it: its state holds everything that was committed before.
	OwnTermApplied(term uint64)
}

// Leadership says who leads a group, as one replica knows it. Leader is 0 when unknown.
type Leadership struct {
	Term     uint64
	Leader   shard.ReplicaID
	IsLeader bool
}

// GroupConfig describes one group of a host.
type GroupConfig struct {
	ID      shard.RangeID
	Replica shard.ReplicaID
	// Peers places every replica, the own one too. For a group without a log they are the
	// first voters, but for the Learners among them. A replica that is Waiting, or Lost, may know none.
	Peers    map[shard.ReplicaID]shard.NodeID
	Learners []shard.ReplicaID
	// Members says where the replicas live that SM knows of, the own one too unless it has been removed; nil as long as it
	// knows none. It is asked when the group is added, after a change of the configuration has been applied and
	// after a snapshot has been installed, like Apply, and stands for Peers from then on. The map must not be
	// written any more. Default: they stay where Peers says.
	Members func() map[shard.ReplicaID]shard.NodeID
	// Waiting makes a replica without a log begin outside of every configuration: it votes and stores entries for
	// whoever asks, and gets its state, and who takes part, by a snapshot of a leader that adds it.
	Waiting  bool
	SM       StateMachine
	Observer Observer // nil: nobody is told
	// Lease makes the leader hold a lease (see LeaseUntil). Such a group is never quiescent.
	Lease bool
	// CampaignNow lets this replica of a group without any history campaign at once: whoever
	// creates many groups spreads their leaders by it. A replica that is Born campaigns again at every tick
	// until somebody leads.
	CampaignNow bool
	// Born says that SM has just been made of another group's state, at BirthPosition. The replica keeps term and
	// vote if it has waited here; see MayBeBorn for where it is refused. Without CampaignNow it gives the one
	// that has it an election timeout.
	Born      bool
	NoQuiesce bool
	// Lost says that SM has no state, or not enough of it, although the log may hold entries: its
	// file was damaged. The replica votes and stores entries, but never leads and applies nothing;
	// it asks the leader for the state. Once Install of a Staged of SM has returned, the caller
	// stops the group (StopGroup) and adds it again, with a state machine that has the state. A
	// group of one voter cannot be added like this. One that is Waiting, too, has had no state yet: it is sent
	// one when a leader adds it.
	Lost bool
}

// Status is what a host knows of a group.
type Status struct {
	Leadership
	LeaderNode shard.NodeID // 0: unknown
	Commit     uint64
	Applied    uint64
	FirstIndex uint64 // of the log
	LastIndex  uint64
	Quiescent  bool
	// OwnTerm is set on a leader that has committed an entry of its term.
	OwnTerm bool
	// Conf is the configuration that this replica has applied.
	Conf Conf
}

// places is where the replicas live that the state machine knows of, nil: it does not say.
func (c *GroupConfig) places() map[shard.ReplicaID]shard.NodeID {
	if c.Members == nil {
		return nil
	}
	return c.Members()
}

// Sender carries frames and snapshots to other nodes. Both methods return at once.
type Sender interface {
	// Send owns f. It may drop it, and then says so by (*Host).PeerUnreachable. Frames to one
	// node arrive in the order of the calls, if they do.
	Send(to shard.NodeID, f *pb.RaftFrame)
	// SendSnapshot calls write once, from another goroutine, with a writer that blocks as the
	// receiver does, and done once when the receiver has accepted the snapshot or failed.
	SendSnapshot(to shard.NodeID, h *pb.SnapshotHeader, write func(w io.Writer) error, done func(err error))
}
