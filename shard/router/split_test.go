package router_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// splitting are nodes that answer those who want a range to be cut.
type splitting struct {
	*fake
	answer func(to shard.NodeID, req *pb.ChangeRequest) (*pb.ChangeResponse, error)
}

func (s *splitting) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.calls = append(s.calls, fmt.Sprintf("split r%d at n%d", req.Change.RangeId, to))
	resp, err := s.answer(to, req.Change)
	return &pb.PeerResponse{Change: resp}, err
}

// TestSplitFindsTheLeader: hints are followed, a range that the map does not have yet is waited for, and what is not certain is
// not asked again: the meta group does.
func TestSplitFindsTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a context that ends while a call is made says nothing of the call
		s := &splitting{fake: newFake(t, "m")}
		r, err := router.New(router.Config{Peers: s, Cluster: s, Patience: 2 * time.Second, Backoff: time.Millisecond, Parallel: 1, CompactParallel: 1})
		if err != nil {
			t.Fatal(err)
		}
		done := &pb.ChangeResponse{Range: &pb.Descriptor{RangeId: 2}}
		s.answer = func(to shard.NodeID, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
			if to != 3 || !req.GiveUp {
				return nil, &shard.NotLeaderError{Range: 2, Leader: 3}
			}
			return done, nil
		}
		if got, err := r.Change(t.Context(), &pb.ChangeRequest{RangeId: 2, GiveUp: true}); err != nil || got != done || fmt.Sprint(s.calls) != "[split r2 at n1 split r2 at n3]" {
			t.Errorf("%v, %v, calls %v", got, err, s.calls)
		}
		s.onMap = func() { s.mu.Lock(); defer s.mu.Unlock(); s.cut(t, 2, "b", "m", "x") }
		if got, err := r.Change(t.Context(), &pb.ChangeRequest{RangeId: 5, GiveUp: true}); err != nil || got != done {
			t.Errorf("a range that is new: %v, %v", got, err)
		}
		s.calls = nil
		for _, refusal := range []error{shard.ErrAmbiguous, shard.ErrNoSpace, fmt.Errorf("%w: outside", shard.ErrInvalid)} {
			s.answer = func(shard.NodeID, *pb.ChangeRequest) (*pb.ChangeResponse, error) { return nil, refusal }
			if _, err := r.Change(t.Context(), &pb.ChangeRequest{RangeId: 2}); !errors.Is(err, refusal) {
				t.Errorf("%v became %v", refusal, err)
			}
		}
		if len(s.calls) != 3 {
			t.Errorf("calls %v", s.calls)
		}
		s.answer = func(shard.NodeID, *pb.ChangeRequest) (*pb.ChangeResponse, error) { return nil, nil }
		if _, err := r.Change(t.Context(), &pb.ChangeRequest{RangeId: 2}); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("an answer of nothing: %v", err)
		}
		s.answer = func(shard.NodeID, *pb.ChangeRequest) (*pb.ChangeResponse, error) {
			return nil, fmt.Errorf("%w: r2 has no leader", shard.ErrUnavailable)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := r.Change(ctx, &pb.ChangeRequest{RangeId: 2}); !errors.Is(err, shard.ErrTimeout) || !errors.Is(err, shard.ErrUnavailable) {
			t.Errorf("nobody leads: %v", err)
		}
	})
}
