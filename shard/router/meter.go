package router

import (
	"context"

	"pontoon/internal/pb"
)

// Meter hears of an answer as it grows. It may let the read wait before it goes on; its error ends the read. What is read again, because something has moved,
// is told again.
type Meter interface {
	Took(ctx context.Context, bytes int64) error
}

type meterKey struct{}

// WithMeter returns a context whose reads tell m of each page that they have got.
func WithMeter(ctx context.Context, m Meter) context.Context {
	return context.WithValue(ctx, meterKey{}, m)
}

// MeterOf is that of a context.
func MeterOf(ctx context.Context) (Meter, bool) {
	m, ok := ctx.Value(meterKey{}).(Meter)
	return m, ok
}

// kvOverheadBytes is what a key takes in an answer beside its bytes.
const kvOverheadBytes = 64

// metered tells of a page.
func metered(ctx context.Context, page *pb.ReadResponse) error {
	m, ok := MeterOf(ctx)
	if !ok {
		return nil
	}
	return m.Took(ctx, int64(pageBytes(page)))
}

// pageBytes is about what a page takes.
func pageBytes(page *pb.ReadResponse) int {
	n := len(page.Encoded)
	for _, kv := range page.Kvs {
		n += len(kv.Key) + len(kv.Value) + kvOverheadBytes
	}
	return n
}

// listed tells of a page of a list.
func (p *partRead) listed(page *pb.ReadResponse) {
	if p.s.r.cfg.Listed == nil || page.EncodedKeys == 0 && len(page.Kvs) == 0 {
		return
	}
	if p.tookOf != p.desc.ID {
		p.tookOf, p.took = p.desc.ID, 0
	}
	n := pageBytes(page)
	p.took += n
	p.s.r.cfg.Listed(p.desc.ID, p.span.Intersect(p.desc.Span), n, p.took)
}
