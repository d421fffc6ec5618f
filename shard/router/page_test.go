package router_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// nameless is a cluster of one range, whose replicas nobody knows and whose pages hold a key each.
type nameless struct {
	*fake
	m     *shard.Map
	spans []string // of reads that came with a fence
}

func (n *nameless) Map() *shard.Map { return n.m }

func (n *nameless) Call(_ context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	if to != 0 || req.Fence == nil || len(n.spans) == 3 {
		return nil, fmt.Errorf("%w: node %v is called with %v after %v", shard.ErrInvalid, to, req, n.spans)
	}
	rd := req.Fence.Read
	n.spans = append(n.spans, fmt.Sprintf("%s-%s after %d", rd.Span.Start, rd.Span.End, rd.MinIndex))
	page := &pb.ReadResponse{Kvs: []*pb.KeyValue{{Key: rd.Span.Start}}, Count: -1}
	switch string(rd.Span.Start) {
	case "a":
		page.Resume, page.Count = []byte("b"), 3
	case "b":
		page.Resume = []byte("c")
	}
	return &pb.PeerResponse{Fence: &pb.FenceResponse{Index: uint64(len(n.spans)), Read: page}}, nil
}

// TestAPartIsFencedAgain: where the hint to the leader is lost between two pages, the next one is fenced again,
// and goes on where the last one ended.
func TestAPartIsFencedAgain(t *testing.T) {
	m, err := shard.NewMap(1, []shard.Descriptor{{ID: shard.FirstRangeID, Generation: 1}})
	if err != nil {
		t.Fatal(err)
	}
	n := &nameless{fake: filled(t), m: m}
	r, err := router.New(router.Config{Peers: n, Cluster: n})
	if err != nil {
		t.Fatal(err)
	}
	res := mustRange(t, r, &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("d")})
	if got := names(res.KVs); got != "a b c " || res.Count != 3 {
		t.Errorf("read %s, counted %d", got, res.Count)
	}
	if got := fmt.Sprint(n.spans); got != "[a-d after 0 b-d after 1 c-d after 2]" {
		t.Errorf("pages %s", got)
	}
}

// meter counts, and ends a read that has taken too much.
type meter struct{ took, most int64 }

func (m *meter) Took(_ context.Context, bytes int64) error {
	if m.took += bytes; m.took > m.most {
		return shard.ErrTooManyRequests
	}
	return nil
}

// TestAReadIsMetered: each page of an answer is told of, and a read goes no further than it is let.
func TestAReadIsMetered(t *testing.T) {
	m, err := shard.NewMap(1, []shard.Descriptor{{ID: shard.FirstRangeID, Generation: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, most := range []int64{1 << 20, 100} {
		n := &nameless{fake: filled(t), m: m}
		r, err := router.New(router.Config{Peers: n, Cluster: n})
		if err != nil {
			t.Fatal(err)
		}
		told := &meter{most: most}
		res, err := r.Range(router.WithMeter(t.Context(), told), &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("d")}, false)
		if most == 100 {
			if !errors.Is(err, shard.ErrTooManyRequests) || len(n.spans) != 2 {
				t.Errorf("it went on after %v with %v", n.spans, err)
			}
			continue
		}
		if err != nil || len(res.KVs) != 3 || told.took != 3*65 {
			t.Errorf("%v: told of %d bytes, %v", res, told.took, err)
		}
	}
}
