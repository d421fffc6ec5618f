package replica

import (
	"context"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// compactedOnce is an oracle, and two ranges of which one says, the first time, that the revision which
// was chosen has been compacted meanwhile.
type compactedOnce struct {
	nopOracle
	rev  int64
	said bool
}

func (c *compactedOnce) CurrentFunc(cb func(int64, shard.Epoch, error)) {
	c.rev++
	cb(c.rev, 1, nil)
}

func (c *compactedOnce) Map() *shard.Map {
	left, right := testDesc, testDesc
	left.Span.End = []byte("m")
	right.ID, right.Span.Start = 3, []byte("m")
	m, err := shard.NewMap(1, []shard.Descriptor{left, right})
	if err != nil {
		panic(err)
	}
	return m
}

func (c *compactedOnce) CallKey(_ context.Context, key []byte, build func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error) {
	m := c.Map()
	req := build(m.Lookup(key))
	if string(key) == "z" && !c.said {
		c.said = true
		return nil, &shard.CompactedError{Revision: req.Fence.Revision + 1}
	}
	return &pb.PeerResponse{Fence: &pb.FenceResponse{Read: &pb.ReadResponse{}}}, nil
}

// TestReadOnlyTxnIsNeverCompacted: who names no revision does not hear of compactions; the
// transaction is read again at a newer one.
func TestReadOnlyTxnIsNeverCompacted(t *testing.T) {
	c := &compactedOnce{rev: 6}
	cfg, err := Config{Desc: testDesc, Self: testDesc.Replicas[0], Dir: "x", Host: nopGroup{}, Oracle: c, Ranges: c, Patience: time.Minute}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r := &Replica{cfg: cfg}
	resp, err := r.readMulti(t.Context(), txn(nil, []*pb.Op{get("a"), get("z")}, nil))
	if err != nil || resp.Revision != 8 {
		t.Errorf("%v, %v", resp, err)
	}
}
