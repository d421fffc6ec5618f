package raftgroup

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"
)

// randomMessage is a message with any of its fields.
func randomMessage(r *rand.Rand) *raftpb.Message {
	num := func() *uint64 {
		switch r.IntN(4) {
		case 0:
			return nil
		case 1:
			return new(uint64(0))
		case 2:
			return new(uint64(r.IntN(1000)))
		}
		return new(r.Uint64())
	}
	bytes := func() []byte {
		if r.IntN(3) == 0 {
			return nil
		}
		b := make([]byte, r.IntN(300))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	m := &raftpb.Message{To: num(), From: num(), Term: num(), LogTerm: num(), Index: num(), Commit: num(), RejectHint: num(), Vote: num(), Context: bytes()}
	if r.IntN(4) > 0 {
		m.Type = raftpb.MessageType(r.IntN(len(raftpb.MessageType_name))).Enum()
	}
	if r.IntN(2) == 0 {
		m.Reject = new(r.IntN(2) == 0)
	}
	for range r.IntN(4) {
		e := &raftpb.Entry{Term: num(), Index: num(), Data: bytes()}
		if r.IntN(2) == 0 {
			e.Type = raftpb.EntryType(r.IntN(3)).Enum()
		}
		m.Entries = append(m.Entries, e)
	}
	switch r.IntN(10) {
	case 0:
		m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: num(), Term: num(), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}}}
	case 1:
		m.Responses = []*raftpb.Message{{Index: num()}}
	}
	return m
}

// The messages of other programs that follow raftpb, and ours, mean the same to both.
func TestWireIsRaftpb(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		m := randomMessage(r)
		ours, err := encodeMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		back := &raftpb.Message{}
		if err := proto.Unmarshal(ours, back); err != nil || !proto.Equal(m, back) {
			t.Fatalf("%d: encoded %v, package proto reads %v, %v", i, m, back, err)
		}
		for _, b := range [][]byte{ours, theirs} {
			got, err := decodeMessage(b)
			if err != nil || !proto.Equal(m, got) {
				t.Fatalf("%d: %v decoded to %v, %v", i, m, got, err)
			}
		}
	}
}

// FuzzDecodeMessage: what decodeMessage makes of any bytes is what package proto makes of them.
func FuzzDecodeMessage(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		b, err := encodeMessage(nil, randomMessage(r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte{2<<3 | 0, 1, 2<<3 | 0, 2})                       // a number twice
	f.Add([]byte{7<<3 | 2, 2, 2 << 3, 5, 1 << 3, 0, 7<<3 | 2, 0}) // entries apart from each other
	f.Add([]byte{1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &raftpb.Message{}
		wantErr := proto.Unmarshal(b, want)
		got, err := decodeMessage(b)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("decoded: %v, package proto: %v", err, wantErr)
		}
		if err == nil && !proto.Equal(want, got) {
			t.Fatalf("decoded to %v, package proto says %v", got, want)
		}
	})
}
