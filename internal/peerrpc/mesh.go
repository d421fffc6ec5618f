package peerrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// Handler answers calls. It must not block; reply is called once, from any goroutine, and
// owns the response, which must not be written afterwards. ctx ends with the caller's patience
// or its connection.
type Handler func(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse))

// Dial returns the connection to a node without blocking, as peer.Dialer.For does.
type Dial func(shard.NodeID) (grpc.ClientConnInterface, error)

// Config configures a Mesh. Zero values take the defaults.
type Config struct {
	// Node is this node's id: calls to it are local.
	Node shard.NodeID
	// Dial is for calls (peer.ClassCalls), DialFeed for links (peer.ClassFeed; default Dial).
	Dial, DialFeed Dial
	// Open opens a stream of calls on a connection. Default: on the peer port. A routing client
	// gives peer.OpenClientCalls.
	Open func(ctx context.Context, cc grpc.ClientConnInterface) (pb.Peer_CallsClient, error)
	// Handler answers calls, Link serves links. Without one they end with shard.ErrUnavailable.
	Handler Handler
	Link    LinkHandler
	// Hints returns the newest revision and the highest epoch that this node has seen; every
	// message carries them. Learn is told what a message of another node carried. Both are
	// optional, are called often and must not block.
	Hints func() (rev int64, epoch uint64)
	Learn func(from shard.NodeID, rev int64, epoch uint64)
	// CallsMax and BytesMax bound the calls to one peer that have no answer yet, and likewise
	// those of one stream of a peer that are being served, by the bytes of their requests. Beyond them calls
	// fail with shard.ErrTooManyRequests. One call of any size is always let in. While more than BytesMax of answers
	// have not left for the peer, its requests are not received. Defaults 65536 and 256 MiB.
	CallsMax, BytesMax int
	// FrameBytes is the size up to which messages share a frame. Default 1 MiB.
	FrameBytes int
	// OpenTimeout bounds the opening of a stream, and so how long a call may wait for a
	// peer that does not answer. Default 2 s.
	OpenTimeout time.Duration
	// SilenceTick: a peer that has calls to answer and has sent nothing for two ticks is
	// probed, and after eight its stream is broken; after sixteen, if its system acknowledges what is sent: who is that busy may answer
	// yet, and of every call that is broken off nobody knows whether it took effect. Default 500 ms.
	SilenceTick time.Duration
	// Acknowledged is how long ago a peer's system has acknowledged anything; it must not block. nil, or false: nobody knows.
	Acknowledged func(shard.NodeID) (ago time.Duration, known bool)
	// Relays names nodes that may reach a node which this one cannot; it must not block. nil:
	// calls take no detour, and those of others are not passed on.
	Relays func(to shard.NodeID) []shard.NodeID
	Logger *slog.Logger
}

const (
	probeTicks = 2
	deadTicks  = 8
	busyTicks  = 16
)

// Stats counts what a mesh has done since it was made.
type Stats struct {
	CallsSent, FramesSent, BytesSent        uint64 // to other nodes; fewer frames than calls: they were gathered
	CallsFailed                             uint64 // without an answer
	CallsServed, AnswerFrames, AnswerBytes  uint64 // for other nodes
	ServedRefused                           uint64 // of other nodes: too many are being served
	LocalCalls, CallsRefused, StreamsOpened uint64
	CallsDetoured, CallsRelayed             uint64 // sent by way of another node; passed on for another
}

type counters struct {
	callsSent, framesSent, bytesSent, callsFailed atomic.Uint64
	callsServed, answerFrames, answerBytes        atomic.Uint64
	servedRefused                                 atomic.Uint64
	localCalls, callsRefused, streamsOpened       atomic.Uint64
	callsDetoured, callsRelayed                   atomic.Uint64
}

// Mesh calls other nodes and serves their calls. It implements peer.CallService.
type Mesh struct {
	cfg    Config
	count  counters
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	busy   atomic.Int32 // who is handing out answers: senders are woken when it is done

	farewell farewell
	mu       struct {
		sync.Mutex
		conns  map[shard.NodeID]*conn
		closed bool
	}
}

var _ peer.CallService = (*Mesh)(nil)

// errSilent breaks the stream to a peer that no longer answers.
var errSilent = errors.New("peerrpc: the peer has gone silent")

// New starts a mesh. Nothing is dialled before something is called.
func New(cfg Config) *Mesh {
	cfg.setDefaults()
	m := &Mesh{cfg: cfg}
	m.farewell.init()
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.conns = make(map[shard.NodeID]*conn)
	m.wg.Go(m.watch)
	return m
}

func (c *Config) setDefaults() {
	if c.CallsMax <= 0 {
		c.CallsMax = 65536
	}
	if c.BytesMax <= 0 {
		c.BytesMax = 256 << 20
	}
	if c.FrameBytes <= 0 {
		c.FrameBytes = 1 << 20
	}
	if c.OpenTimeout <= 0 {
		c.OpenTimeout = 2 * time.Second
	}
	if c.SilenceTick <= 0 {
		c.SilenceTick = 500 * time.Millisecond
	}
	if c.DialFeed == nil {
		c.DialFeed = c.Dial
	}
	if c.Open == nil {
		c.Open = func(ctx context.Context, cc grpc.ClientConnInterface) (pb.Peer_CallsClient, error) {
			return pb.NewPeerClient(cc).Calls(ctx)
		}
	}
	if c.Hints == nil {
		c.Hints = func() (int64, uint64) { return 0, 0 }
	}
	if c.Learn == nil {
		c.Learn = func(shard.NodeID, int64, uint64) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats returns the counters.
func (m *Mesh) Stats() Stats {
	c := &m.count
	return Stats{
		CallsSent: c.callsSent.Load(), FramesSent: c.framesSent.Load(), BytesSent: c.bytesSent.Load(),
		CallsFailed: c.callsFailed.Load(),
		CallsServed: c.callsServed.Load(), AnswerFrames: c.answerFrames.Load(), AnswerBytes: c.answerBytes.Load(),
		ServedRefused: c.servedRefused.Load(), LocalCalls: c.localCalls.Load(), CallsRefused: c.callsRefused.Load(), StreamsOpened: c.streamsOpened.Load(),
		CallsDetoured: c.callsDetoured.Load(), CallsRelayed: c.callsRelayed.Load(),
	}
}

// Close fails every call without an answer and waits. Streams that others opened end with the
// gRPC server.
func (m *Mesh) Close() error {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
	return nil
}

// Call sends a request to a node and waits for the answer or for the end of ctx. The request
// is not touched after Call returns, unless it was local: then the handler may still read it.
func (m *Mesh) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	type result struct {
		resp *pb.PeerResponse
		err  error
	}
	ch := make(chan result, 1)
	h := m.start(ctx, to, req, func(resp *pb.PeerResponse, err error) { ch <- result{resp, err} }, false)
	r, err := patience.Wait(ctx, ch)
	if err != nil {
		h.giveUp(ctx)
		r = <-ch
	}
	return r.resp, r.err
}

// CallFunc sends a request and returns; cb is called exactly once with the answer or an error,
// at the latest soon after ctx ends, or SilenceTick after the deadline of one whose Done is nil. cb must
// not block. It may run before CallFunc returns. The request is encoded before CallFunc returns, and may be
// used again, unless it is local.
func (m *Mesh) CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	m.start(ctx, to, req, cb, true)
}

// Tell sends a request that is not answered: it may be lost, and nobody hears of it. It does not block.
func (m *Mesh) Tell(to shard.NodeID, req *pb.PeerRequest) {
	if to == m.cfg.Node {
		m.callLocal(m.ctx, req, func(*pb.PeerResponse, error) {}, false)
		return
	}
	body, err := encodeBody(req)
	if err != nil {
		m.count.callsRefused.Add(1)
		return
	}
	p, body, _ := m.route(to, body)
	if p == nil || !p.post(body) {
		m.count.callsRefused.Add(1)
	}
}

// handle is a call under way, for who waits for it. The zero handle is of one that is over.
type handle struct {
	local *localCall
	p     *conn
	id    uint64
}

// giveUp ends the call, if it is not over: ctx has ended.
func (h handle) giveUp(ctx context.Context) {
	switch {
	case h.local != nil:
		h.local.giveUp(ctx)
	case h.p != nil:
		h.p.expire(ctx, h.id)
	}
}

// start sends a request. With watch set the end of ctx ends the call; otherwise the caller gives
// up then.
func (m *Mesh) start(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error), watch bool) handle {
	if ctx.Err() != nil {
		cb(nil, unsentError(context.Cause(ctx)))
		return handle{}
	}
	if to == m.cfg.Node {
		return handle{local: m.callLocal(ctx, req, cb, watch)}
	}
	body, err := encodeBody(req)
	if err != nil {
		cb(nil, err)
		return handle{}
	}
	p, body, went := m.route(to, body)
	if went != nil {
		inner := cb
		cb = func(resp *pb.PeerResponse, err error) {
			went(err)
			inner(resp, err)
		}
	}
	return m.send(ctx, to, p, body, cb, watch)
}

// route returns the calls by which an encoded request for a node goes, nil once the mesh is closed, and the
// request, which names the node where they are another's. Then went is to be told how the call went.
func (m *Mesh) route(to shard.NodeID, body []byte) (_ *conn, _ []byte, went func(error)) {
	p := m.conn(to)
	if via, turn := m.detour(p); via != nil {
		return via, pb.AppendUint(body, fieldRelayTo, uint64(to)), func(err error) { p.detoured(turn, err) }
	}
	return p, body, nil
}

// send queues an encoded request.
func (m *Mesh) send(ctx context.Context, to shard.NodeID, p *conn, body []byte, cb func(*pb.PeerResponse, error), watch bool) handle {
	c := &call{body: body, cb: cb}
	c.deadline, _ = ctx.Deadline()
	if p == nil {
		m.count.callsFailed.Add(1)
		cb(nil, m.noConn(to))
		return handle{}
	}
	id, err := p.enqueue(ctx, c, watch)
	if err != nil {
		m.count.callsRefused.Add(1)
		cb(nil, err)
		return handle{}
	}
	return handle{p: p, id: id}
}

// conn returns the calls to a node; nil once the mesh is closed, and where none can be made.
func (m *Mesh) conn(to shard.NodeID) *conn {
	m.mu.Lock()
	p, closed := m.mu.conns[to], m.mu.closed
	m.mu.Unlock()
	if p != nil || closed {
		return p
	}
	if _, err := m.cfg.Dial(to); errors.Is(err, peer.ErrUnknownNode) { // whoever asks for made up nodes leaves nothing behind
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return nil
	}
	if p = m.mu.conns[to]; p == nil {
		p = newConn(m, to)
		m.mu.conns[to] = p
		m.wg.Go(p.run)
	}
	return p
}

// noConn says why there is no conn to a node.
func (m *Mesh) noConn(to shard.NodeID) error {
	if m.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", shard.ErrUnavailable, shard.ErrStopped)
	}
	_, err := m.cfg.Dial(to)
	if err == nil { // it has come by now
		err = errors.New("it was not known")
	}
	return fmt.Errorf("%w: node %v: %w", shard.ErrUnavailable, to, err)
}

// watch lets the connections count how long their peers have been silent. Ticks are counted,
// not time, so that a process that was stopped itself does not blame its peers.
func (m *Mesh) watch() {
	ticker := time.NewTicker(m.cfg.SilenceTick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-m.ctx.Done():
			return
		}
		m.mu.Lock()
		conns := make([]*conn, 0, len(m.mu.conns))
		for _, p := range m.mu.conns {
			conns = append(conns, p)
		}
		m.mu.Unlock()
		for _, p := range conns {
			p.tick()
		}
	}
}

// localCall makes sure that a local call is answered once.
type localCall struct {
	done atomic.Bool
	stop func() bool
	cb   func(*pb.PeerResponse, error)
}

func (m *Mesh) callLocal(ctx context.Context, req *pb.PeerRequest, cb func(*pb.PeerResponse, error), watch bool) *localCall {
	m.count.localCalls.Add(1)
	if m.cfg.Handler == nil {
		cb(nil, shard.ErrUnavailable)
		return nil
	}
	c := &localCall{cb: cb}
	if watch && ctx.Done() != nil {
		c.stop = context.AfterFunc(ctx, func() { c.giveUp(ctx) })
	}
	m.cfg.Handler(ctx, m.cfg.Node, req, c.reply)
	return c
}

// giveUp ends the call for its caller: the handler may yet carry it out.
func (c *localCall) giveUp(ctx context.Context) {
	if c.done.CompareAndSwap(false, true) {
		c.cb(nil, shard.GivenUp(context.Cause(ctx)))
	}
}

func (c *localCall) reply(resp *pb.PeerResponse) {
	if !c.done.CompareAndSwap(false, true) {
		return
	}
	if c.stop != nil {
		c.stop()
	}
	c.cb(split(resp))
}

// split returns the answer or the error in it.
func split(resp *pb.PeerResponse) (*pb.PeerResponse, error) {
	if resp == nil {
		return nil, ambiguousError(errors.New("peerrpc: an empty answer"))
	}
	if resp.Error != nil {
		return nil, pb.ErrorFromPB(resp.Error)
	}
	return resp, nil
}

func unsentError(why error) error { return fmt.Errorf("%w: %w", shard.ErrTimeout, why) }

func ambiguousError(why error) error { return fmt.Errorf("%w: %w", shard.ErrAmbiguous, why) }
