package eval

import "pontoon/internal/pb"

// Slab allocates values several at a time. They are freed together, so they should live about equally long.
type Slab[T any] struct {
	Chunk int // values per allocation
	free  []T
}

// New returns a new zero value.
func (s *Slab[T]) New() *T {
	if len(s.free) == 0 {
		s.free = make([]T, max(s.Chunk, 1))
	}
	v := &s.free[0]
	s.free = s.free[1:]
	return v
}

// resultSlab makes the results of a batch: all are answered when it has been applied.
type resultSlab struct {
	results Slab[pb.Result]
	puts    Slab[pb.PutResult]
	txns    Slab[pb.TxnResult]
}

// NewResultSlab makes room for the results of so many requests at a time.
func NewResultSlab(requests int) resultSlab {
	return resultSlab{
		results: Slab[pb.Result]{Chunk: requests},
		puts:    Slab[pb.PutResult]{Chunk: requests},
		txns:    Slab[pb.TxnResult]{Chunk: requests},
	}
}
