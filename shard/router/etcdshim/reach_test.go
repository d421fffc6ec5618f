package etcdshim

import (
	"context"
	"errors"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// peersFunc answers every call in one way.
type peersFunc func() (*pb.PeerResponse, error)

func (f peersFunc) Call(context.Context, shard.NodeID, *pb.PeerRequest) (*pb.PeerResponse, error) {
	return f()
}

func (f peersFunc) CallFunc(_ context.Context, _ shard.NodeID, _ *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	cb(f())
}

// TestReach follows one node through silence and back, under a clock that the test moves.
func TestReach(t *testing.T) {
	now := time.Unix(1000, 0)
	var calls int
	var answer error
	r := newReach(peersFunc(func() (*pb.PeerResponse, error) {
		calls++
		return &pb.PeerResponse{}, answer
	}), 2*time.Second, func() time.Time { return now })
	called := func(i int) (err error) {
		if i%2 == 0 {
			_, err = r.Call(t.Context(), 1, &pb.PeerRequest{})
			return err
		}
		r.CallFunc(t.Context(), 1, &pb.PeerRequest{}, func(_ *pb.PeerResponse, e error) { err = e })
		return err
	}

	for i, step := range []struct {
		later  time.Duration
		answer error
		want   error
		called bool
	}{
		{0, nil, nil, true},
		{0, shard.ErrUnavailable, shard.ErrUnavailable, true},
		{time.Second, shard.ErrUnavailable, shard.ErrUnavailable, true},
		{0, &shard.NotLeaderError{}, &shard.NotLeaderError{}, true}, // it talks: from the beginning
		{time.Second, shard.ErrUnavailable, shard.ErrUnavailable, true},
		{2 * time.Second, shard.ErrUnavailable, shard.ErrTimeout, true}, // silent for its patience
		{0, nil, shard.ErrTimeout, false},                               // and not asked for a while
		{reachPause, shard.ErrUnavailable, shard.ErrTimeout, true},
		{reachPause, nil, nil, true},
		{0, shard.ErrUnavailable, shard.ErrUnavailable, true},
		{2 * reachMemory, shard.ErrUnavailable, shard.ErrUnavailable, true}, // that was long ago
		{0, shard.ErrAmbiguous, shard.ErrAmbiguous, true},
	} {
		now, answer, calls = now.Add(step.later), step.answer, 0
		err := called(i)
		var nl *shard.NotLeaderError
		same := errors.Is(err, step.want) || errors.As(step.want, &nl) && errors.As(err, &nl)
		if !same || (calls == 1) != step.called {
			t.Errorf("step %d: got %v after %d calls, want %v", i, err, calls, step.want)
		}
		if errors.Is(step.want, shard.ErrTimeout) && shard.Retryable(err) {
			t.Errorf("step %d: the router would go on trying: %v", i, err)
		}
	}
	if _, err := r.Call(t.Context(), 2, &pb.PeerRequest{}); !errors.Is(err, shard.ErrAmbiguous) {
		t.Errorf("another node: %v", err)
	}
}
