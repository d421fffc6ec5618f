package meta

import (
	"context"
	"testing"
	"time"

	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// caller asks a replica by message, and counts.
type caller struct {
	e     *env
	total int
}

func (c *caller) CallFunc(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	c.total++
	a := c.e.ask(req)
	c.e.settle()
	cb(a.resp, a.err)
}

// The node whose replica leads asks without a message while the lease is valid.
func TestLocalOracle(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	f := &caller{e: e}
	c := metaclient.New(metaclient.Config{Self: 1, Calls: f, Local: e.m, Meta: e.m.cfg.Desc, Now: e.now})
	defer c.Close()
	if now, err := c.Current(context.Background()); err != nil || now.Revision != 1 || now.Epoch != 6 {
		t.Errorf("current: %+v %v", now, err)
	}
	if f.total != 1 || c.Map() == nil || c.Map().Version() != 1 { // the map was fetched
		t.Errorf("%d calls, map %v", f.total, c.Map())
	}
	c.Allocate(shard.Ask{Count: 3}, func(now shard.Now, err error) {
		if first := now.Revision; first != 2 || err != nil {
			t.Errorf("allocated %d, %v", now.Revision, err)
		}
	})
	if f.total != 1 {
		t.Error("a message was sent")
	}
	e.advance(time.Minute) // without a lease: the long way, with a round
	e.confirm(true)
	if now, err := c.Current(context.Background()); err != nil || now.Revision != 4 || f.total != 2 {
		t.Errorf("current: %+v %v", now, err)
	}
}
