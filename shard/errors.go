package shard

import (
	"context"
	"errors"
	"fmt"
)

// Three fates of a request that failed, and every error below belongs to one:
// certainly not applied (it may be tried again: Retryable), perhaps applied (Ambiguous: never
// tried again behind the client's back), and refused for good (all others).
var (
	// ErrAmbiguous is returned when a proposal was made and its outcome is unknown: the
	// leadership was lost, or patience ran out. It may yet be applied.
	ErrAmbiguous = errors.New("outcome unknown: the request may yet be applied")
	// ErrAmbiguousTimeout is ErrAmbiguous where patience ran out and nothing is known to have failed.
	ErrAmbiguousTimeout = fmt.Errorf("out of patience: %w", ErrAmbiguous)
	// ErrAmbiguousConnection is ErrAmbiguous where the connection to who was asked has ended.
	ErrAmbiguousConnection = fmt.Errorf("connection lost: %w", ErrAmbiguous)
	// ErrUnavailable is returned when nobody could be asked: no leader, no connection, the
	// node is stopping. Certainly not applied.
	ErrUnavailable = errors.New("unavailable: no leader could be reached")
	// ErrStaleEpoch is returned when a fence or a write carries the epoch of an oracle that has
	// been replaced: the caller fetches a new revision. Certainly not applied.
	ErrStaleEpoch = errors.New("the oracle's epoch is superseded")
	// ErrTooManyRequests is returned when a queue is full. Certainly not applied.
	ErrTooManyRequests = errors.New("too many requests")
	// ErrFutureRevision is returned for a read above the current revision.
	ErrFutureRevision = errors.New("required revision is a future revision")
	// ErrLeaseNotFound is returned for a lease that does not exist (any more).
	ErrLeaseNotFound = errors.New("requested lease not found")
	// ErrLeaseExists is returned by a grant of an id that is in use.
	ErrLeaseExists = errors.New("lease already exists")
	// ErrLeaseTTLTooLarge is returned by a grant above 9,000,000,000 seconds.
	ErrLeaseTTLTooLarge = errors.New("too large lease TTL")
	// ErrKeyNotFound is returned by a put that keeps a value or a lease which does not exist.
	ErrKeyNotFound = errors.New("key not found")
	// ErrTimeout is returned when the caller's patience ended before anything was proposed.
	ErrTimeout = errors.New("request timed out")
	// ErrNoSpace is returned while a space alarm is raised.
	ErrNoSpace = errors.New("database space exceeded")
	// ErrCorrupt is returned when a replica's data failed a check.
	ErrCorrupt = errors.New("corrupt data")
	// ErrClusterCorrupt is returned to what would change something while an alarm says that a member's data is wrong.
	ErrClusterCorrupt = errors.New("an alarm is raised: data of a member is corrupt")
	// ErrOldSettings is returned by the oracle for revisions under settings that are not those of the cluster any more, or that an alarm
	// forbids. Nothing was allocated: the caller checks its requests again, and asks again for the rest.
	ErrOldSettings = errors.New("checked under settings that have changed")
	// ErrUnimplemented is returned for what this version does not do.
	ErrUnimplemented = errors.New("not supported yet")
	// ErrInvalid is returned for a request that is malformed.
	ErrInvalid = errors.New("invalid request")
	// ErrConflict is returned to a transaction that will not wait where another one holds a lock.
	// Certainly not applied.
	ErrConflict = errors.New("another transaction is in the way")
	// ErrOpInWay is returned to whoever wants a change of the range map where another one is under way, or too many are.
	// Certainly not applied; when that one is over it may be asked for again.
	ErrOpInWay = errors.New("another op is under way")
	// ErrStopped is returned by a part that has been closed.
	ErrStopped = errors.New("stopped")
)

// NotLeaderError is returned by a replica that does not lead its range. Certainly not applied;
// Leader is a hint, 0 when unknown. Known is where the meta group is, as far as who was asked has heard; of ranges nothing is said.
type NotLeaderError struct {
	Range  RangeID
	Leader NodeID
	Term   uint64
	Known  []Descriptor
}

func (e *NotLeaderError) Error() string {
	return fmt.Sprintf("%v: not the leader (hint: node %v, term %d)", e.Range, e.Leader, e.Term)
}

// WrongRangeError is returned when a request names keys that the replica does
// not hold; Known is what it knows instead, newest first. Certainly not applied.
type WrongRangeError struct {
	Range RangeID
	Known []Descriptor
}

func (e *WrongRangeError) Error() string {
	return fmt.Sprintf("%v: the request's range does not hold its keys", e.Range)
}

// CompactedError is returned for a read below the compaction revision.
type CompactedError struct {
	Revision int64 // the compaction revision
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("required revision has been compacted (compacted at %d)", e.Revision)
}

// GivenUp is the error of a request that may yet be applied and that nobody waits for any longer: why,
// mostly a context's error, says for what reason.
func GivenUp(why error) error {
	if errors.Is(why, context.DeadlineExceeded) || errors.Is(why, context.Canceled) || errors.Is(why, ErrTimeout) {
		return fmt.Errorf("%w: %w", ErrAmbiguousTimeout, why)
	}
	return fmt.Errorf("%w: %w", ErrAmbiguous, why)
}

// Retryable reports whether the request behind err certainly was not applied and may be
// routed again, perhaps elsewhere or with a new revision.
func Retryable(err error) bool {
	var nl *NotLeaderError
	var wr *WrongRangeError
	return errors.As(err, &nl) || errors.As(err, &wr) || errors.Is(err, ErrStaleEpoch) || errors.Is(err, ErrUnavailable)
}
