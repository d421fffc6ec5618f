package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// TestReadOfOneKey: a read of one key asks its leader once; whatever else happens than an answer,
// the read finds it, or says why not.
func TestReadOfOneKey(t *testing.T) {
	broken := fmt.Errorf("%w: cut", shard.ErrAmbiguous)
	for name, tc := range map[string]struct {
		first error // of the first fence
		calls string
	}{
		"":                {nil, "[fence r2 at n1]"},
		"the connection":  {broken, "[fence r2 at n1]"},
		"the generation":  {&shard.WrongRangeError{Range: 2}, "[fence r2 at n1]"},
		"the epoch":       {shard.ErrStaleEpoch, "[fence r2 at n1]"},
		"its compaction":  {&shard.CompactedError{Revision: 9}, "[fence r2 at n1]"},
		"another leader":  {&shard.NotLeaderError{Range: 2, Leader: 1}, "[fence r2 at n1]"},
		"nobody's leader": {&shard.NotLeaderError{Range: 2}, "[fence r2 at n1]"},
	} {
		f := filled(t)
		r := f.router(t, false)
		mustRange(t, r, &pb.RangeOp{Key: []byte("a")}) // now the leader is known
		f.calls = nil
		err := tc.first
		f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
			refused := err
			err = nil
			return refused
		}
		res := mustRange(t, r, &pb.RangeOp{Key: []byte("a")})
		if names(res.KVs) != "a " || res.Count != 1 || res.More || res.Revision != f.rev {
			t.Errorf("%s: %s, %d at %d", name, names(res.KVs), res.Count, res.Revision)
		}
		if got := fmt.Sprint(f.calls); got != tc.calls {
			t.Errorf("%s: calls %s", name, got)
		}
		if res := mustRange(t, r, &pb.RangeOp{Key: []byte("none")}); len(res.KVs) != 0 || res.Count != 0 {
			t.Errorf("%s: a key that is not there: %v", name, res)
		}
	}
}

// TestReadOfOneKeyWithoutTheOracle: what the oracle says is the answer.
func TestReadOfOneKeyWithoutTheOracle(t *testing.T) {
	f := filled(t)
	r := f.router(t, false)
	mustRange(t, r, &pb.RangeOp{Key: []byte("a")})
	f.calls, f.silent = nil, true
	if _, err := r.Range(t.Context(), &pb.RangeOp{Key: []byte("a")}, false); !errors.Is(err, shard.ErrUnavailable) || len(f.calls) != 0 {
		t.Errorf("got %v, calls %v", err, f.calls)
	}
}

// stuck is a cluster whose oracle and leaders answer when the test says.
type stuck struct {
	*fake
	mu             sync.Mutex
	oracle, leader bool
	later          []func()
	keys           []string // that leaders were asked for
}

// answer answers what waits.
func (s *stuck) answer() {
	s.mu.Lock()
	later := s.later
	s.later = nil
	s.mu.Unlock()
	for _, answer := range later {
		answer()
	}
}

func (s *stuck) CurrentFunc(cb func(router.Now, error)) {
	s.mu.Lock()
	if s.oracle {
		s.later = append(s.later, func() { s.fake.CurrentFunc(cb) })
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.fake.CurrentFunc(cb)
}

func (s *stuck) CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	s.mu.Lock()
	s.keys = append(s.keys, string(req.Fence.Span.Start))
	if s.leader {
		req = proto.Clone(req).(*pb.PeerRequest)
		s.later = append(s.later, func() {
			s.fake.CallFunc(ctx, to, req, func(resp *pb.PeerResponse, err error) { cb(proto.CloneOf(resp), err) })
		})
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.fake.CallFunc(ctx, to, req, cb)
}

// TestReadOfOneKeyEnds: the reader waits no longer than its context and its patience, and may use its
// key again then, although the question is still on its way.
func TestReadOfOneKeyEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		oracle bool
		limit  time.Duration // of the client; 0: none
		want   error
	}{
		"at the oracle":              {true, 0, shard.ErrTimeout},
		"at the oracle, in a hurry":  {true, time.Second, context.DeadlineExceeded},
		"at the leader":              {false, 0, shard.ErrTimeout},
		"at the leader, in a hurry":  {false, time.Second, context.DeadlineExceeded},
		"at the leader, with no end": {false, time.Hour, shard.ErrTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &stuck{fake: filled(t)}
			r, err := router.New(router.Config{Peers: s, Cluster: s, Patience: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			mustRange(t, r, &pb.RangeOp{Key: []byte("a")})
			s.oracle, s.leader, s.keys = tc.oracle, !tc.oracle, nil
			ctx, cancel, want := t.Context(), context.CancelFunc(func() {}), 2*time.Second
			if tc.limit > 0 {
				ctx, cancel = context.WithTimeout(ctx, tc.limit)
				want = min(want, tc.limit)
			}
			defer cancel()
			key, start := []byte("a"), time.Now()
			_, err = r.Range(ctx, &pb.RangeOp{Key: key}, false)
			if !errors.Is(err, tc.want) || errors.Is(err, shard.ErrTimeout) != (tc.want == shard.ErrTimeout) || time.Since(start) != want {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
			key[0] = 'z'
			s.leader = false
			s.answer()
			if got := fmt.Sprint(s.keys); got != "[a]" {
				t.Errorf("%s: the leader was asked for %s", name, got)
			}
		})
	}
}

// TestReadersOfOneKeyShare: however many read a key at once, few ask its leader, and who asks after a write has been acknowledged is
// answered with it, and with bytes of his own.
func TestReadersOfOneKeyShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stuck{fake: filled(t)}
		r, err := router.New(router.Config{Peers: s, Cluster: s})
		if err != nil {
			t.Fatal(err)
		}
		mustRange(t, r, &pb.RangeOp{Key: []byte("a")})
		s.leader, s.keys = true, nil
		type answer struct {
			after  int64 // what was acknowledged before the reader asked
			res    *router.RangeResult
			gaveUp bool
		}
		answers := make(chan answer, 400)
		read := func(ctx context.Context, after int64) {
			go func() {
				res, err := r.Range(ctx, &pb.RangeOp{Key: []byte("a")}, false)
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				answers <- answer{after, res, err != nil}
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 50 {
			read(t.Context(), s.rev)
			read(ctx, s.rev)
		}
		cancel() // they do not take the others with them
		for range 5 {
			s.put("a", fmt.Sprint("written at ", s.rev))
			for range 50 {
				read(t.Context(), s.rev)
			}
			s.answer()
			synctest.Wait()
		}
		for len(answers) < 350 {
			s.answer()
			synctest.Wait()
		}
		asked, gone := len(s.keys), 0
		for range 350 {
			a := <-answers
			if a.gaveUp {
				gone++
				continue
			}
			if a.res.Revision < a.after || len(a.res.KVs) != 1 || a.res.KVs[0].ModRevision < a.after && a.after > 9 {
				t.Fatalf("asked after %d was acknowledged: %v", a.after, a.res)
			}
			if string(a.res.KVs[0].Key) != "a" {
				t.Fatalf("the bytes are another's, too: %s", a.res.KVs[0].Key)
			}
			a.res.KVs[0].Key[0] = 'z'
		}
		if asked > 30 || gone != 50 {
			t.Errorf("the leader was asked %d times for 350 readers, %d of whom had given up", asked, gone)
		}
	})
}
