package raftgroup

import (
	"errors"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/shard"
)

// Position is a place in a log.
type Position struct{ Index, Term uint64 }

// HardState is what Raft must remember across a crash.
type HardState struct{ Term, Vote, Commit uint64 }

// Conf is a group's configuration, and the index of the last change that is in it.
type Conf struct {
	State *raftpb.ConfState
	Index uint64
}

// ReplicaState is what a node has of a replica.
type ReplicaState uint8

// The states, in the order in which a replica passes through them. Unknown is a log from before they were written
// down: such a replica has its state.
const (
	ReplicaUnknown ReplicaState = iota
	ReplicaWaiting              // a log, a term and a vote, perhaps; no state yet
	ReplicaPresent              // its state, or it has had one
	ReplicaRemoved              // nothing: it has been given up, and never comes back
)

// Replica is what a node has of a group, written down with its log.
type Replica struct {
	Group shard.RangeID
	ID    shard.ReplicaID // 0: unknown
	State ReplicaState
}

// Update is what one group wants written. The parts take effect in the order of the fields.
type Update struct {
	Group shard.RangeID
	// Remove forgets everything about the group.
	Remove bool
	// Replica replaces what is noted of the replica; nil leaves it. With Remove and ReplicaRemoved it is all that is
	// left: a tombstone.
	Replica *Replica
	// Reset makes the log empty, as if everything up to the position had been truncated.
	Reset *Position
	// HardState and Conf replace what was there; nil leaves it.
	HardState *HardState
	Conf      *Conf
	// Entries replace everything from the first one's index on. They must follow what is there
	// without a gap, and are shared: nobody writes to them.
	Entries []*raftpb.Entry
	// Truncate drops the entries up to its position, which is in the log; nil leaves it.
	Truncate *Position
	// Lazy says that a crash may lose this update (never those before it).
	Lazy bool
}

// LogState is what a log holds of a group.
type LogState struct {
	HardState HardState
	Conf      Conf
	// Truncated is the position before the first entry.
	Truncated Position
	// Last is the index of the last entry, Truncated.Index when there is none.
	Last uint64
	// Change is the index of the last change of the configuration that was ever appended, 0: none that is known of.
	// It may be gone, or truncated.
	Change uint64
	// Replica is what is noted of the replica, also where there is no log any more.
	Replica Replica
}

// ErrNoEntry is returned for entries that the log does not hold.
var ErrNoEntry = errors.New("raft log: no such entry")

// Log stores the Raft logs of all groups of a node. Save is called by one goroutine at a time;
// the others concurrently with it and with each other.
type Log interface {
	// Save writes a batch, in order. When it returns, everything that is not lazy is durable.
	// After an error the process must not go on.
	Save(batch []Update) error
	// Load returns a group's state, false if there is none but perhaps Replica.
	Load(g shard.RangeID) (LogState, bool, error)
	// Entries returns entries from lo on, below hi, as many as fit maxBytes and at least one.
	// The slice is the caller's; the entries are shared.
	Entries(g shard.RangeID, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)
	// Term returns the term of an entry.
	Term(g shard.RangeID, index uint64) (uint64, error)
	// Replicas lists the groups that have a log or a note of a replica, tombstones too, in the order of their ids. A start
	// adds those that are here, and no others: only the first start of a cluster begins groups that are not in the list.
	Replicas() ([]Replica, error)
}
