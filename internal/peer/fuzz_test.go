package peer

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// travels lists a fresh message of every kind that peers and routing clients exchange.
func travels() []message {
	return []message{
		&pb.PeerFrame{}, &pb.PeerRequest{}, &pb.PeerResponse{}, &pb.RaftFrame{}, &pb.SnapshotChunk{}, &pb.SnapshotResult{},
		&pb.LinkRequest{}, &pb.LinkFrame{}, &pb.LinkBody{}, &pb.GossipPacket{}, &pb.DiscoverRequest{}, &pb.DiscoverResponse{},
		&pb.Entry{}, &pb.MetaEntry{}, &pb.MetaState{},
	}
}

// FuzzCodec: bytes are refused or read, whole or in pieces, as the same message; what was read is
// written, and read again as what it was. What is in it converts to our own types.
func FuzzCodec(f *testing.F) {
	for _, m := range []message{
		&pb.PeerFrame{Requests: []*pb.PeerRequest{{Id: 1, Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{Key: []byte("k")}}}}}},
		&pb.PeerFrame{Responses: []*pb.PeerResponse{{Id: 1, Error: &pb.Error{Code: 3, Descriptors: []*pb.Descriptor{{RangeId: 4}}}}}},
		&pb.RaftFrame{Heartbeats: []*pb.Heartbeat{{Group: 1, Commit: 4}}, Messages: []*pb.GroupMessage{{Group: 1}}, Rounds: []*pb.ProofRound{{Seq: 1}}},
		&pb.SnapshotChunk{Data: []byte("data"), Crc: 9, Done: true},
		&pb.LinkFrame{Messages: []*pb.LinkMessage{{Attached: &pb.LinkAttached{RangeId: 2, Number: 1, Gap: true}}, {Item: &pb.LinkItem{Number: 1, Closed: 7, Body: []byte("b")}}, {Closed: &pb.LinkClosed{Revision: 7, AllTo: 9, Except: []uint64{1, 2}}}}},
		&pb.LinkBody{Events: []*pb.Event{{Kv: &pb.KeyValue{Key: []byte("k")}}}},
		&pb.DiscoverResponse{Members: []*pb.Member{{Id: 3}}, Meta: &pb.Descriptor{RangeId: 1}},
	} {
		data, err := codec{}.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		b := data.Materialize()
		f.Add(b, uint8(3))
		f.Add(b[:len(b)/2], uint8(1))
		bad := bytes.Clone(b)
		bad[len(bad)/2] ^= 0x80
		f.Add(bad, uint8(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		at := min(int(cut), len(b))
		pieces := travels()
		for i, m := range travels() {
			err := codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
			again := codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b[:at]), mem.SliceBuffer(b[at:])}, pieces[i])
			if (err == nil) != (again == nil) {
				t.Fatalf("%T: whole %v, in pieces %v", m, err, again)
			}
			if err != nil {
				continue
			}
			once, err := codec{}.Marshal(m)
			if err != nil {
				t.Fatalf("%T was read and cannot be written: %v", m, err)
			}
			if err := (codec{}).Unmarshal(once, travels()[i]); err != nil {
				t.Fatalf("%T: what was written cannot be read: %v", m, err)
			}
			convert(m)
		}
	})
}

// convert does what receivers do with a message first.
func convert(m message) {
	switch m := m.(type) {
	case *pb.PeerResponse:
		if err := pb.ErrorFromPB(m.Error); err != nil {
			_ = pb.ErrorToPB(err)
		}
		_, _ = shard.NewMap(m.Descriptors.GetVersion(), pb.ToDescriptors(m.Descriptors.GetRanges()))
	case *pb.PeerRequest:
		_ = pb.ToSpan(m.Read.GetSpan()).Empty()
		_ = pb.ToSpan(m.Fence.GetSpan()).IsPoint()
		_ = pb.ToSpans(m.History.GetSpans())
	case *pb.DiscoverResponse:
		_ = pb.ToMembers(m.Members)
		_ = pb.ToDescriptor(m.Meta)
	}
}

// FuzzIdentity: the metadata of a stream names another node of this cluster, or is refused.
func FuzzIdentity(f *testing.F) {
	id := Identity{ClusterID: 7, Node: 3}
	good := Identity{ClusterID: 7, Node: 2}.outgoing(3)
	f.Add(first(good, keyCluster), first(good, keyFrom), first(good, keyTo), first(good, keyFormat))
	f.Add("7", "0", "3", "1")
	f.Add("ffffffffffffffff", "-2", "", "01")
	f.Fuzz(func(t *testing.T, cluster, from, to, format string) {
		node, err := id.check(metadata.Pairs(keyCluster, cluster, keyFrom, from, keyTo, to, keyFormat, format))
		if (err == nil) != (node != 0) || node == id.Node {
			t.Fatalf("taken for node %v, %v", node, err)
		}
	})
}
