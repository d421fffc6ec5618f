package etcdapi

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	// Clients may compress: etcd links this one, so it is part of what they may rely on.
	_ "google.golang.org/grpc/encoding/gzip"

	// The codec that ours wraps registers itself.
	protocodec "google.golang.org/grpc/encoding/proto"
)

// rangeFrame is a RangeResponse whose keys have been encoded already, where they are stored.
type rangeFrame struct {
	head *etcdserverpb.RangeResponse
	kvs  [][]byte // its field kvs, in pieces; shared, never written
}

func (f *rangeFrame) size() int {
	n := proto.Size(f.head)
	for _, b := range f.kvs {
		n += len(b)
	}
	return n
}

func (f *rangeFrame) marshal() (mem.BufferSlice, error) {
	head, err := proto.Marshal(f.head)
	if err != nil {
		return nil, fmt.Errorf("etcdapi: encode a range response: %w", err)
	}
	out := make(mem.BufferSlice, 0, 1+len(f.kvs))
	out = append(out, mem.SliceBuffer(head))
	for _, b := range f.kvs {
		out = append(out, mem.SliceBuffer(b))
	}
	return out, nil
}

// streamFrame is a RangeStreamResponse with such a RangeResponse.
type streamFrame struct{ rangeFrame }

// streamResponse is the field range_response of etcd's RangeStreamResponse.
const streamResponse protowire.Number = 1

func (f *streamFrame) marshal() (mem.BufferSlice, error) {
	inner, err := f.rangeFrame.marshal()
	if err != nil {
		return nil, err
	}
	head := protowire.AppendTag(nil, streamResponse, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(inner.Len()))
	return append(mem.BufferSlice{mem.SliceBuffer(head)}, inner...), nil
}

// encoded is a message of another service on the same port whose bytes were made elsewhere:
// the frames that answer routing clients.
type encoded interface{ Encoded() []byte }

// untrusted is a message of another service on the same port that decodes what a client sends itself,
// without reflection: the frames of routing clients. It keeps no reference to the bytes.
type untrusted interface{ UnmarshalUntrusted(b []byte) error }

// codec is gRPC's own for protobuf, which also counts bytes and knows what is encoded already.
type codec struct {
	encoding.CodecV2
	metrics *metrics
}

func newCodec(m *metrics) *codec {
	return &codec{CodecV2: encoding.GetCodecV2(protocodec.Name), metrics: m}
}

// Marshal encodes a message, unless it is encoded already.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	var data mem.BufferSlice
	var err error
	switch v := v.(type) {
	case *rangeFrame:
		data, err = v.marshal()
	case *streamFrame:
		data, err = v.marshal()
	case encoded:
		data = mem.BufferSlice{mem.SliceBuffer(v.Encoded())}
	default:
		data, err = c.CodecV2.Marshal(v)
	}
	if err == nil {
		c.metrics.addBytesOut(data.Len())
	}
	return data, err
}

// Unmarshal decodes a message.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	c.metrics.addBytesIn(data.Len())
	switch v := v.(type) {
	case *watchRequest:
		return v.decode(data)
	case untrusted:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return v.UnmarshalUntrusted(buf.ReadOnlyData())
	}
	return c.CodecV2.Unmarshal(data, v)
}
