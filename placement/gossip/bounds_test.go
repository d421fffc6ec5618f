package gossip

import (
	"testing"

	"google.golang.org/grpc"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

// TestInboxIsBounded: messages that wait hold no more bytes than they may; what has been taken in counts no more.
func TestInboxIsBounded(t *testing.T) {
	g := &Gossip{inbox: make(chan []byte, inboxMax)}
	large := make([]byte, inboxBytesMax/4)
	for range 10 {
		g.post(large)
	}
	if n := len(g.inbox); n != 4 {
		t.Fatalf("%d messages of a quarter of the bound each", n)
	}
	for range 2 {
		g.taken(<-g.inbox)
	}
	for range 10 {
		g.post(large)
	}
	if n := len(g.inbox); n != 4 {
		t.Fatalf("%d messages after two of them were taken", n)
	}
}

// TestLargePacketIsDropped: a packet is as large as a datagram at most; one that is larger is dropped, as a network
// would, and the stream goes on.
func TestLargePacketIsDropped(t *testing.T) {
	net := peertest.NewNet()
	dialer := net.Dialer(t, 1)
	tr := newTransport(2, func(shard.NodeID) (grpc.ClientConnInterface, error) { return nil, peer.ErrUnknownNode }, func(shard.NodeID, bool) {})
	defer tr.Shutdown()
	net.Serve(t, 2, nil, nil, tr)
	cc, err := dialer.Conn(2, peer.ClassGossip)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := pb.NewPeerClient(cc).GossipPackets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{packetMax + 1, packetMax, 3} {
		if err := stream.Send(&pb.GossipPacket{Data: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{packetMax, 3} {
		if p := <-tr.PacketCh(); len(p.Buf) != want {
			t.Errorf("a packet of %d bytes, want %d", len(p.Buf), want)
		}
	}
}
