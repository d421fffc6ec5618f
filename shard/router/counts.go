package router

import (
	"context"

	"pontoon/internal/counts"
	"pontoon/internal/pb"
)

// countsLimit bounds what a router remembers of counted spans. What is left behind a page, no range need count
// again; where pages go to several nodes, each knows at least what the ranges behind the list's first hold.
var countsLimit = counts.Limit{Entries: 4096, Bytes: 4 << 20}

// countable reports whether a read is a page of a list in key order.
func countable(op *pb.RangeOp) bool {
	return op.Limit > 0 && len(op.RangeEnd) > 0 && op.SortTarget == sortByKey && op.SortOrder != sortDescend &&
		!op.CountOnly && !filtered(op)
}

// successor is the first key above key.
func successor(key []byte) []byte { return append(key[:len(key):len(key)], 0) }

// recallCounts looks up the parts that have been counted at this revision.
func (s *snapshot) recallCounts(parts []*partRead) {
	for _, p := range parts {
		if n, ok := s.r.counts.Exact(p.span, s.rev); ok {
			p.count, p.known = n, true
		}
	}
}

// keepCounts remembers the counts of all parts that later pages of a list have, too: those behind its
// first.
func (s *snapshot) keepCounts() {
	if s.total >= 0 {
		return // nobody has counted the parts
	}
	for _, p := range s.parts[1:] {
		s.r.counts.Put(p.span, s.rev, p.count)
	}
}

func (s *snapshot) countParts(ctx context.Context, parts []*partRead) error {
	return s.each(ctx, parts, func(ctx context.Context, _ int, p *partRead) error { return p.countRest(ctx) })
}

func total(parts []*partRead) int64 {
	var n int64
	for _, p := range parts {
		n += p.count
	}
	return n
}
