package peerrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/fifo"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// call is one call without an answer. Guarded by its conn's lock until it is taken out of
// pending; who takes it out runs the callback.
type call struct {
	id       uint64 // 0: it is never answered, and not in pending
	body     []byte
	size     int
	deadline time.Time
	stop     func() bool // ends the watch on the caller's context
	sent     bool        // may have reached the peer
	cb       func(*pb.PeerResponse, error)
}

func (c *call) finish(resp *pb.PeerResponse, err error) {
	if c.stop != nil {
		c.stop()
	}
	c.cb(resp, err)
}

// abandon ends a call that nobody waits for any longer.
func (c *call) abandon(why error) {
	if c.sent {
		c.finish(nil, shard.GivenUp(why))
	} else {
		c.finish(nil, unsentError(why))
	}
}

// conn holds the calls to one node. One goroutine (the sender's) opens the stream and sends; another,
// which lives with the stream, receives.
type conn struct {
	m      *Mesh
	to     shard.NodeID
	sender *peer.Sender
	held   atomic.Bool // to be woken when the answers of a frame have been handed out

	// Used by the sender only.
	batch []*call
	down  string // the last failure that was logged

	mu struct {
		sync.Mutex
		queue   fifo.Batches[*call] // not sent yet; may hold calls that are over
		pending map[uint64]*call
		bytes   int // of pending
		told    int // bytes of what is told, in queue
		sent    int // how many of pending were sent
		nextID  uint64
		silent  int  // ticks since the peer's last sign of life, while calls are sent
		probe   bool // send a frame even if it is empty
		suspect bool // the peer has let a connection come to nothing
		broken  bool // no connection: the last one went silent, or could not be opened
		detours detours
		closed  bool
		kill    context.CancelCauseFunc // breaks the stream; nil without one
	}
}

func newConn(m *Mesh, to shard.NodeID) *conn {
	p := &conn{m: m, to: to}
	p.sender = peer.NewSender(peer.SenderConfig{Open: p.open, Idle: p.idle, Down: p.broke})
	p.mu.pending = make(map[uint64]*call)
	return p
}

// enqueue takes a call in and returns its id, or says why not. With watch set the end of ctx ends it.
func (p *conn) enqueue(ctx context.Context, c *call, watch bool) (uint64, error) {
	c.size = len(c.body)
	p.mu.Lock()
	cfg := &p.m.cfg
	switch {
	case p.mu.closed:
		p.mu.Unlock()
		return 0, fmt.Errorf("%w: %w", shard.ErrUnavailable, shard.ErrStopped)
	case p.mu.suspect && len(p.mu.pending) > 0:
		p.mu.Unlock()
		p.m.count.callsFailed.Add(1)
		return 0, fmt.Errorf("%w: node %v does not answer", shard.ErrUnavailable, p.to)
	case len(p.mu.pending) >= cfg.CallsMax || p.mu.queue.Len() >= 2*cfg.CallsMax,
		len(p.mu.pending) > 0 && p.mu.bytes+c.size > cfg.BytesMax:
		p.mu.Unlock()
		return 0, shard.ErrTooManyRequests
	}
	p.mu.nextID++
	id := p.mu.nextID
	c.id = id
	p.mu.pending[id] = c
	p.mu.bytes += c.size
	p.mu.queue.Push(c)
	if watch && ctx.Done() != nil {
		c.stop = context.AfterFunc(ctx, func() { p.expire(ctx, id) })
	}
	p.mu.Unlock()
	p.poke()
	return id, nil
}

// post takes in what is not answered; false if it is dropped.
func (p *conn) post(body []byte) bool {
	p.mu.Lock()
	n := p.mu.queue.Len()
	full := p.mu.closed || p.mu.suspect && n > 0 || n >= 2*p.m.cfg.CallsMax || n > 0 && p.mu.told+len(body) > p.m.cfg.BytesMax
	if !full {
		p.mu.told += len(body)
		p.mu.queue.Push(&call{body: body, size: len(body)})
	}
	p.mu.Unlock()
	if !full {
		p.poke()
	}
	return !full
}

// isOverLocked reports whether nobody waits for a call of the queue any more.
func (p *conn) isOverLocked(c *call) bool { return c.id != 0 && p.mu.pending[c.id] == nil }

// poke wakes the sender; while the answers of a frame are handed out, only after that: what those who
// get them ask next leaves in one frame.
func (p *conn) poke() {
	if p.m.busy.Load() > 0 {
		p.held.Store(true)
		if p.m.busy.Load() > 0 {
			return // handedOut comes later, and sees it
		}
	}
	p.release()
}

func (p *conn) release() {
	p.held.Store(false)
	p.sender.Wake()
}

// takeLocked takes a call out; nil if it is over already.
func (p *conn) takeLocked(id uint64) *call {
	c := p.mu.pending[id]
	if c == nil {
		return nil
	}
	delete(p.mu.pending, id)
	p.mu.bytes -= c.size
	if c.sent {
		p.mu.sent--
	} else {
		c.body = nil // it stays in the queue until the sender passes it
	}
	return c
}

// expire ends a call whose caller no longer waits.
func (p *conn) expire(ctx context.Context, id uint64) {
	p.mu.Lock()
	c := p.takeLocked(id)
	p.mu.Unlock()
	if c == nil {
		return
	}
	p.m.count.callsFailed.Add(1)
	c.abandon(context.Cause(ctx))
}

// fail ends those calls that were sent, or those that were not, with an error.
func (p *conn) fail(sent bool, err error) {
	var over []*call
	p.mu.Lock()
	for id, c := range p.mu.pending {
		if c.sent == sent {
			over = append(over, p.takeLocked(id))
		}
	}
	if !sent {
		p.mu.queue, p.mu.told = fifo.Batches[*call]{}, 0
	}
	p.mu.Unlock()
	p.m.count.callsFailed.Add(uint64(len(over)))
	for _, c := range over {
		c.finish(nil, err)
	}
}

// tick counts the peer's silence, and ends the calls whose deadline has passed: most end before by
// their context, but not those that were made without one which tells of its end.
func (p *conn) tick() {
	now := time.Now()
	var late []*call
	p.mu.Lock()
	for id, c := range p.mu.pending {
		if !c.deadline.IsZero() && now.After(c.deadline) {
			late = append(late, p.takeLocked(id))
		}
	}
	var kill context.CancelCauseFunc
	if p.mu.sent == 0 {
		p.mu.silent = 0
	} else {
		p.mu.silent++
		if p.mu.silent >= busyTicks || p.mu.silent >= deadTicks && !p.reachable() {
			kill = p.mu.kill
		} else if p.mu.silent >= probeTicks {
			p.mu.probe = true
		}
	}
	if p.mu.broken && p.mu.detours.taken { // nobody else tries whether the peer is back
		p.mu.detours.taken, p.mu.probe = false, true
	}
	probe := p.mu.probe
	p.mu.Unlock()
	p.m.count.callsFailed.Add(uint64(len(late)))
	for _, c := range late {
		c.abandon(context.DeadlineExceeded)
	}
	if kill != nil {
		kill(errSilent)
	}
	if probe {
		p.poke()
	}
}

// reachable tells whether the peer's system acknowledges the probes.
func (p *conn) reachable() bool {
	if p.m.cfg.Acknowledged == nil {
		return false
	}
	ago, known := p.m.cfg.Acknowledged(p.to)
	return known && ago <= probeTicks*p.m.cfg.SilenceTick
}

// run sends until the mesh is closed.
func (p *conn) run() {
	defer p.shut()
	p.sender.Run(p.m.ctx)
}

// broke ends the calls of which nothing will be heard: of a stream that could not be opened, those that wait
// for one; of one that has broken, those that were sent.
func (p *conn) broke(err error, opened bool) time.Duration {
	p.report(err)
	if !opened {
		p.setState(errors.Is(err, context.DeadlineExceeded), true)
		p.fail(false, fmt.Errorf("%w: node %v: %w", shard.ErrUnavailable, p.to, err))
		return 0 // the next call tries again, and hears at once how it went
	}
	p.setKill(nil)
	silent := errors.Is(err, errSilent)
	p.setState(silent, silent)
	if errors.Is(err, errLeft) {
		p.fail(true, fmt.Errorf("%w: node %v: %w", shard.ErrUnavailable, p.to, err))
		return 0
	}
	p.fail(true, fmt.Errorf("%w: to node %v: %w", shard.ErrAmbiguousConnection, p.to, err))
	return 0
}

func (p *conn) shut() {
	p.mu.Lock()
	p.mu.closed = true
	p.mu.Unlock()
	p.fail(true, fmt.Errorf("%w: %w", shard.ErrAmbiguousConnection, shard.ErrStopped))
	p.fail(false, fmt.Errorf("%w: %w", shard.ErrUnavailable, shard.ErrStopped))
}

// errLeft ends a stream behind the farewell of the node.
var errLeft = errors.New("peerrpc: the node has stopped, and has not begun what it has not answered")

// setState notes what became of a connection. A suspect peer lets connections come to nothing: until
// one is accepted again, a single call waits for that, and all others are told at once, so that they
// may go elsewhere.
func (p *conn) setState(suspect, broken bool) {
	p.mu.Lock()
	p.mu.suspect, p.mu.broken = suspect, broken
	if broken {
		p.mu.probe = false
	}
	p.mu.Unlock()
}

func (p *conn) setKill(kill context.CancelCauseFunc) {
	p.mu.Lock()
	p.mu.kill, p.mu.silent, p.mu.probe = kill, 0, false
	p.mu.Unlock()
}

// callStream is one open stream of calls.
type callStream struct {
	pb.Peer_CallsClient
	ctx    context.Context
	broken chan struct{}
	err    error // valid once broken is closed
}

// open opens the stream and waits until the peer has accepted it: what fails before that was
// certainly never seen by anybody.
func (p *conn) open(ctx context.Context) (peer.Stream, error) {
	var none peer.Stream
	cc, err := p.m.cfg.Dial(p.to)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	patience := time.AfterFunc(p.m.cfg.OpenTimeout, func() { cancel(context.DeadlineExceeded) })
	stream, err := p.m.cfg.Open(ctx, cc)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if !patience.Stop() && err == nil {
		err = context.DeadlineExceeded
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(err)
		return none, err
	}
	p.m.count.streamsOpened.Add(1)
	p.setState(false, false)
	p.report(nil)
	p.setKill(cancel)
	s := &callStream{Peer_CallsClient: stream, ctx: ctx, broken: make(chan struct{})}
	go p.receive(s)
	return peer.Stream{
		Send:   func() (bool, error) { return p.send(s) },
		Broken: s.broken,
		Err:    func() error { return s.err },
		Close:  func() { cancel(io.EOF); <-s.broken },
	}, nil
}

// idle reports that the wake-up was for calls that are over by now.
func (p *conn) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	over := 0
	for _, c := range p.mu.queue.Items() {
		if !p.isOverLocked(c) {
			break
		}
		over++
	}
	p.mu.queue.Recycle(p.mu.queue.Take(over))
	return p.mu.queue.Len() == 0 && !p.mu.probe
}

// send sends one frame of calls.
func (p *conn) send(s *callStream) (bool, error) {
	batch, bytes, probe := p.next()
	if len(batch) == 0 && !probe {
		return false, nil
	}
	rev, epoch := p.m.cfg.Hints()
	now := time.Now()
	f := newFrame(bytes, len(batch))
	for _, c := range batch {
		f.addRequest(c.body, header{id: c.id, timeoutMs: timeoutMs(now, c.deadline), rev: rev, epoch: epoch})
		c.body = nil
	}
	p.m.count.callsSent.Add(uint64(len(batch)))
	p.m.count.framesSent.Add(1)
	p.m.count.bytesSent.Add(uint64(len(f.raw)))
	clear(batch)
	return true, s.SendMsg(&f.raw)
}

// next takes calls for one frame out of the queue. From here on they may have been sent.
func (p *conn) next() (batch []*call, bytes int, probe bool) {
	batch = p.batch[:0]
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := 0
	for _, c := range p.mu.queue.Items() {
		if !p.isOverLocked(c) {
			if len(batch) > 0 && bytes+c.size > p.m.cfg.FrameBytes {
				break
			}
			if c.sent = true; c.id != 0 {
				p.mu.sent++
			} else {
				p.mu.told -= c.size
			}
			batch = append(batch, c)
			bytes += c.size
		}
		seen++
	}
	p.mu.queue.Recycle(p.mu.queue.Take(seen))
	probe = p.mu.probe
	p.mu.probe = false
	p.batch = batch
	return batch, bytes, probe
}

// receive hands answers to their callers until the stream ends.
func (p *conn) receive(s *callStream) {
	defer close(s.broken)
	type answer struct {
		c    *call
		resp *pb.PeerResponse
	}
	var over []answer
	var seen learned
	for {
		f, err := s.Recv()
		if err != nil {
			s.err = err
			if cause := context.Cause(s.ctx); cause != nil {
				s.err = cause
			}
			return
		}
		over = over[:0]
		p.mu.Lock()
		p.mu.silent = 0
		for _, resp := range f.Responses {
			if c := p.takeLocked(resp.Id); c != nil {
				over = append(over, answer{c, resp})
			}
		}
		p.mu.Unlock()
		for _, resp := range f.Responses {
			seen.learn(&p.m.cfg, p.to, resp.Revision, resp.Epoch)
		}
		p.m.busy.Add(1)
		for i, a := range over {
			a.c.finish(split(a.resp))
			over[i] = answer{}
		}
		p.m.handedOut()
		if f.Left {
			s.err = errLeft
			return
		}
	}
}

// handedOut wakes the senders that were held back, whoever else is still at it: nothing waits for
// more than one frame's answers.
func (m *Mesh) handedOut() {
	m.busy.Add(-1)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.mu.conns {
		if p.held.Load() {
			p.release()
		}
	}
}

// learned passes hints on when they change.
type learned struct {
	rev   int64
	epoch uint64
}

func (l *learned) learn(cfg *Config, from shard.NodeID, rev int64, epoch uint64) {
	if rev == l.rev && epoch == l.epoch {
		return
	}
	l.rev, l.epoch = rev, epoch
	cfg.Learn(from, rev, epoch)
}

// report logs the first failure of a row, and the end of the row.
func (p *conn) report(err error) {
	switch {
	case p.m.ctx.Err() != nil:
		return
	case err == nil:
		if p.down != "" {
			p.m.cfg.Logger.Info("calls to the peer are possible again", "peer", p.to.String())
		}
		p.down = ""
		return
	case err.Error() == p.down:
		return
	case peer.Refused(err):
		p.m.cfg.Logger.Error("the peer refuses this node", "peer", p.to.String(), "error", err)
	case p.down == "":
		p.m.cfg.Logger.Warn("calls to the peer fail", "peer", p.to.String(), "error", err)
	}
	p.down = err.Error()
}

// timeoutMs is what is left until the deadline, at least 1; 0 without a deadline.
func timeoutMs(now, deadline time.Time) int64 {
	if deadline.IsZero() {
		return 0
	}
	return max(1, deadline.Sub(now).Milliseconds())
}
