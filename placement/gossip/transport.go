package gossip

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/grpc"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// transport is memberlist's transport over the peers' gRPC connections. It implements
// peer.GossipService for the other direction.
type transport struct {
	self shard.NodeID
	dial func(shard.NodeID) (grpc.ClientConnInterface, error)
	link func(node shard.NodeID, up bool) // must not block

	packets chan *memberlist.Packet
	streams chan net.Conn

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     struct {
		sync.Mutex
		queues map[shard.NodeID]*peer.SendQueue[[]byte]
		closed bool
	}
}

// errClosed is returned for a stream of a transport that has ended.
var errClosed = errors.New("gossip: closed")

var _ memberlist.NodeAwareTransport = (*transport)(nil)
var _ peer.GossipService = (*transport)(nil)

func newTransport(self shard.NodeID, dial func(shard.NodeID) (grpc.ClientConnInterface, error), link func(shard.NodeID, bool)) *transport {
	t := &transport{
		self:    self,
		dial:    dial,
		link:    link,
		packets: make(chan *memberlist.Packet, incomingPackets),
		streams: make(chan net.Conn, incomingStreams),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.mu.queues = make(map[shard.NodeID]*peer.SendQueue[[]byte])
	return t
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return ipOf(t.self), addrPort, nil
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. Like a datagram, a packet may be
// lost without a word.
func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	node, err := nodeOf(addr.Name, addr.Addr)
	if err != nil {
		return time.Time{}, err
	}
	packet := append([]byte(nil), b...)
	if node == t.self {
		t.deliver(packet, addrOf(node))
	} else if q := t.queue(node); q != nil {
		q.Send(packet, len(packet))
	}
	return time.Now(), nil
}

// queue returns the queue of packets to a node, nil once the transport is closed.
func (t *transport) queue(node shard.NodeID) *peer.SendQueue[[]byte] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return nil
	}
	q := t.mu.queues[node]
	if q == nil {
		q = peer.NewSendQueue(peer.SendQueueConfig[[]byte]{
			Open: func(ctx context.Context) (peer.Link[[]byte], error) { return t.open(ctx, node) },
			Down: func(error, int) { t.link(node, false) },

			ItemsMax: packetsQueued,
			BytesMax: packetBytesMax,
		})
		t.mu.queues[node] = q
	}
	return q
}

// open opens the stream of packets to a node.
func (t *transport) open(ctx context.Context, node shard.NodeID) (peer.Link[[]byte], error) {
	var none peer.Link[[]byte]
	cc, err := t.dial(node)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := pb.NewPeerClient(cc).GossipPackets(ctx)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if err != nil {
		cancel()
		return none, err
	}
	t.link(node, true)
	return peer.OneWay(stream, cancel, func(packets [][]byte) error {
		for _, p := range packets {
			if err := stream.Send(&pb.GossipPacket{Data: p}); err != nil {
				return err
			}
		}
		return nil
	}), nil
}

// deliver hands a packet to memberlist, and reports false once the transport is closed.
func (t *transport) deliver(b []byte, from net.Addr) bool {
	select {
	case t.packets <- &memberlist.Packet{Buf: b, From: from, Timestamp: time.Now()}:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	node, err := nodeOf(addr.Name, addr.Addr)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	closed := t.mu.closed
	if !closed {
		t.wg.Add(1) // keeps Shutdown waiting while the relay is set up
	}
	t.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	defer t.wg.Done()
	cc, err := t.dial(node)
	if err != nil {
		return nil, err
	}
	return dialStream(t.ctx, &t.wg, cc, node, timeout)
}

// Shutdown implements memberlist.Transport: everything ends, and is waited for.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	t.mu.closed = true
	queues := t.mu.queues
	t.mu.queues = nil
	t.mu.Unlock()
	t.cancel()
	for _, q := range queues {
		q.Close()
	}
	t.wg.Wait()
	for {
		select {
		case c := <-t.streams:
			_ = c.Close()
		default:
			return nil
		}
	}
}
