package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/durable"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// errStalled ends a snapshot that has made no progress.
var errStalled = errors.New("transport: the snapshot made no progress")

// errSnapshotSelf is returned for a snapshot to this node.
var errSnapshotSelf = errors.New("transport: a snapshot to this node itself")

// SendSnapshot streams what write produces to a node, on a connection of its own and on a
// goroutine of its own. done is called exactly once, there, when the receiver has accepted the
// snapshot or it has failed; write has returned by then.
func (t *Transport) SendSnapshot(to shard.NodeID, h *pb.SnapshotHeader, write func(w io.Writer) error, done func(err error)) {
	t.mu.Lock()
	closed := t.mu.closed
	if !closed {
		t.wg.Add(1)
	}
	t.mu.Unlock()
	if closed {
		go done(shard.ErrStopped)
		return
	}
	go func() {
		defer t.wg.Done()
		err := t.sendSnapshot(to, h, write)
		if err != nil {
			t.count.snapshotErrors.Add(1)
		} else {
			t.count.snapshotsSent.Add(1)
		}
		done(err)
	}()
}

func (t *Transport) sendSnapshot(to shard.NodeID, h *pb.SnapshotHeader, write func(w io.Writer) error) error {
	if to == t.cfg.Node {
		return errSnapshotSelf
	}
	conn, err := t.cfg.DialSnapshot(to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(t.ctx)
	defer cancel(nil)
	stall := time.AfterFunc(t.cfg.SnapshotStall, func() { cancel(errStalled) })
	defer stall.Stop()
	fail := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("transport: snapshot of group %d to node %v: %w", h.Group, to, err)
	}
	stream, err := pb.NewPeerClient(conn).Snapshot(ctx)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if err != nil {
		return fail(err)
	}
	h.FromNode = uint64(t.cfg.Node)
	w := &chunkWriter{stream: stream, buf: make([]byte, 0, t.cfg.ChunkBytes), sent: func() { stall.Reset(t.cfg.SnapshotStall) }}
	w.due = func(n int) error {
		t.count.snapshotBytesSent.Add(uint64(n))
		return t.out.wait(ctx, n)
	}
	if err := w.send(&pb.SnapshotChunk{Header: h}); err != nil {
		return fail(err)
	}
	if err := write(w); err != nil {
		return fail(err)
	}
	if err := w.finish(); err != nil {
		return fail(err)
	}
	stall.Reset(t.cfg.SnapshotFinish)
	res, err := stream.CloseAndRecv()
	if err != nil {
		return fail(err)
	}
	if !res.Accepted {
		return fail(fmt.Errorf("the receiver refused it: %s", res.Reason))
	}
	return nil
}

// chunkWriter cuts a stream into chunks. Every chunk states the checksum of all data so far.
type chunkWriter struct {
	stream pb.Peer_SnapshotClient
	buf    []byte
	crc    uint32
	due    func(n int) error // waits until so many bytes may go
	sent   func()            // progress was made
}

// Write implements io.Writer.
func (w *chunkWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := cap(w.buf) - len(w.buf)
		if room == 0 {
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
			continue
		}
		k := min(room, len(p))
		w.buf = append(w.buf, p[:k]...)
		p = p[k:]
	}
	return n, nil
}

func (w *chunkWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.due(len(w.buf)); err != nil {
		return err
	}
	w.crc = durable.CRC32C(w.crc, w.buf)
	err := w.send(&pb.SnapshotChunk{Data: w.buf, Crc: w.crc})
	w.buf = w.buf[:0] // encoding has copied it
	return err
}

func (w *chunkWriter) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.send(&pb.SnapshotChunk{Done: true, Crc: w.crc})
}

// send sends one chunk. When the receiver has given up, its answer is the better error.
func (w *chunkWriter) send(c *pb.SnapshotChunk) error {
	err := w.stream.Send(c)
	if errors.Is(err, io.EOF) {
		res, rerr := w.stream.CloseAndRecv()
		switch {
		case rerr != nil:
			err = rerr
		case !res.Accepted:
			err = fmt.Errorf("the receiver refused it: %s", res.Reason)
		}
	}
	if err == nil {
		w.sent()
	}
	return err
}

// ServeSnapshot implements peer.RaftService.
func (t *Transport) ServeSnapshot(from shard.NodeID, stream pb.Peer_SnapshotServer) error {
	select {
	case t.snapshotsIn <- struct{}{}:
		defer func() { <-t.snapshotsIn }()
	default:
		return status.Errorf(codes.ResourceExhausted, "transport: %d snapshots are being received already", t.cfg.SnapshotsIn)
	}
	if t.cfg.Handler == nil {
		return status.Error(codes.Unavailable, "transport: nobody takes snapshots here")
	}
	r := newChunkReader(stream, t.cfg.SnapshotStall)
	r.took = func(n int) error {
		t.count.snapshotBytesReceived.Add(uint64(n))
		return t.in.wait(stream.Context(), n)
	}
	defer r.close()
	header, err := r.header()
	if err != nil {
		return status.Errorf(codes.DataLoss, "transport: receive snapshot: %v", err)
	}
	header.FromNode = uint64(from)
	err = t.cfg.Handler.HandleSnapshot(from, header, r)
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return stream.SendAndClose(&pb.SnapshotResult{Reason: err.Error()})
	}
	t.count.snapshotsReceived.Add(1)
	return stream.SendAndClose(&pb.SnapshotResult{Accepted: true})
}

// chunkReader reads a snapshot's data out of its stream. A goroutine receives, so that a
// sender that has stopped sending is given up.
type chunkReader struct {
	chunks chan *pb.SnapshotChunk
	stop   chan struct{}
	failed chan struct{} // closed when the stream has ended; err says how
	err    error
	timer  *time.Timer
	stall  time.Duration
	took   func(n int) error // waits until so many bytes may be taken

	data []byte
	crc  uint32
	done bool
}

func newChunkReader(stream pb.Peer_SnapshotServer, stall time.Duration) *chunkReader {
	r := &chunkReader{
		chunks: make(chan *pb.SnapshotChunk),
		stop:   make(chan struct{}),
		failed: make(chan struct{}),
		timer:  time.NewTimer(stall),
		stall:  stall,
	}
	go func() { // ends with the stream: its handler calls close before it returns
		defer close(r.failed)
		for {
			c, err := stream.Recv()
			if err != nil {
				r.err = err
				return
			}
			select {
			case r.chunks <- c:
			case <-r.stop:
				return
			}
		}
	}()
	return r
}

func (r *chunkReader) close() {
	close(r.stop)
	r.timer.Stop()
}

// next returns the next chunk after checking its data.
func (r *chunkReader) next() (*pb.SnapshotChunk, error) {
	r.timer.Reset(r.stall)
	select {
	case c := <-r.chunks:
		r.crc = durable.CRC32C(r.crc, c.Data)
		if r.crc != c.Crc {
			return nil, fmt.Errorf("transport: snapshot checksum mismatch: computed %08x, stated %08x", r.crc, c.Crc)
		}
		return c, nil
	case <-r.timer.C:
		return nil, errStalled
	case <-r.failed:
		if errors.Is(r.err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, r.err
	}
}

func (r *chunkReader) header() (*pb.SnapshotHeader, error) {
	c, err := r.next()
	if err != nil {
		return nil, err
	}
	if c.Header == nil {
		return nil, errors.New("transport: the first chunk has no header")
	}
	return c.Header, nil
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.data) == 0 {
		if r.done {
			return 0, io.EOF
		}
		c, err := r.next()
		if err != nil {
			return 0, err
		}
		if err := r.took(len(c.Data)); err != nil {
			return 0, err
		}
		r.data, r.done = c.Data, c.Done
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// end checks that everything was read and that the sender says it was everything.
func (r *chunkReader) end() error {
	n, err := io.Copy(io.Discard, r)
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("transport: the snapshot has %d bytes more than were read", n)
	}
	return nil
}
