package gossip

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

const (
	packetsQueued   = 512
	packetBytesMax  = 1 << 20  // queued for one peer
	packetMax       = 64 << 10 // one packet: a datagram is no larger; memberlist is told to stay far below
	incomingPackets = 1024
	incomingStreams = 16
	relayBytes      = 32 << 10
	lingerTimeout   = 2 * time.Second // for the far side's answer after this side has closed
	addrPort        = 1
)

// addrPrefix begins the address that memberlist sees. Memberlist wants an IP address per node
// and takes a change of it for a conflict; it gets a made-up one that holds the node's id,
// which packets and streams are sent by. The real address is the dialer's business.
var addrPrefix = [8]byte{0xfd, 'p', 'o', 'n', 't', 'o', 'o', 'n'}

func ipOf(node shard.NodeID) net.IP {
	ip := append(make(net.IP, 0, net.IPv6len), addrPrefix[:]...)
	return binary.BigEndian.AppendUint64(ip, uint64(node))
}

func addrOf(node shard.NodeID) *net.TCPAddr { return &net.TCPAddr{IP: ipOf(node), Port: addrPort} }

// nameOf is a node's name in memberlist.
func nameOf(node shard.NodeID) string { return node.String() }

// joinAddr is a node as memberlist's Join wants it.
func joinAddr(node shard.NodeID) string { return nameOf(node) + "/" + addrOf(node).String() }

// nodeOf returns whom a name or an address means.
func nodeOf(name, addr string) (shard.NodeID, error) {
	if name != "" {
		id, err := strconv.ParseUint(name, 16, 64)
		if err != nil {
			return 0, fmt.Errorf("gossip: %q is not a node id", name)
		}
		return shard.NodeID(id), nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, fmt.Errorf("gossip: address %q: %w", addr, err)
	}
	ip := net.ParseIP(host)
	if len(ip) != net.IPv6len || [8]byte(ip[:8]) != addrPrefix {
		return 0, fmt.Errorf("gossip: %q is not a node's address", addr)
	}
	return shard.NodeID(binary.BigEndian.Uint64(ip[8:])), nil
}

// conn is one end of a stream as memberlist uses it: a pipe whose other end is relayed over
// gRPC, which gives it the deadlines that gRPC streams do not have.
type conn struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr implements net.Conn.
func (c conn) RemoteAddr() net.Addr { return c.remote }

// packetStream is what both ends of a GossipStream have in common.
type packetStream interface {
	Send(*pb.GossipPacket) error
	Recv() (*pb.GossipPacket, error)
}

// upload sends what is written to the pipe until its end.
func upload(pipe net.Conn, stream packetStream) {
	buf := make([]byte, relayBytes)
	for {
		n, err := pipe.Read(buf)
		if n > 0 && stream.Send(&pb.GossipPacket{Data: buf[:n]}) != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// download writes what arrives to the pipe until its end. An error of either needs no
// report: memberlist sees its connection end.
func download(pipe net.Conn, stream packetStream) {
	for {
		p, err := stream.Recv()
		if err != nil {
			return
		}
		if _, err := pipe.Write(p.Data); err != nil {
			return
		}
	}
}

// dialStream opens a stream to a node; it is relayed by goroutines counted in wg until it is
// closed or ctx ends.
func dialStream(ctx context.Context, wg *sync.WaitGroup, cc grpc.ClientConnInterface, node shard.NodeID, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	patience := time.AfterFunc(timeout, cancel)
	stream, err := pb.NewPeerClient(cc).GossipStream(ctx)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if !patience.Stop() && err == nil {
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("gossip: stream to node %v: %w", node, err)
	}
	near, far := net.Pipe()
	stop := context.AfterFunc(ctx, func() { _ = far.Close() })
	downloaded := make(chan struct{})
	wg.Go(func() {
		defer close(downloaded)
		download(far, stream)
		_ = far.Close()
	})
	wg.Go(func() {
		defer cancel()
		defer stop()
		upload(far, stream)
		_ = stream.CloseSend()
		linger := time.NewTimer(lingerTimeout)
		defer linger.Stop()
		select {
		case <-downloaded:
		case <-linger.C:
		case <-ctx.Done():
		}
		_ = far.Close()
	})
	return conn{near, addrOf(node)}, nil
}

// ServeStream implements peer.GossipService.
func (t *transport) ServeStream(from shard.NodeID, stream pb.Peer_GossipStreamServer) error {
	near, far := net.Pipe()
	defer far.Close()
	select {
	case t.streams <- conn{near, addrOf(from)}:
	case <-t.ctx.Done():
		return status.Error(codes.Unavailable, "gossip: closed")
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	defer context.AfterFunc(t.ctx, func() { _ = far.Close() })()
	go func() { // a receive ends no later than the handler returns, so it cannot be awaited here
		download(far, stream)
		_ = far.Close() // the far side has closed its connection, not only one direction
	}()
	upload(far, stream)
	return nil
}

// ServePackets implements peer.GossipService.
func (t *transport) ServePackets(from shard.NodeID, stream pb.Peer_GossipPacketsServer) error {
	addr := addrOf(from)
	for {
		p, err := stream.Recv()
		if err != nil {
			return err
		}
		if len(p.Data) > packetMax {
			continue // as a network would
		}
		if !t.deliver(p.Data, addr) {
			return status.Error(codes.Unavailable, "gossip: closed")
		}
	}
}
