package front

import (
	"testing"

	"pontoon/internal/pb"
)

// FuzzFeedFrame: whatever a frame of another node's feed says becomes an item.
func FuzzFeedFrame(f *testing.F) {
	frame := &pb.FeedFrame{Closed: 9, Border: &pb.FeedBorder{At: []byte("m"), Child: 3, Generation: 2}, Events: []*pb.Event{{Kv: &pb.KeyValue{Key: []byte("k"), ModRevision: 3}}, {Delete: true, PrevKv: &pb.KeyValue{}}}}
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
		if item := frameToItem(fr); len(item.Events) != len(fr.Events) {
			t.Fatalf("%d events of %d", len(item.Events), len(fr.Events))
		}
	})
}
