package link

import (
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// FuzzFrame: whatever a source says, a sink takes or refuses it.
func FuzzFrame(f *testing.F) {
	body, err := (&pb.LinkBody{Border: &pb.FeedBorder{At: []byte("m"), Child: 3, Generation: 2}, Events: []*pb.Event{{Kv: &pb.KeyValue{Key: []byte("k"), ModRevision: 3}}, {Delete: true, PrevKv: &pb.KeyValue{}}}}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	frame := &pb.LinkFrame{Messages: []*pb.LinkMessage{
		{Attached: &pb.LinkAttached{RangeId: 2, Number: 1, Gap: true, Closed: 2}}, {Item: &pb.LinkItem{Number: 1, Closed: 3, Body: body}}, {Attached: &pb.LinkAttached{RangeId: 3, Number: 2, Parent: 1, Closed: 3}},
		{Closed: &pb.LinkClosed{Revision: 7, AllTo: 9, Except: []uint64{1, 1}}}, {Closed: &pb.LinkClosed{Revision: 8, List: []uint64{1}}}, {Lost: 1}, {Ended: 2},
	}}
	b, err := frame.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := &pb.LinkFrame{}
		if fr.UnmarshalVT(b) != nil {
			return
		}
		k, to := NewSink(), &taker{t: t}
		for id := shard.RangeID(2); id < 6; id++ {
			k.Subscribe(id)
		}
		for range 2 {
			if _, err := k.Take(fr, to); err != nil {
				return
			}
		}
	})
}
