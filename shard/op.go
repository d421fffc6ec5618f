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

// The kinds.
const (
	OpSplit OpKind = 1 // cuts a range in two
	OpMove  OpKind = 2 // gives a range a replica on another node, takes one away, or both
	OpMerge OpKind = 3 // makes a range a part of its left neighbour
)

// String is the kind's name.
func (k OpKind) String() string {
	switch k {
	case OpSplit:
		return "split"
	case OpMove:
		return "move"
	case OpMerge:
		return "merge"
	}
	return fmt.Sprintf("op of kind %d", uint32(k))
}

// Doing says what is being done to a range by an op of the kind.
func (k OpKind) Doing() string {
	switch k {
	case OpSplit:
		return "being split"
	case OpMove:
		return "being moved"
	case OpMerge:
		return "being merged"
	}
	return "in an " + k.String()
}

// ChangeOutcome is what has become of a change that a range was asked for. The numbers are those that nodes send.
type ChangeOutcome uint8

// The outcomes. The first two are final.
const (
	ChangeDone    ChangeOutcome = iota + 1
	ChangeGivenUp               // the range is as it was, and the change has become impossible
	ChangeStepped               // the range has come nearer to it, and is to be asked again
	ChangeWaits                 // the same, after a while
)

// Op is a change of the range map that the meta group has decided, under way or over. Values are immutable once shared.
type Op struct {
	ID              OpID
	Kind            OpKind
	Range           RangeID
	Generation      Generation // that the range had when it began; of a merge the range is the left part
	Key             []byte     // the first key of the right part
	Child           RangeID    // the right part
	ChildGeneration Generation // a merge: that the right part had when it began
	Replicas        []Replica  // a split: the right part's
	From            Replica    // a move: the one that leaves; zero: the range gets one more
	To              Replica    // a move: the one that comes; zero: the range gets one less
	Until           int64      // a split: until when its border is to stay, in Unix time in milliseconds; 0: it need not, Forever: until it is taken back
	Reason          string     // why, for people
	Began           int64      // Unix time in milliseconds
	Ended           int64      // the same, never 0 once it is over
	Failure         string     // why it was given up; empty while it is under way, and where it is done
	Stood           time.Duration
}

// Forever is later than every time in milliseconds.
const Forever int64 = 1<<63 - 1

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
