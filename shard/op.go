package shard

import (
	"fmt"
	"time"
)

// BorderBytesMax bounds the key at which a range is cut, in bytes: every node keeps it from then on.
const BorderBytesMax = 4 << 10

// OpID names an op. Never reused.
type OpID uint64

// OpKind is what an op changes. The numbers are those of the log.
type OpKind uint32

// OpSplit cuts a range in two.
const OpSplit OpKind = 1

// String is the kind's name.
func (k OpKind) String() string {
	if k == OpSplit {
		return "split"
	}
	return fmt.Sprintf("op of kind %d", uint32(k))
}

// Doing says what is being done to a range by an op of the kind.
func (k OpKind) Doing() string {
	if k == OpSplit {
		return "being split"
	}
	return "in an " + k.String()
}

// Op is a change of the range map that the meta group has decided, under way or over. Values are immutable once shared.
type Op struct {
	ID         OpID
	Kind       OpKind
	Range      RangeID
	Generation Generation // that the range had when it began
	Key        []byte     // a split: the first key of the right part
	Child      RangeID    // a split: the right part
	Replicas   []Replica  // a split: the right part's
	Reason     string     // why, for people
	Began      int64      // Unix time in milliseconds
	Ended      int64      // the same, never 0 once it is over
	Failure    string     // why it was given up; empty while it is under way, and where it is done
	Stood      time.Duration
}

// Outcome is how it stands with an op.
type Outcome string

// The outcomes.
const (
	OpUnderWay Outcome = "under way"
	OpDone     Outcome = "done"
	OpGivenUp  Outcome = "given up"
)

// Outcome returns it.
func (o *Op) Outcome() Outcome {
	switch {
	case o.Ended == 0:
		return OpUnderWay
	case o.Failure != "":
		return OpGivenUp
	}
	return OpDone
}

// OpState is an op as its driver sees it.
type OpState struct {
	Op
	// Waiting says why an op that is under way has not got on lately; empty: nothing is known to be in the way.
	Waiting string
}
