package replica

import (
	"context"
	"runtime"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

type nopGroup struct{}

func (nopGroup) ProposeFunc(shard.RangeID, uint64, []byte, func(error)) error { return nil }
func (nopGroup) Confirm(shard.RangeID, uint64, func(bool, uint64))            {}
func (nopGroup) Status(shard.RangeID) (raftgroup.Status, bool)                { return raftgroup.Status{}, false }

type nopOracle struct{}

func (nopOracle) Allocate(shard.Ask, func(shard.Now, error)) {}
func (nopOracle) NowFunc(func(shard.Now, error))             {}
func (nopOracle) Compacted() int64                           { return 0 }

// compactedOnce is an oracle, and two ranges of which one says, the first time, that the revision which
// was chosen has been compacted meanwhile.
type compactedOnce struct {
	nopOracle
	rev  int64
	said bool
}

func (c *compactedOnce) NowFunc(cb func(shard.Now, error)) {
	c.rev++
	cb(shard.Now{Revision: c.rev, Epoch: 1}, nil)
}

func (c *compactedOnce) Map() *shard.Map {
	left, right := replicatest.TestDesc, replicatest.TestDesc
	left.Span.End = []byte("m")
	right.ID, right.Span.Start = 3, []byte("m")
	m, err := shard.NewMap(1, []shard.Descriptor{left, right})
	if err != nil {
		panic(err)
	}
	return m
}

func (*compactedOnce) Change(context.Context, *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	return nil, shard.ErrUnavailable
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
	cfg, err := Config{Desc: replicatest.TestDesc, Self: replicatest.TestDesc.Replicas[0], Dir: "x", Host: nopGroup{}, Oracle: c, Ranges: c, Patience: time.Minute}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r := newReplica(cfg)
	resp, err := r.readMulti(t.Context(), replicatest.Txn(nil, []*pb.Op{replicatest.Get("a"), replicatest.Get("z")}, nil), shard.Checked{})
	if err != nil || resp.Revision != 8 {
		t.Errorf("%v, %v", resp, err)
	}
}

// fenceElsewhere is two ranges whose leaders are on other nodes: the fences come from there.
type fenceElsewhere struct{ compactedOnce }

func (f *fenceElsewhere) CallKey(_ context.Context, _ []byte, build func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error) {
	if req := build(replicatest.TestDesc); req.Fence == nil {
		return &pb.PeerResponse{Read: &pb.ReadResponse{}}, nil
	}
	return &pb.PeerResponse{Fence: &pb.FenceResponse{Index: 12}}, nil
}

// TestReadOnlyTxnWaitsForTheFence: the replica that carries out a transaction may have lost the lead
// of its range. What it reads of that range it reads from the index that the new leader's fence named,
// not from what happens to be applied (found by FAULT=transfer and FAULT=partition: an old leader that
// lagged told its own past for the fenced revision).
func TestReadOnlyTxnWaitsForTheFence(t *testing.T) {
	f := &fenceElsewhere{compactedOnce{rev: 6}}
	cfg, err := Config{Desc: replicatest.TestDesc, Self: replicatest.TestDesc.Replicas[0], Dir: "x", Host: nopGroup{}, Oracle: f, Ranges: f, Patience: time.Minute}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m, err := apply.LoadMachine(1, replicatest.TestDesc, replicatest.NewMemStore())
	if err != nil {
		t.Fatal(err)
	}
	r := newReplica(cfg)
	r.desc.Store(&m.Desc)
	r.mu.m = m
	r.index.Store(11)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read := make(chan error, 1)
	go func() {
		// Two reads of the range: their content does not come along with the fence.
		resp, err := r.readMulti(ctx, replicatest.Txn(nil, []*pb.Op{replicatest.Get("a"), replicatest.Get("b"), replicatest.Get("z")}, nil), shard.Checked{})
		if err == nil {
			t.Errorf("read before index 12 was applied: %v", resp)
		}
		read <- err
	}()
	for { // until it waits for the index, or has failed to
		r.mu.Lock()
		n := len(r.mu.indexWaits)
		r.mu.Unlock()
		if n == 1 {
			break
		}
		select {
		case err := <-read:
			t.Fatal("it did not wait: ", err)
		default:
			runtime.Gosched()
		}
	}
	cancel()
	<-read
}

func (nopGroup) HandOver(shard.RangeID, uint64, shard.ReplicaID, func(error)) error {
	return shard.ErrUnavailable
}

func (nopGroup) ChangeConfig(shard.RangeID, uint64, raftgroup.ConfChange, func(error)) error {
	return shard.ErrUnavailable
}

func (nopGroup) Behind(shard.RangeID, uint64, shard.ReplicaID, uint64, func(string)) error {
	return shard.ErrUnavailable
}

func (nopGroup) AbortHandOver(shard.RangeID, uint64) {}
