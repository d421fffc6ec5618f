package peer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

// lateDoor answers late.
type lateDoor struct {
	late  time.Duration
	asked atomic.Int64
}

func (d *lateDoor) Admit(shard.NodeID) error { return nil }

func (d *lateDoor) Discover(ctx context.Context, _ *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	d.asked.Add(1)
	select {
	case <-time.After(d.late):
		return &pb.DiscoverResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestProber: every other member is asked in turn; one that answers late is seen to, and is not asked again in between; one that is not there
// is seen as nothing.
func TestProber(t *testing.T) {
	at := map[shard.NodeID]string{4: closedPort(t)}
	doors := map[shard.NodeID]*lateDoor{2: {}, 3: {late: 300 * time.Millisecond}}
	for node, door := range doors {
		at[node] = serve(t, peer.NewServer(peer.Identity{ClusterID: peertest.ClusterID, Node: node}, door, nil, nil, nil).Register, peer.ServerOptions()...)
	}
	d := dialer(t, peer.DialerConfig{Resolve: func(n shard.NodeID) (string, bool) { return at[n], at[n] != "" }})
	type answer struct {
		node shard.NodeID
		took time.Duration
	}
	answers := make(chan answer, 1000)
	p := peer.StartProber(peer.ProberConfig{
		Others: func() []shard.NodeID { return []shard.NodeID{2, 3, 4} }, Dial: d.For(peer.ClassGossip), Every: 5 * time.Millisecond,
		Answered: func(node shard.NodeID, took time.Duration) { answers <- answer{node, took} },
	})
	var late int64
	for seen := 0; late < 2; seen++ {
		select {
		case a := <-answers:
			switch {
			case a.node == 3 && a.took < doors[3].late, a.node == 4:
				t.Errorf("node %v is said to have answered after %v", a.node, a.took)
			case a.node == 3:
				late++
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%d answers, %d of them late", seen, late)
		}
	}
	if asked := doors[3].asked.Load(); asked > late+1 {
		t.Errorf("who has answered %d times has been asked %d times", late, asked)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for len(answers) > 0 {
		<-answers
	}
}

var _ peer.Door = (*lateDoor)(nil)
