package gateway

import (
	"fmt"
	"io"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
)

// bounded is a marshaler whose decoders refuse objects that are too large. It counts each apart: a stream of them may be as long as it likes.
type bounded struct {
	runtime.HTTPBodyMarshaler
	max int
}

// NewDecoder implements runtime.Marshaler.
func (b *bounded) NewDecoder(r io.Reader) runtime.Decoder {
	budget := &budget{r: r, max: b.max}
	return &boundedDecoder{Decoder: b.HTTPBodyMarshaler.NewDecoder(budget), budget: budget}
}

type boundedDecoder struct {
	runtime.Decoder
	budget *budget
}

// Decode reads the next object.
func (d *boundedDecoder) Decode(v any) error {
	d.budget.left = d.budget.max
	return d.Decoder.Decode(v)
}

// budget is a reader that fails when more is read than is left.
type budget struct {
	r         io.Reader
	left, max int
}

// Read implements io.Reader.
func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the object has more than %d bytes", b.max)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
