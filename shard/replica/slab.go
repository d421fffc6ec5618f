package replica

import "pontoon/internal/pb"

// slab hands out values that are allocated several at a time. They are freed together, so they should
// live about equally long.
type slab[T any] struct {
	room int // how many are allocated next
	free []T
}

// take returns a zero value that nobody else has.
func (s *slab[T]) take() *T {
	if len(s.free) == 0 {
		s.free = make([]T, max(s.room, 1))
	}
	v := &s.free[0]
	s.free = s.free[1:]
	return v
}

// resultSlab makes the results of a batch: all are answered when it has been applied.
type resultSlab struct {
	results slab[pb.Result]
	puts    slab[pb.PutResult]
	txns    slab[pb.TxnResult]
}

func newResultSlab(requests int) resultSlab {
	return resultSlab{
		results: slab[pb.Result]{room: requests},
		puts:    slab[pb.PutResult]{room: requests},
		txns:    slab[pb.TxnResult]{room: requests},
	}
}
