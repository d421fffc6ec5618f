package transport

import (
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"pontoon/internal/durable"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// chunkStream is a snapshot's stream with the chunks of a fuzz input, and what came of it.
type chunkStream struct {
	chunks []*pb.SnapshotChunk
	result *pb.SnapshotResult
}

func (s *chunkStream) Recv() (*pb.SnapshotChunk, error) {
	if len(s.chunks) == 0 {
		return nil, io.EOF
	}
	c := s.chunks[0]
	s.chunks = s.chunks[1:]
	return c, nil
}

func (s *chunkStream) SendAndClose(r *pb.SnapshotResult) error { s.result = r; return nil }
func (s *chunkStream) Context() context.Context                { return context.Background() }
func (s *chunkStream) SetHeader(metadata.MD) error             { return nil }
func (s *chunkStream) SendHeader(metadata.MD) error            { return nil }
func (s *chunkStream) SetTrailer(metadata.MD)                  {}
func (s *chunkStream) SendMsg(any) error                       { return nil }
func (s *chunkStream) RecvMsg(any) error                       { return io.EOF }

// collector reads a snapshot to its end.
type collector struct{ got []byte }

func (c *collector) HandleFrame(shard.NodeID, *pb.RaftFrame) {}
func (c *collector) PeerUnreachable(shard.NodeID)            {}
func (c *collector) HandleSnapshot(_ shard.NodeID, _ *pb.SnapshotHeader, r io.Reader) (err error) {
	c.got, err = io.ReadAll(r)
	return err
}

// FuzzServeSnapshot: of a stream of chunks only that is accepted which is whole, in order, and what
// its checksums say.
func FuzzServeSnapshot(f *testing.F) {
	seed := func(chunks ...*pb.SnapshotChunk) {
		var b []byte
		for _, c := range chunks {
			raw, err := c.MarshalVT()
			if err != nil {
				f.Fatal(err)
			}
			b = protowire.AppendBytes(b, raw)
		}
		f.Add(b, true)
		f.Add(b, false)
		f.Add(b[:len(b)/2], true)
	}
	head := &pb.SnapshotChunk{Header: &pb.SnapshotHeader{Group: 2}}
	seed(head, &pb.SnapshotChunk{Data: []byte("one")}, &pb.SnapshotChunk{Data: []byte("two")}, &pb.SnapshotChunk{Done: true})
	seed(head, &pb.SnapshotChunk{Data: []byte("one"), Done: true}, &pb.SnapshotChunk{Data: []byte("two")})
	seed(&pb.SnapshotChunk{Data: []byte("one")})
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		s := &chunkStream{}
		var all []byte
		crc, right, done := uint32(0), true, false
		for len(b) > 0 {
			raw, n := protowire.ConsumeBytes(b)
			c := &pb.SnapshotChunk{}
			if n < 0 || c.UnmarshalVT(raw) != nil {
				break
			}
			b = b[n:]
			crc = durable.CRC32C(crc, c.Data)
			if fix {
				c.Crc = crc
			}
			right = right && (done || c.Crc == crc)
			if !done && len(s.chunks) > 0 {
				all = append(all, c.Data...)
			}
			s.chunks = append(s.chunks, c)
			done = done || c.Done && len(s.chunks) > 1
		}
		h := &collector{}
		tr := New(Config{Node: 1, Handler: h, SnapshotStall: time.Minute})
		defer tr.Close()
		err := tr.ServeSnapshot(2, s)
		accepted := err == nil && s.result != nil && s.result.Accepted
		if accepted && (!right || !done || string(h.got) != string(all)) {
			t.Fatalf("accepted %q of %q; checksums right: %v, whole: %v", h.got, all, right, done)
		}
	})
}
