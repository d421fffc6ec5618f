package peer

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"pontoon/internal/pb"
)

// Raw is a message that has been encoded already. It is sent as it is and must not change
// afterwards. Received messages are never Raw.
type Raw []byte

// Encoded returns the bytes, for codecs of other ports that send such messages, too.
func (r *Raw) Encoded() []byte { return *r }

// message is what the code generator gives every message of internal/pb.
type message interface {
	SizeVT() int
	MarshalToSizedBufferVT(b []byte) (int, error)
	UnmarshalVT(b []byte) error
}

// codec encodes messages with their generated methods instead of by reflection. It is given
// to the peers' connections only, so it does not touch the client port's encoding.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name is the content subtype that both sides state.
func (codec) Name() string { return "pontoon" }

// Marshal encodes v into one buffer from gRPC's pool.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(*Raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(*raw)}, nil
	}
	m, ok := v.(message)
	if !ok {
		return nil, fmt.Errorf("peer: %T is not a message of the peer protocol", v)
	}
	size := m.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		buf := make([]byte, size)
		if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
			return nil, fmt.Errorf("peer: encode %T: %w", v, err)
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
		pool.Put(buf)
		return nil, fmt.Errorf("peer: encode %T: %w", v, err)
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal decodes into v, which keeps no reference to data: what is decoded copies its bytes. Frames of Raft
// messages and of feeds are nearly all payload, so they are copied once, as a whole, and v keeps the copy.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	var decode func([]byte) error
	switch v := v.(type) {
	case *pb.RaftFrame:
		return v.UnmarshalVTUnsafe(data.Materialize())
	case *pb.LinkFrame:
		return v.UnmarshalVTUnsafe(data.Materialize())
	case *pb.PeerFrame:
		decode = v.UnmarshalFrame
	case message:
		decode = v.UnmarshalVT
	default:
		return fmt.Errorf("peer: %T is not a message of the peer protocol", v)
	}
	if len(data) == 1 {
		return decode(data[0].ReadOnlyData())
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return decode(buf.ReadOnlyData())
}
