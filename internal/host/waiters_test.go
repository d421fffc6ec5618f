package host

import (
	"context"
	"errors"
	"testing"
	"time"

	"pontoon/raftgroup"
)

// stepObserver notes the leader that it has been told of.
type stepObserver struct {
	raftgroup.Observer
	leader *raftgroup.Leadership
}

func (o stepObserver) LeaderChanged(l raftgroup.Leadership) { *o.leader = l }

// TestALeaderIsAnEvent: who waits for a leader goes on when the group's observer has been told of it, and not before.
func TestALeaderIsAnEvent(t *testing.T) {
	var w waiters
	var known raftgroup.Leadership
	o := leaderObserver{stepObserver{leader: &known}, &w}
	looked, done := make(chan struct{}), make(chan error, 1)
	turn := make(chan bool)
	go func() {
		done <- w.until(t.Context(), func() bool {
			looked <- struct{}{}
			return <-turn
		})
	}()
	<-looked
	turn <- known.Leader != 0
	o.LeaderChanged(raftgroup.Leadership{Term: 3, Leader: 2})
	select {
	case <-looked:
		turn <- known.Leader != 0
	case <-time.After(waitMax):
		t.Fatal("nobody looks again")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.until(ctx, func() bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("given up with %v", err)
	}
}
