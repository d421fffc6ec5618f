package peerrpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/calls"
	"pontoon/internal/fifo"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// served is one stream of calls that a peer has opened. The handler goroutine of gRPC
// receives; another sends the answers.
type served struct {
	m      *Mesh
	from   shard.NodeID
	stream pb.Peer_CallsServer
	ctx    context.Context // of all calls of the stream
	wake   chan struct{}   // for the sender
	room   chan struct{}   // for the receiver that waits for answers to leave
	calls  atomic.Int64    // being served
	bytes  atomic.Int64    // of their requests

	mu struct {
		sync.Mutex
		answers fifo.Batches[encodedAnswer]
		bytes   int  // of answers
		pong    bool // send a frame even if it is empty
		left    bool // the same, and it is the last
		closed  bool
	}
}

// spareAnswers bounds the room for answers that a stream keeps after a burst.
const spareAnswers = 1024

type encodedAnswer struct {
	id   uint64
	body []byte
}

// ServeCalls implements peer.CallService.
func (m *Mesh) ServeCalls(from shard.NodeID, stream pb.Peer_CallsServer) error {
	m.farewell.enter()
	defer m.farewell.leave()
	ctx, cancel := context.WithCancel(stream.Context())
	s := &served{m: m, from: from, stream: stream, ctx: ctx, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	s.mu.answers.Spare = spareAnswers
	var wg sync.WaitGroup
	wg.Go(func() {
		// The receiver sees the stream's end, too.
		_ = peer.Pump(ctx, s.wake, peer.Stream{Send: s.send})
	})
	received := make(chan error, 1)
	go func() { received <- s.receive() }() // it ends with the stream, which may be after us
	var err error
	select {
	case err = <-received:
	case <-m.farewell.said:
		err = s.sayFarewell(received)
	}
	cancel()
	s.mu.Lock()
	s.mu.closed, s.mu.answers = true, fifo.Batches[encodedAnswer]{}
	s.mu.Unlock()
	wg.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *served) receive() error {
	var seen learned
	for {
		f, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if len(f.Requests) == 0 {
			s.push(nil)
			continue
		}
		for _, req := range f.Requests {
			seen.learn(&s.m.cfg, s.from, req.Revision, req.Epoch)
			s.handle(req)
		}
		if err := s.awaitRoom(); err != nil {
			return err
		}
	}
}

// awaitRoom holds requests back while the peer does not take its answers.
func (s *served) awaitRoom() error {
	for {
		s.mu.Lock()
		full := s.mu.bytes > s.m.cfg.BytesMax
		s.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-s.room:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

func (s *served) handle(req *pb.PeerRequest) {
	c := &servedCall{s: s, id: req.Id, size: int64(req.SizeVT())}
	c.kind, _ = calls.Of(req)
	n, bytes := s.calls.Add(1), s.bytes.Add(c.size)
	if s.m.farewell.was() { // looked at when it is counted: leave waits for it, or it is not begun
		s.calls.Add(-1)
		return
	}
	if n > int64(s.m.cfg.CallsMax) || n > 1 && bytes > int64(s.m.cfg.BytesMax) {
		s.m.count.servedRefused.Add(1)
		c.reply(&pb.PeerResponse{Error: pb.ErrorToPB(shard.ErrTooManyRequests)})
		return
	}
	if s.m.cfg.Handler == nil {
		c.reply(&pb.PeerResponse{Error: pb.ErrorToPB(shard.ErrUnavailable)})
		return
	}
	s.m.count.callsServed.Add(1)
	c.ctx.Start(s.ctx, time.Duration(req.TimeoutMs)*time.Millisecond)
	if req.RelayTo != 0 && shard.NodeID(req.RelayTo) != s.m.cfg.Node {
		s.m.relay(&c.ctx, req, c.reply)
		return
	}
	s.m.cfg.Handler(&c.ctx, s.from, req, c.reply)
}

// servedCall is one call that is being served.
type servedCall struct {
	s    *served
	id   uint64
	size int64 // of the request
	kind calls.Kind
	done atomic.Bool
	ctx  patience.Context
}

// reply sends the answer; a second one is ignored.
func (c *servedCall) reply(resp *pb.PeerResponse) {
	if !c.done.CompareAndSwap(false, true) {
		return
	}
	c.s.bytes.Add(-c.size)
	c.ctx.Cancel()
	if c.id != 0 { // else it was told, not asked
		c.s.push(&encodedAnswer{id: c.id, body: encodeAnswer(resp, c.kind)})
	}
	c.s.calls.Add(-1)
}

// push queues an answer, or without one the sign of life that an empty frame is.
func (s *served) push(a *encodedAnswer) {
	s.mu.Lock()
	switch {
	case s.mu.closed:
	case a == nil:
		s.mu.pong = true
	default:
		s.mu.answers.Push(*a)
		s.mu.bytes += len(a.body)
	}
	s.mu.Unlock()
	patience.Wake(s.wake)
}

// send sends one frame of answers.
func (s *served) send() (bool, error) {
	batch, bytes, pong, left := s.next()
	if len(batch) == 0 && !pong && !left {
		return false, nil
	}
	rev, epoch := s.m.cfg.Hints()
	f := newFrame(bytes, len(batch))
	for _, a := range batch {
		f.addResponse(a.body, header{id: a.id, rev: rev, epoch: epoch})
	}
	if left {
		f.addLeft()
	}
	s.giveBack(batch)
	s.m.count.answerFrames.Add(1)
	s.m.count.answerBytes.Add(uint64(len(f.raw)))
	if err := s.stream.SendMsg(&f.raw); err != nil {
		return true, err
	}
	s.sent(bytes)
	return true, nil
}

// next takes answers for one frame.
func (s *served) next() (batch []encodedAnswer, bytes int, pong, left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, a := range s.mu.answers.Items() {
		if n > 0 && bytes+len(a.body) > s.m.cfg.FrameBytes {
			break
		}
		n++
		bytes += len(a.body)
	}
	pong, s.mu.pong = s.mu.pong, false
	left, s.mu.left = s.mu.left, false
	return s.mu.answers.Take(n), bytes, pong, left
}

func (s *served) giveBack(batch []encodedAnswer) {
	s.mu.Lock()
	s.mu.answers.Recycle(batch)
	s.mu.Unlock()
}

func (s *served) sent(bytes int) {
	s.mu.Lock()
	s.mu.bytes -= bytes
	s.mu.Unlock()
	patience.Wake(s.room)
}
