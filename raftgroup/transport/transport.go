package transport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// Handler takes what arrives. raftgroup.Host implements it.
type Handler interface {
	// HandleFrame takes a frame and owns it. Called on the stream's goroutine: while it
	// blocks, flow control holds the sender back.
	HandleFrame(from shard.NodeID, f *pb.RaftFrame)
	// HandleSnapshot reads a snapshot to its end. Its error is told to the sender.
	HandleSnapshot(from shard.NodeID, h *pb.SnapshotHeader, r io.Reader) error
	// PeerUnreachable says that frames to node were dropped or that its stream has ended.
	// Called on a goroutine of the transport, at most every unreachableEvery per node.
	PeerUnreachable(node shard.NodeID)
}

// Config configures a Transport. Zero values take the defaults.
type Config struct {
	// Node is this node's id. Frames to it are dropped.
	Node shard.NodeID
	// Dial and DialSnapshot return the connections for frames and for snapshots
	// (peer.Dialer.For with ClassRaft and ClassBulk). Must not block.
	Dial         func(shard.NodeID) (grpc.ClientConnInterface, error)
	DialSnapshot func(shard.NodeID) (grpc.ClientConnInterface, error)
	// Handler takes what arrives. Without one it is dropped.
	Handler Handler
	Logger  *slog.Logger

	// QueueFrames and QueueBytes bound what waits for one peer; beyond them frames are
	// dropped. Defaults 4096 and 64 MiB.
	QueueFrames, QueueBytes int
	// FrameBytes is the size up to which queued frames are sent as one. Default 1 MiB.
	FrameBytes int

	// ChunkBytes is the size of a snapshot's messages. Default 1 MiB: on a busy node each waits for its turn.
	ChunkBytes int
	// SnapshotStall is how long a snapshot may make no progress in either direction before it
	// fails. Default 20 s.
	SnapshotStall time.Duration
	// SnapshotFinish is how long the receiver may take after the last chunk. Default 2 min.
	SnapshotFinish time.Duration
	// SnapshotsIn is how many snapshots are received at once; more are refused. Default 4.
	SnapshotsIn int
	// SnapshotRate bounds the bytes of snapshots that are sent in a second, over all of them, and those that are received. 0: no bound.
	SnapshotRate int
}

const unreachableEvery = 50 * time.Millisecond

// Stats counts what the transport has done since it was made.
type Stats struct {
	FramesSent, BytesSent         uint64 // coalesced frames as they travelled
	FramesDropped                 uint64 // frames given to Send that were not sent, as far as is known
	FramesReceived                uint64
	SnapshotsSent, SnapshotErrors uint64
	SnapshotsReceived             uint64
	// SnapshotBytesSent and SnapshotBytesReceived are of snapshots, also of those that failed later.
	SnapshotBytesSent, SnapshotBytesReceived uint64
}

type counters struct {
	framesSent, bytesSent, framesDropped, framesReceived atomic.Uint64
	snapshotsSent, snapshotErrors, snapshotsReceived     atomic.Uint64
	snapshotBytesSent, snapshotBytesReceived             atomic.Uint64
}

// Transport implements raftgroup.Sender and peer.RaftService.
type Transport struct {
	cfg   Config
	count counters

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // snapshots being sent, the notifier

	snapshotsIn chan struct{} // tokens
	out, in     pace          // of snapshots
	notifyWake  chan struct{}

	mu struct {
		sync.Mutex
		peers       map[shard.NodeID]*peer.SendQueue[*pb.RaftFrame]
		unreachable map[shard.NodeID]bool // to be reported
		closed      bool
	}
}

var _ peer.RaftService = (*Transport)(nil)

// New starts a transport. Nothing is dialled before something is sent.
func New(cfg Config) *Transport {
	cfg.setDefaults()
	t := &Transport{
		cfg:         cfg,
		snapshotsIn: make(chan struct{}, cfg.SnapshotsIn),
		notifyWake:  make(chan struct{}, 1),
		out:         pace{rate: cfg.SnapshotRate, now: time.Now},
		in:          pace{rate: cfg.SnapshotRate, now: time.Now},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.mu.peers = make(map[shard.NodeID]*peer.SendQueue[*pb.RaftFrame])
	t.mu.unreachable = make(map[shard.NodeID]bool)
	t.wg.Go(t.notify)
	return t
}

func (c *Config) setDefaults() {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.QueueFrames, 4096)
	def(&c.QueueBytes, 64<<20)
	def(&c.FrameBytes, 1<<20)
	def(&c.ChunkBytes, 1<<20)
	def(&c.SnapshotsIn, 4)
	if c.SnapshotStall <= 0 {
		c.SnapshotStall = 20 * time.Second
	}
	if c.SnapshotFinish <= 0 {
		c.SnapshotFinish = 2 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats returns the counters.
func (t *Transport) Stats() Stats {
	return Stats{
		FramesSent:        t.count.framesSent.Load(),
		BytesSent:         t.count.bytesSent.Load(),
		FramesDropped:     t.count.framesDropped.Load(),
		FramesReceived:    t.count.framesReceived.Load(),
		SnapshotsSent:     t.count.snapshotsSent.Load(),
		SnapshotErrors:    t.count.snapshotErrors.Load(),
		SnapshotsReceived: t.count.snapshotsReceived.Load(),

		SnapshotBytesSent:     t.count.snapshotBytesSent.Load(),
		SnapshotBytesReceived: t.count.snapshotBytesReceived.Load(),
	}
}

// Close drops what is queued, breaks off snapshots and waits. Streams that others opened end
// with the gRPC server.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.mu.closed = true
	peers := t.mu.peers
	t.mu.peers = nil
	t.mu.Unlock()
	t.cancel()
	for _, p := range peers {
		p.Close()
	}
	t.wg.Wait()
	return nil
}

// Send queues a frame for a node and owns it from now on, its messages included, which it releases. It never blocks; a frame that finds
// no room is dropped and the handler is told.
func (t *Transport) Send(to shard.NodeID, f *pb.RaftFrame) {
	q := t.queue(to)
	if q == nil || !q.Send(f, f.SizeVT()) {
		t.dropped(to, 1)
	}
}

// queue returns the queue for a node, nil when there can be none.
func (t *Transport) queue(to shard.NodeID) *peer.SendQueue[*pb.RaftFrame] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed || to == t.cfg.Node {
		return nil
	}
	if q := t.mu.peers[to]; q != nil {
		return q
	}
	logger := t.cfg.Logger.With("peer", to.String())
	down := &downLog{logger: logger}
	q := peer.NewSendQueue(peer.SendQueueConfig[*pb.RaftFrame]{
		Open: func(ctx context.Context) (peer.Link[*pb.RaftFrame], error) {
			link, err := t.open(ctx, to)
			if err == nil {
				down.up()
			}
			return link, err
		},
		Down: func(err error, lost int) {
			down.report(err)
			t.dropped(to, lost)
		},
		ItemsMax: t.cfg.QueueFrames,
		BytesMax: t.cfg.QueueBytes,
	})
	t.mu.peers[to] = q
	return q
}

// open opens the stream of frames to a node.
func (t *Transport) open(ctx context.Context, to shard.NodeID) (peer.Link[*pb.RaftFrame], error) {
	var none peer.Link[*pb.RaftFrame]
	conn, err := t.cfg.Dial(to)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := pb.NewPeerClient(conn).Raft(ctx)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if err != nil {
		cancel()
		return none, err
	}
	return peer.OneWay(stream, cancel, func(frames []*pb.RaftFrame) error { return t.sendFrames(stream, frames) }), nil
}

// sendFrames sends frames as few messages of about FrameBytes.
func (t *Transport) sendFrames(stream pb.Peer_RaftClient, frames []*pb.RaftFrame) error {
	for i := 0; i < len(frames); {
		f := frames[i]
		size := f.SizeVT()
		for i++; i < len(frames); i++ {
			more := frames[i].SizeVT()
			if size+more > t.cfg.FrameBytes {
				break
			}
			merge(f, frames[i])
			size += more
		}
		f.FromNode = uint64(t.cfg.Node)
		err := stream.Send(f)
		f.ReleaseMessages() // they have been encoded, or nobody will
		if err != nil {
			t.count.framesDropped.Add(uint64(1 + len(frames) - i))
			return err
		}
		t.count.framesSent.Add(1)
		t.count.bytesSent.Add(uint64(size))
	}
	return nil
}

// merge appends what is in src to dst, in order. Both are of one life of this process.
func merge(dst, src *pb.RaftFrame) {
	dst.Messages, src.Messages = append(dst.Messages, src.Messages...), nil // each has one owner
	dst.Heartbeats = append(dst.Heartbeats, src.Heartbeats...)
	dst.Rounds = append(dst.Rounds, src.Rounds...)
	dst.Alive = dst.Alive || src.Alive
	dst.Boot = max(dst.Boot, src.Boot)
}

// ServeRaft implements peer.RaftService.
func (t *Transport) ServeRaft(from shard.NodeID, stream pb.Peer_RaftServer) error {
	for {
		f, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		t.count.framesReceived.Add(1)
		f.FromNode = uint64(from)
		if t.cfg.Handler != nil {
			t.cfg.Handler.HandleFrame(from, f)
		}
	}
}

// dropped counts lost frames and has the handler told.
func (t *Transport) dropped(to shard.NodeID, frames int) {
	t.count.framesDropped.Add(uint64(frames))
	t.mu.Lock()
	t.mu.unreachable[to] = true
	t.mu.Unlock()
	select {
	case t.notifyWake <- struct{}{}:
	default:
	}
}

// notify tells the handler of unreachable peers. It is apart from everything else because the
// handler may take its own locks, and because nobody who drops may wait for it.
func (t *Transport) notify() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C: // at most one report per unreachableEvery
		case <-t.ctx.Done():
			return
		}
		select {
		case <-t.notifyWake:
		case <-t.ctx.Done():
			return
		}
		t.mu.Lock()
		nodes := t.mu.unreachable
		t.mu.unreachable = make(map[shard.NodeID]bool)
		t.mu.Unlock()
		if t.cfg.Handler != nil {
			for node := range nodes {
				t.cfg.Handler.PeerUnreachable(node)
			}
		}
		pause.Reset(unreachableEvery)
	}
}

// downLog logs the first failure of a row, not every attempt. Used by one goroutine.
type downLog struct {
	logger *slog.Logger
	last   string
}

func (d *downLog) report(err error) {
	text := err.Error()
	if text == d.last {
		return
	}
	if peer.Refused(err) {
		d.logger.Error("the peer refuses this node", "error", text)
	} else if d.last == "" {
		d.logger.Warn("the stream of Raft frames is down", "error", text)
	}
	d.last = text
}

func (d *downLog) up() {
	if d.last != "" {
		d.logger.Info("the stream of Raft frames is up again")
	}
	d.last = ""
}
