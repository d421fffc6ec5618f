package server

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/etcdapi"
	"pontoon/internal/pb"
	"pontoon/shard"
)

func sampleMap(t testing.TB) *shard.Map {
	m, err := shard.NewMap(4, []shard.Descriptor{
		{ID: 2, Generation: 1, Span: shard.Span{End: []byte("m")}, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}}},
		{ID: 3, Generation: 2, Span: shard.Span{Start: []byte("m")}, Replicas: []shard.Replica{{ID: 3, Node: 3, Learner: true}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// FuzzSavedMap: the file of the saved range map is refused or read as a map that is saved again as
// the same bytes say; with its checksum in place nothing else protects the decoder.
func FuzzSavedMap(f *testing.F) {
	dir := f.TempDir()
	if err := saveMap(dir, sampleMap(f)); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, savedMapFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add(good[:len(good)-2], false)
	f.Add(good[len(savedMapMagic)+4:], true)
	f.Fuzz(func(t *testing.T, b []byte, wrap bool) {
		if wrap {
			b = sealMap(b)
		}
		m, err := decodeMap(b)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := saveMap(dir, m); err != nil {
			t.Fatal(err)
		}
		again, err := loadMap(dir)
		if err != nil || again.Version() != m.Version() || len(again.All()) != len(m.All()) {
			t.Fatalf("%v came back as %v, %v", m.All(), again, err)
		}
	})
}

// TestSavedMapDamage flips every bit and cuts at every length.
func TestSavedMapDamage(t *testing.T) {
	dir := t.TempDir()
	if err := saveMap(dir, sampleMap(t)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, savedMapFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := decodeMap(bad); err == nil {
				t.Fatalf("bit %d of byte %d changed, and it was taken", bit, i)
			}
		}
		if _, err := decodeMap(good[:i]); err == nil {
			t.Fatalf("cut at %d, and it was taken", i)
		}
	}
}

// FuzzVetClient: what a routing client sends is refused, or made anew from what it may say; that
// passes again unchanged.
func FuzzVetClient(f *testing.F) {
	key := &pb.Span{Start: []byte("k"), End: []byte("l")}
	for _, req := range []*pb.PeerRequest{
		{Write: &pb.WriteRequest{RangeId: 2, Generation: 1, Op: &pb.Op{Put: &pb.PutOp{Key: []byte("k")}}}},
		{Fence: &pb.FenceRequest{RangeId: 2, Span: key, Revision: 4, Epoch: 2, Read: &pb.ReadRequest{Span: key, Revision: 3}}},
		{Read: &pb.ReadRequest{Span: key, Revision: 3, MaxBytes: -1, Limit: -5}},
		{Oracle: &pb.OracleRequest{}}, {Descriptors: &pb.DescriptorsRequest{}}, {Compact: &pb.CompactRequest{Revision: 9}},
		{Write: &pb.WriteRequest{}}, {Fence: &pb.FenceRequest{}}, {Hash: &pb.HashRequest{}},
	} {
		b, err := req.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	limits := etcdapi.Limits{MaxRequestBytes: 4096, MaxTxnOps: 8}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &pb.PeerRequest{}
		if req.UnmarshalVT(b) != nil {
			return
		}
		once, err := vetClient(req, limits)
		if err != nil {
			return
		}
		if _, err := once.MarshalVT(); err != nil {
			t.Fatal(err)
		}
		again, err := vetClient(once, limits)
		if err != nil || !proto.Equal(once, again) {
			t.Fatalf("%v became %v, %v", once, again, err)
		}
		_, _ = rangeOf(once)
	})
}

// FuzzFeedFrame: whatever a frame of another node's feed says becomes an item.
func FuzzFeedFrame(f *testing.F) {
	frame := &pb.FeedFrame{Closed: 9, Events: []*pb.Event{{Kv: &pb.KeyValue{Key: []byte("k"), ModRevision: 3}}, {Delete: true, PrevKv: &pb.KeyValue{}}}}
	b, err := frame.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := &pb.FeedFrame{}
		if fr.UnmarshalVT(b) != nil {
			return
		}
		if item := frameToHub(fr); len(item.Events) != len(fr.Events) {
			t.Fatalf("%d events of %d", len(item.Events), len(fr.Events))
		}
	})
}
