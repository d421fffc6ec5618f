package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// CompactRanges makes every range log that it is compacted at rev; with physical set it
// returns when the deletion is done, however long that takes: ctx alone bounds it. Safe to repeat.
//
// It is done when spans that tile the key space have said so. What has said so once remains so, whoever gets its keys: a
// range that is cut or joined hands its compaction revision on. So a change of the map costs nothing but the parts that
// it touches (hazard 40).
func (r *Router) CompactRanges(ctx context.Context, rev int64, physical bool) error {
	var done compacted
	return r.untilMapped(ctx, func() error {
		m, err := r.rangeMap(ctx)
		if err != nil {
			return err
		}
		var parts []*part
		for d := range m.All() {
			if !done.holds(d.Span) {
				parts = append(parts, &part{desc: d, span: d.Span})
			}
		}
		return eachOf(ctx, r.cfg.CompactParallel, parts, func(ctx context.Context, _ int, p *part) error {
			err := r.compactRange(ctx, p, rev, physical)
			switch {
			case err == nil:
				done.add(p.span)
			case !errors.Is(err, errRemap):
				return fmt.Errorf("router: compact %v at %d: %w", p.desc.ID, rev, err)
			}
			return err
		})
	})
}

// compactRange asks a range again where it has not come to the deletion within the patience of one request.
func (r *Router) compactRange(ctx context.Context, p *part, rev int64, physical bool) error {
	var a attempt
	for {
		_, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
			return &pb.PeerRequest{CompactRange: &pb.CompactRangeRequest{RangeId: uint64(d.ID), Revision: rev, Physical: physical, Span: pb.FromSpan(p.span)}}
		})
		if !physical || !errors.Is(err, shard.ErrTimeout) {
			return err
		}
		if over := r.pause(ctx, &a, err); over != nil {
			return err
		}
	}
}

// Compact forgets history below rev and returns the revision that was current when that was decided, for
// the header.
func (r *Router) Compact(ctx context.Context, rev int64, physical bool) (int64, error) {
	return r.cfg.Cluster.Compact(ctx, rev, physical)
}

// compacted is the part of the key space that has said that it is compacted: disjoint spans in key order, of which no
// two touch.
type compacted struct {
	mu    sync.Mutex
	spans []shard.Span
}

// add joins s with what it touches.
func (c *compacted) add(s shard.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The first that ends at or behind the start of s, and the first that begins behind its end.
	i, _ := slices.BinarySearchFunc(c.spans, s.Start, func(o shard.Span, start []byte) int {
		if o.Unbounded() {
			return 1
		}
		return bytes.Compare(o.End, start)
	})
	j := i
	for j < len(c.spans) && (s.Unbounded() || bytes.Compare(c.spans[j].Start, s.End) <= 0) {
		s = s.Hull(c.spans[j])
		j++
	}
	c.spans = slices.Replace(c.spans, i, j, s)
}

// holds reports whether all of s has said so.
func (c *compacted) holds(s shard.Span) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.spans, s.Start, func(o shard.Span, start []byte) int {
		if o.Unbounded() || bytes.Compare(o.End, start) > 0 {
			return 1
		}
		return -1
	})
	return i < len(c.spans) && c.spans[i].ContainsSpan(s)
}
