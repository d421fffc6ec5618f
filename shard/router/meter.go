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
	n := len(page.Encoded)
	for _, kv := range page.Kvs {
		n += len(kv.Key) + len(kv.Value) + kvOverheadBytes
	}
	return m.Took(ctx, int64(n))
}
