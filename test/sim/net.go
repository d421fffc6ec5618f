package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

var (
	errCut  = errors.New("sim: the way is cut")
	errDown = errors.New("sim: the node is down")
)

// way is that from one node to another.
type way struct {
	cut              bool
	slow             time.Duration // longest delay; 0: as a healthy network
	drop, dup, mixed float64       // of frames: lost, sent twice, out of order
	frames, calls    time.Time     // when the last one arrives: they keep their order
}

type network struct {
	w     *world
	links map[[2]shard.NodeID]*way
	ids   []shard.NodeID // in the order in which they came

	askedAt time.Time
	asked   map[string]*call // questions of that instant
}

func newNetwork(w *world) *network {
	n := &network{w: w, links: map[[2]shard.NodeID]*way{}}
	for id := 1; id <= w.cfg.Nodes; id++ {
		n.add(shard.NodeID(id))
	}
	return n
}

// add connects a node with all others.
func (n *network) add(id shard.NodeID) {
	n.ids = append(n.ids, id)
	for _, other := range n.ids {
		n.links[[2]shard.NodeID{id, other}], n.links[[2]shard.NodeID{other, id}] = &way{}, &way{}
	}
}

func (n *network) link(from, to shard.NodeID) *way { return n.links[[2]shard.NodeID{from, to}] }

// delay draws how long something takes on a link.
func (n *network) delay(l *way) time.Duration {
	d := n.w.between(50*time.Microsecond, 600*time.Microsecond)
	if l.slow > 0 {
		d += n.w.scaled(time.Millisecond, l.slow)
	}
	return d
}

// port is the network as one life of a node sees it: raftgroup.Sender, router.Peers, meta.Caller.
type port struct {
	n    *network
	life *life
}

// Send implements raftgroup.Sender.
func (p *port) Send(to shard.NodeID, f *pb.RaftFrame) {
	data, err := f.MarshalVT()
	if err != nil {
		panic("sim: a frame does not marshal: " + err.Error())
	}
	from := p.life.n.id
	p.n.w.post(fmt.Sprintf("r/%d>%d", from, to), 0, func() { p.n.sendFrame(p.life, to, data) })
}

func (n *network) sendFrame(from *life, to shard.NodeID, data []byte) {
	if !from.alive {
		return
	}
	l := n.link(from.n.id, to)
	n.w.stats.Frames++
	if l.cut || n.w.roll(l.drop) {
		n.w.stats.Lost++
		if n.w.roll(0.3) {
			from.host.PeerUnreachable(to)
		}
		return
	}
	copies := 1
	if n.w.roll(l.dup) {
		copies = 2
	}
	for range copies {
		at := time.Now().Add(n.delay(l))
		if at.Before(l.frames) && !n.w.roll(l.mixed) {
			at = l.frames
		}
		if at.After(l.frames) {
			l.frames = at
		}
		n.w.push(at, fmt.Sprintf("frame %d>%d", from.n.id, to), func() { n.arriveFrame(from.n.id, to, data) })
	}
}

func (n *network) arriveFrame(from, to shard.NodeID, data []byte) {
	n.w.note("%x", data)
	if n.link(from, to).cut {
		n.w.stats.Lost++
		return
	}
	n.w.node(to).receive(func(at *life) {
		f := &pb.RaftFrame{}
		if err := f.UnmarshalVT(data); err != nil {
			panic("sim: a frame does not unmarshal: " + err.Error())
		}
		at.host.HandleFrame(from, f)
	})
}

// SendSnapshot implements raftgroup.Sender.
func (p *port) SendSnapshot(to shard.NodeID, h *pb.SnapshotHeader, write func(io.Writer) error, done func(error)) {
	n, from := p.n, p.life
	n.w.post(fmt.Sprintf("s/%d>%d/%d", from.n.id, to, h.Group), time.Millisecond, func() {
		var buf bytes.Buffer
		if !from.alive {
			done(errDown)
			return
		}
		if err := write(&buf); err != nil {
			done(err)
			return
		}
		n.w.after(n.w.scaled(time.Millisecond, 2*time.Second), "snapshot", func() { n.arriveSnapshot(from, to, h, &buf, done) })
	})
}

func (n *network) arriveSnapshot(from *life, to shard.NodeID, h *pb.SnapshotHeader, buf *bytes.Buffer, done func(error)) {
	l, t := n.link(from.n.id, to), n.w.node(to)
	if l.cut || t.paused || t.life == nil || !from.alive || n.w.roll(l.drop) {
		done(errCut)
		return
	}
	n.w.stats.Snapshots++
	err := t.life.host.HandleSnapshot(from.n.id, h, buf)
	done(err)
}

var _ raftgroup.Sender = (*port)(nil)

// call is one call under way. It belongs to the loop.
type call struct {
	n        *network
	from     *life
	to       shard.NodeID
	body     []byte
	key      string
	ctx      context.Context
	deadline time.Time
	cb       func(*pb.PeerResponse, error)
	stop     func() bool
	sent     bool
	done     bool
	question bool    // to the oracle, for what is current
	twins    []*call // get the same answer
	settled  bool    // there was one, or none will come
}

// Call implements router.Peers.
func (p *port) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	type result struct {
		resp *pb.PeerResponse
		err  error
	}
	ch := make(chan result, 1)
	p.CallFunc(ctx, to, req, func(resp *pb.PeerResponse, err error) { ch <- result{resp, err} })
	r := <-ch
	return r.resp, r.err
}

// CallFunc implements meta.Caller.
func (p *port) CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	if ctx.Err() != nil {
		cb(nil, fmt.Errorf("%w: %w", shard.ErrTimeout, context.Cause(ctx)))
		return
	}
	out := proto.Clone(req).(*pb.PeerRequest)
	out.Revision, out.Epoch = p.life.client.Revision(), uint64(p.life.client.Epoch())
	body, err := out.MarshalVT()
	if err != nil {
		panic("sim: a request does not marshal: " + err.Error())
	}
	c := &call{n: p.n, from: p.life, to: to, body: body, ctx: ctx, cb: cb, key: callKey(p.life.n.id, to, out)}
	c.question = out.Oracle != nil && out.Oracle.Count == 0
	c.deadline, _ = ctx.Deadline()
	if ctx.Done() != nil {
		c.stop = context.AfterFunc(ctx, func() { p.n.w.post(c.key+"/end", 0, c.expire) })
	}
	p.n.w.post(c.key, 0, c.send)
}

// callKey sorts calls that come at one instant by what they say.
func callKey(from, to shard.NodeID, req *pb.PeerRequest) string {
	plain := proto.Clone(req).(*pb.PeerRequest)
	plain.Revision, plain.Epoch = 0, 0
	if o := plain.Oracle; o != nil { // the asker's name is random, and the number is by the order in which goroutines have come
		o.Asker, o.Seq = 0, 0
	}
	body, err := plain.MarshalVT()
	if err != nil {
		panic("sim: a request does not marshal: " + err.Error())
	}
	return fmt.Sprintf("c/%d>%d/%x", from, to, body)
}

// twin is the call that asks the same question in the same instant: which of the two goroutines has come first is nobody's to say, so that both must fare alike.
func (n *network) twin(c *call) *call {
	if now := time.Now(); n.asked == nil || !now.Equal(n.askedAt) {
		n.askedAt, n.asked = now, map[string]*call{}
	}
	if t := n.asked[c.key]; t != nil && t.from == c.from && !t.settled {
		return t
	}
	n.asked[c.key] = c
	return nil
}

// over reports whether nobody waits for the answer.
func (c *call) over() bool {
	return c.done && !slices.ContainsFunc(c.twins, func(t *call) bool { return !t.done })
}

// finish ends the call and its twins.
func (c *call) finish(resp *pb.PeerResponse, err error) {
	c.settled = true
	for _, t := range append(c.twins, c) {
		t.end(resp, err)
	}
}

func (c *call) end(resp *pb.PeerResponse, err error) {
	if c.done {
		return
	}
	c.done = true
	if c.stop != nil {
		c.stop()
	}
	if err == nil && resp.Error != nil {
		resp, err = nil, pb.ErrorFromPB(resp.Error)
	}
	c.cb(resp, err)
}

// expire ends a call whose caller does not wait any longer.
func (c *call) expire() {
	fate := shard.ErrTimeout
	if c.sent {
		fate = shard.ErrAmbiguous
	}
	c.end(nil, fmt.Errorf("%w: %w", fate, context.Cause(c.ctx)))
}

func (c *call) fail(after time.Duration, err error) {
	c.n.w.after(after, "call fails", func() { c.finish(nil, err) })
}

// lost is what becomes of a call when the stream that it went by breaks.
func (c *call) lost() {
	c.n.w.stats.Lost++
	c.fail(c.n.w.scaled(time.Millisecond, 4*time.Second), fmt.Errorf("%w: %w", shard.ErrAmbiguous, errCut))
}

func (c *call) send() {
	w := c.n.w
	switch {
	case c.done:
		return
	case c.question:
		if t := c.n.twin(c); t != nil {
			t.twins, c.sent = append(t.twins, c), t.sent
			return
		}
	}
	switch {
	case !c.from.alive:
		c.finish(nil, fmt.Errorf("%w: %w", shard.ErrUnavailable, errDown))
		return
	case c.to == c.from.n.id:
		c.sent = true
		c.arrive()
		return
	case w.node(c.to) == nil:
		c.finish(nil, fmt.Errorf("%w: no such node", shard.ErrUnavailable))
		return
	}
	l := c.n.link(c.from.n.id, c.to)
	down := w.node(c.to).life == nil
	if (down || l.cut) && w.roll(0.5) { // known to be away: nothing is sent
		after := time.Millisecond
		if l.cut {
			after = w.scaled(time.Millisecond, 2*time.Second)
		}
		c.fail(after, fmt.Errorf("%w: %w", shard.ErrUnavailable, errDown))
		return
	}
	c.sent = true
	if down || l.cut {
		c.lost()
		return
	}
	at := later(&l.calls, c.n.delay(l))
	w.push(at, "call "+c.key, func() {
		if c.n.link(c.from.n.id, c.to).cut {
			c.lost()
			return
		}
		c.arrive()
	})
}

// later keeps order: nothing arrives before what was sent before.
func later(last *time.Time, d time.Duration) time.Time {
	if at := time.Now().Add(d); at.After(*last) {
		*last = at
	}
	return *last
}

// arrive lets the addressee answer.
func (c *call) arrive() {
	t := c.n.w.node(c.to)
	if t.life == nil {
		c.lost()
		return
	}
	t.receiveOr(c.serve, c.lost)
}

func (c *call) serve(at *life) {
	req := &pb.PeerRequest{}
	if err := req.UnmarshalVT(c.body); err != nil {
		panic("sim: a request does not unmarshal: " + err.Error())
	}
	at.learn(req.Revision, req.Epoch)
	ctx, cancel := at.ctx, context.CancelFunc(func() {})
	if !c.deadline.IsZero() {
		ctx, cancel = context.WithDeadline(at.ctx, c.deadline)
	}
	answered := false
	at.handle(ctx, c.from.n.id, req, func(resp *pb.PeerResponse) {
		out := proto.Clone(resp).(*pb.PeerResponse)
		c.n.w.post(c.key+"/answer", 0, func() {
			cancel()
			if !answered {
				answered = true
				c.answer(at, out)
			}
		})
	})
}

// answer brings the answer back.
func (c *call) answer(at *life, resp *pb.PeerResponse) {
	w := c.n.w
	if c.over() {
		return
	}
	if at == c.from {
		c.finish(resp, nil)
		return
	}
	if !at.alive {
		c.lost()
		return
	}
	rev, epoch := at.client.Revision(), at.client.Epoch()
	l := c.n.link(c.to, c.from.n.id)
	if l.cut {
		c.lost()
		return
	}
	at2 := later(&l.calls, c.n.delay(l))
	w.push(at2, "answer "+c.key, func() {
		if l.cut {
			c.lost()
			return
		}
		c.from.n.receive(func(to *life) {
			if to == c.from {
				to.learn(rev, uint64(epoch))
			}
			c.finish(resp, nil)
		})
	})
}
