package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
)

// A snapshot stream is a run of chunks, each led by its length in four bytes, a length of zero,
// and the trailer with its length.

const chunkBytesMax = 1 << 20

type chunkWriter struct{ w io.Writer }

func (c *chunkWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), chunkBytesMax)
		if err := c.chunk(p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

func (c *chunkWriter) chunk(p []byte) error {
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(len(p)))
	if _, err := c.w.Write(size[:]); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	_, err := c.w.Write(p)
	return err
}

func (c *chunkWriter) finish(trailer []byte) error {
	if err := c.chunk(nil); err != nil {
		return err
	}
	return c.chunk(trailer)
}

// chunkReader is the other end; it reports io.EOF at the end of the state.
type chunkReader struct {
	r    io.Reader
	left int
	end  bool
}

var errChunk = errors.New("malformed snapshot stream")

func (c *chunkReader) size() (int, error) {
	var size [4]byte
	if _, err := io.ReadFull(c.r, size[:]); err != nil {
		return 0, fmt.Errorf("snapshot stream: %w", noEOF(err))
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > chunkBytesMax {
		return 0, errChunk
	}
	return int(n), nil
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.end {
		return 0, io.EOF
	}
	if c.left == 0 {
		n, err := c.size()
		if err != nil {
			return 0, err
		}
		if c.left, c.end = n, n == 0; c.end {
			return 0, io.EOF
		}
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, noEOF(err)
}

// conf reads what follows the state.
func (c *chunkReader) conf() (Conf, error) {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return Conf{}, err
	}
	n, err := c.size()
	if err != nil {
		return Conf{}, err
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(c.r, buf); err != nil {
		return Conf{}, fmt.Errorf("snapshot trailer: %w", noEOF(err))
	}
	var t pb.SnapshotTrailer
	if err := t.UnmarshalVT(buf); err != nil {
		return Conf{}, fmt.Errorf("snapshot trailer: %w", err)
	}
	cs := &raftpb.ConfState{}
	if err := proto.Unmarshal(t.ConfState, cs); err != nil {
		return Conf{}, fmt.Errorf("snapshot trailer: %w", err)
	}
	if len(cs.Voters) == 0 {
		return Conf{}, errChunk
	}
	return Conf{State: cs, Index: t.ConfIndex}, nil
}

// noEOF: an end in the middle is no end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
