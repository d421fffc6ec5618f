package transport

import (
	"context"

	"google.golang.org/grpc"

	"pontoon/internal/pb"
)

type corruptConn struct{ grpc.ClientConnInterface }

func (c corruptConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	return &corruptStream{ClientStream: s}, err
}

type corruptStream struct {
	grpc.ClientStream
	sent int
}

func (s *corruptStream) SendMsg(m any) error {
	s.sent++
	if c, ok := m.(*pb.SnapshotChunk); ok && s.sent == 3 {
		data := append([]byte(nil), c.Data...)
		data[len(data)/2] ^= 4
		m = &pb.SnapshotChunk{Data: data, Crc: c.Crc}
	}
	return s.ClientStream.SendMsg(m)
}
