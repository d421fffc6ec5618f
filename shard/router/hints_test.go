package router_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// cutAt is the fake's map with a range cut: what its replicas know of it.
func (f *fake) cutAt(t *testing.T, id shard.RangeID, at string, child shard.RangeID) (*shard.Map, []shard.Descriptor) {
	t.Helper()
	d, _ := f.m.Get(id)
	m, err := f.m.Split(id, []byte(at), child, d.Replicas)
	if err != nil {
		t.Fatal(err)
	}
	left, _ := m.Get(id)
	right, _ := m.Get(child)
	f.leader[child] = f.leader[id]
	return m, []shard.Descriptor{left, right}
}

// TestWhatRangesTellIsKeptApart: what a refusal or an answer tells is used at once, without the meta group, and the
// view's map stays what it is; when that has caught up, it alone is used again.
func TestWhatRangesTellIsKeptApart(t *testing.T) {
	for name, tell := range map[string]func(known []shard.Descriptor) (error, []*pb.Descriptor){
		"a refusal": func(known []shard.Descriptor) (error, []*pb.Descriptor) {
			return &shard.WrongRangeError{Range: 2, Known: known}, nil
		},
		"an answer": func(known []shard.Descriptor) (error, []*pb.Descriptor) { return nil, pb.FromDescriptors(known) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := filled(t)
				newer, known := f.cutAt(t, 2, "d", 9)
				told := &telling{fake: f}
				told.err, told.learned = tell(known)
				f.onMap = func() { t.Error("the meta group was asked") }
				r, err := router.New(router.Config{Peers: told, Cluster: told})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				view := f.m
				for _, key := range []string{"a", "e"} {
					if _, err := r.Write(t.Context(), put(key)); err != nil {
						t.Fatal(err)
					}
				}
				if waited := time.Since(began); waited != 0 {
					t.Errorf("it waited for %v", waited)
				}
				if got := f.calls[len(f.calls)-1]; got != "write r9 at n1" {
					t.Errorf("the last call was %s", got)
				}
				if f.m != view || r.Map() == view || r.Map().Lookup([]byte("e")).ID != 9 {
					t.Errorf("the view has %v, the router %v", f.m, r.Map())
				}
				f.m = newer
				if r.Map() != newer {
					t.Error("what the view knows too is kept")
				}
			})
		})
	}
}

// telling is a fake whose first answer tells something.
type telling struct {
	*fake
	err     error
	learned []*pb.Descriptor
	told    bool
}

func (f *telling) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	first := !f.told
	f.told = true
	if first && f.err != nil {
		return nil, f.err
	}
	resp, err := f.fake.Call(ctx, to, req)
	if first && err == nil {
		resp.Learned = f.learned
	}
	return resp, err
}

// TestHintsAreBounded: who is told more than it keeps forgets the oldest, and finds it again by a refusal.
func TestHintsAreBounded(t *testing.T) {
	f := newFake(t)
	m := f.m
	r := f.router(t, false)
	for i := range 600 {
		id, child := shard.FirstRangeID, shard.RangeID(100+i)
		if i > 0 {
			id = child - 1
		}
		next, err := m.Split(id, fmt.Appendf(nil, "k%04d", i), child, f.m.Lookup(nil).Replicas)
		if err != nil {
			t.Fatal(err)
		}
		m = next
		left, _ := m.Get(id)
		right, _ := m.Get(child)
		f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
			f.refuse = nil
			return &shard.WrongRangeError{Range: id, Known: []shard.Descriptor{left, right}}
		}
		f.leader[child] = 1
		if _, err := r.Write(t.Context(), put(string(right.Span.Start))); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.Map().Len(); n > 300 {
		t.Errorf("%d ranges are known by hints alone", n)
	}
	f.m = m
	if n := r.Map().Len(); n != 601 {
		t.Errorf("%d ranges when the view has caught up", n)
	}
}

// TestHazard72: a node refuses, and neither it nor the meta group says what is otherwise. It is asked again, with
// growing pauses.
func TestHazard72(t *testing.T) {
	for name, call := range map[string]func(context.Context, *router.Router) error{
		"Write": func(ctx context.Context, r *router.Router) error { _, err := r.Write(ctx, put("b")); return err },
		"CallKey": func(ctx context.Context, r *router.Router) (err error) {
			for ctx.Err() == nil {
				if _, err = r.CallKey(ctx, []byte("b"), func(shard.Descriptor) *pb.PeerRequest { return &pb.PeerRequest{} }); err == nil {
					return nil
				}
			}
			return err
		},
		"a page": func(ctx context.Context, r *router.Router) error {
			_, err := r.Range(ctx, &pb.RangeOp{Key: all, RangeEnd: all}, false)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				var at []time.Time
				f.refuse = func(shard.NodeID, *pb.PeerRequest) error {
					if at = append(at, time.Now()); len(at) > 1500 {
						panic("it spins")
					}
					d, _ := f.m.Get(shard.FirstRangeID)
					return &shard.WrongRangeError{Range: d.ID, Known: []shard.Descriptor{d}}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				var wrong *shard.WrongRangeError
				if err := call(ctx, f.router(t, false)); err == nil || errors.As(err, &wrong) && name != "CallKey" {
					t.Error(err)
				}
				if len(at) < 3 || at[1].Sub(at[0]) < time.Millisecond {
					t.Errorf("asked %d times, at %v", len(at), at[:min(len(at), 3)])
				}
			})
		})
	}
}

// TestAChildInheritsAnswers: what this node has told a client of keys holds for the range that they have come to, also
// where the client was told by an older map (8.2).
func TestAChildInheritsAnswers(t *testing.T) {
	f := filled(t)
	for id := range shard.RangeID(4) {
		f.closed[shard.FirstRangeID+id] = 1
	}
	r := f.router(t, true)
	multi := &pb.Op{Txn: &pb.TxnOp{Success: []*pb.Op{put("b"), put("h")}}}
	res, err := r.Write(t.Context(), multi)
	if err != nil {
		t.Fatal(err)
	}
	f.m, _ = f.cutAt(t, 3, "j", 9)
	f.closed[9] = 1
	read := func(key string) []int64 {
		f.waited = nil
		if _, err := r.Range(t.Context(), &pb.RangeOp{Key: []byte(key)}, true); err != nil {
			t.Fatal(err)
		}
		return f.waited
	}
	for _, key := range []string{"h", "k"} {
		if got := read(key); !slices.Equal(got, []int64{res.Revision}) {
			t.Errorf("after an answer at %d, a read of %s waited for %v", res.Revision, key, got)
		}
	}
	if got := read("p"); len(got) != 0 {
		t.Errorf("a read of another range waited for %v", got)
	}
}

// TestAVanishedRangeIsAskedNoMore: who asks a range until it answers goes to the one that it has become part of, as soon as the map says so.
func TestAVanishedRangeIsAskedNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := filled(t)
		id := f.m.Lookup([]byte("h")).ID
		left, _ := f.m.Before(f.m.Lookup([]byte("h")).Span.Start)
		asked := 0
		f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
			if shard.RangeID(req.GetWrite().GetRangeId()) != id {
				return nil
			}
			if asked++; asked == 3 {
				m, err := f.m.Merge(left.ID, id)
				if err != nil {
					t.Error(err)
				}
				f.m = m
			}
			return shard.ErrUnavailable // nobody of it is there
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := f.router(t, false).Write(ctx, put("h")); err != nil || asked != 3 {
			t.Errorf("%v after %d questions", err, asked)
		}
	})
}

// TestMutant runs what should notice one mutant.
func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	t.Run("moving", TestReadsOfMovingRanges)
	t.Run("spins", TestHazard72)
	t.Run("vanished", TestAVanishedRangeIsAskedNoMore)
	t.Run("inherits", TestAChildInheritsAnswers)
	t.Run("shares", TestReadersOfOneKeyShare)
	t.Run("cut", TestACutOfMovingRanges)
}

// TestMutants: each rule of the router that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.RouterNames(), time.Minute, mutatetest.Died, "-test.run=^TestMutant$", "-test.failfast")
}
