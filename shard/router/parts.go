package router

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"pontoon/shard"
)

// part is what one range has of the span that a request is about.
type part struct {
	desc shard.Descriptor
	span shard.Span
}

// partsOf lists each range that overlaps one of the spans once, in key order.
func partsOf(m *shard.Map, spans []shard.Span) []*part {
	seen := map[shard.RangeID]bool{}
	var parts []*part
	for _, s := range spans {
		for d := range m.Overlapping(s) {
			if !seen[d.ID] {
				seen[d.ID] = true
				parts = append(parts, &part{desc: d, span: d.Span})
			}
		}
	}
	slices.SortFunc(parts, func(a, b *part) int { return slices.Compare(a.desc.Span.Start, b.desc.Span.Start) })
	return parts
}

// hullOf is the smallest span that holds what the part's range has of the spans; it has a key of one.
func (p *part) hullOf(spans []shard.Span) (hull shard.Span) {
	found := false
	for _, s := range spans {
		switch clip := p.desc.Span.Intersect(s); {
		case clip.Empty():
		case found:
			hull = hull.Hull(clip)
		default:
			hull, found = clip, true
		}
	}
	return hull
}

// eachOf runs fn for every part, at most parallel at a time. The first failure ends the context of the others.
func eachOf[P any](ctx context.Context, parallel int, parts []P, fn func(ctx context.Context, i int, p P) error) error {
	if len(parts) == 1 {
		return fn(ctx, 0, parts[0])
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, p := range parts {
		g.Go(func() error { return fn(ctx, i, p) })
	}
	return g.Wait()
}
