package backend

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// TestOneQuestionForAllHubs: a question to close a revision counts for a while, for that revision and all below; then
// it may have been lost, and is asked again.
func TestOneQuestionForAllHubs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Asked
		for _, ask := range []struct {
			rev  int64
			want bool
		}{{5, true}, {5, false}, {4, false}, {6, true}, {5, false}} {
			if _, got := a.Due(ask.rev, nil); got != ask.want {
				t.Errorf("at %d: due %v", ask.rev, got)
			}
		}
		<-time.After(AskedFor)
		_, again := a.Due(5, nil)
		if _, higher := a.Due(6, nil); !again || higher {
			t.Error("after a while a lower revision is due again, and stands for the highest that was asked for")
		}
	})
}

// TestOneQuestionForEachRange: what was asked for of all ranges counts for each, and of one for that alone.
func TestOneQuestionForEachRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Asked
		for _, ask := range []struct {
			rev    int64
			ranges []shard.RangeID
			left   []shard.RangeID
			due    bool
		}{
			{5, []shard.RangeID{1, 2}, []shard.RangeID{1, 2}, true},
			{5, []shard.RangeID{2, 3}, []shard.RangeID{3}, true},
			{4, []shard.RangeID{1, 2, 3}, nil, false},
			{6, []shard.RangeID{1}, []shard.RangeID{1}, true},
			{6, nil, nil, true},
			{6, []shard.RangeID{2, 9}, nil, false},
			{7, []shard.RangeID{9}, []shard.RangeID{9}, true},
		} {
			if left, due := a.Due(ask.rev, ask.ranges); due != ask.due || !slices.Equal(left, ask.left) {
				t.Errorf("%v at %d: %v, %v", ask.ranges, ask.rev, left, due)
			}
		}
		<-time.After(AskedFor)
		if left, due := a.Due(5, []shard.RangeID{1, 9}); !due || len(left) != 2 {
			t.Errorf("after a while: %v, %v", left, due)
		}
		for id := range shard.RangeID(3 * askedRangesMax) {
			a.Due(100, []shard.RangeID{id})
		}
		if len(a.ranges) > askedRangesMax {
			t.Errorf("%d ranges are remembered", len(a.ranges))
		}
	})
}

// told notes whether a subscriber is told that a range is here.
type told struct {
	Subscriber
	held []bool
}

func (s *told) Held(_ shard.RangeID, held bool) { s.held = append(s.held, held) }

// TestNothingIsHeldHere: whatever a front asks of a process without data says so, and where else to ask.
func TestNothingIsHeldHere(t *testing.T) {
	if _, err := OpenRemote(RemoteConfig{Identity: peer.Identity{ClusterID: 1, Node: 9}}); err == nil {
		t.Error("opened without members")
	}
	r, err := OpenRemote(RemoteConfig{
		Identity: peer.Identity{ClusterID: 1, Node: 9}, Members: []shard.Member{{ID: 1, PeerURLs: []string{"http://127.0.0.1:1"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	b := r.Backend()
	l := b.Local
	if _, ok := l.ClosedRevision([]shard.RangeID{2}); ok {
		t.Error("a range is closed here")
	}
	if err := l.WaitClosed(t.Context(), []shard.RangeID{2}, 7); err != nil {
		t.Error(err)
	}
	if l.Untouched([]shard.RangeID{2}) || l.Leader(2) != 0 || l.Applied(2) != 0 || l.Self() != 9 || l.Sizes() != (Sizes{}) || l.Replica(2) != (ReplicaState{}) || len(l.Nodes()) != 0 || l.Meta() != (MetaState{}) {
		t.Error("something is known of replicas here")
	}
	var notLeader *shard.NotLeaderError
	if err := l.MoveLeader(t.Context(), 1); !errors.As(err, &notLeader) {
		t.Errorf("the lead of another node is moved: %v", err)
	}
	l.Handle(t.Context(), peer.Client, &pb.PeerRequest{}, func(resp *pb.PeerResponse) { err = pb.ErrorFromPB(resp.Error) })
	if !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("a call is answered with %v", err)
	}
	s := &told{}
	b.Feeds.Subscribe(2, s)
	b.Feeds.Unsubscribe(2)
	if len(s.held) != 1 || s.held[0] {
		t.Errorf("told of a range: %v", s.held)
	}
	if _, ok := b.Cluster.Range(2); ok || b.Cluster.Map() != nil || len(b.Cluster.Members()) != 1 {
		t.Error("ranges are known before anybody was asked")
	}
}
