package apply

import (
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// Birth is the state of a range that begins with keys of its own, final up to a revision.
func Birth(d shard.Descriptor, last int64) []mvcc.StateUpdate {
	return []mvcc.StateUpdate{DescUpdate(d), uintUpdate(stateLast, uint64(last))}
}

// Attached is the state of a lease that keys of the span carry.
func Attached(lease int64, grant uint64, span shard.Span) mvcc.StateUpdate {
	h := &pb.LeaseHalf{Lease: lease, GrantIndex: grant, Span: pb.FromSpan(span), Attached: true}
	return mvcc.StateUpdate{Key: AttachmentKey(lease), Value: Marshal(h)}
}
