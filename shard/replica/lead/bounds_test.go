package lead

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// lockPrefix applies a Prepare of a transaction that is anchored elsewhere, and that nobody ends.
func lockPrefix(t *testing.T, e *env, prefix string) {
	t.Helper()
	ent := &pb.Entry{Term: e.term, Epoch: 1, Prepare: &pb.Prepare{
		Id: &pb.TxnID{AnchorRange: 9, Term: 1, Seq: 1}, AnchorKey: []byte("\x00elsewhere"),
		Write: []*pb.Span{pb.FromSpan(shard.Span{Start: []byte(prefix), End: []byte(prefix + "\xff")})},
	}}
	if err := e.applyEntry2(apply.Marshal(ent)); err != nil {
		t.Fatal(err)
	}
}

// TestWhoGivesUpIsForgotten: a request that has run out of patience is in no list of waiters any more,
// however long that for which it waited goes on.
func TestWhoGivesUpIsForgotten(t *testing.T) {
	const many = 100
	start := time.Unix(100, 0)
	late := start.Add(time.Second)
	tests := []struct {
		name  string
		setup func(t *testing.T, e *env)
		op    func(i int) *pb.Op
		kept  func(e *env) int
	}{
		{"a lock", func(t *testing.T, e *env) { lockPrefix(t, e, "k") },
			func(i int) *pb.Op { return replicatest.Put(fmt.Sprint("k", i), "v") },
			func(e *env) int { return len(e.l.Evaluations.lockWaiters) }},
		{"an unevaluated request", func(t *testing.T, e *env) {
			lockPrefix(t, e, "k")
			e.write("first", replicatest.Txn(nil, []*pb.Op{replicatest.Put("k", "v"), replicatest.Put("x", "v")}, nil), time.Time{})
		},
			func(int) *pb.Op { return replicatest.Put("x", "v") },
			func(e *env) int { return len(e.l.tab.first.evalWaiters) }},
		{"a write that is not applied", func(t *testing.T, e *env) {
			e.write("first", replicatest.Put("k", "v"), time.Time{})
			e.alloc(0)
		},
			func(int) *pb.Op {
				return replicatest.Txn(replicatest.IfVersion("k", 5), []*pb.Op{replicatest.Put("x", "v")}, nil)
			},
			func(e *env) int { return len(e.l.tab.first.leaveWaiters) }},
		{"the oracle", func(*testing.T, *env) {},
			func(int) *pb.Op {
				return replicatest.Txn(replicatest.IfVersion("k", 5), []*pb.Op{replicatest.Put("x", "v")}, nil)
			},
			func(e *env) int {
				n := 0
				for _, r := range e.l.Evaluations.currentCalls {
					n += len(r.waiters)
				}
				return n
			}},
		{"a lease", func(*testing.T, *env) {},
			func(int) *pb.Op { return replicatest.PutLease("k", "v", 7) },
			func(e *env) int { return len(e.l.Attachments.attaching[7].waiting) + len(e.l.Attachments.parked) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEnv(testLimits())
			e.own()
			tt.setup(t, e)
			for i := range many {
				e.write(fmt.Sprint(i), tt.op(i), late)
			}
			if n := tt.kept(e); n < many {
				t.Fatalf("%d of %d wait there: the test tests nothing", n, many)
			}
			e.l.Tick(late)
			e.collect(e.l)
			if n := strings.Count(e.out.String(), shard.ErrTimeout.Error()); n != many {
				t.Fatalf("%d of %d have given up", n, many)
			}
			if n := tt.kept(e); n != 0 {
				t.Errorf("%d that have given up are kept", n)
			}
		})
	}
}

// TestWhoGivesUpEarlyMakesRoom: of requests and fences that come before the own term has applied, those
// that have given up neither stay nor count.
func TestWhoGivesUpEarlyMakesRoom(t *testing.T) {
	lim := testLimits()
	lim.EarlyWaiting = 2
	e := newEnv(lim)
	late := time.Unix(100, 0)
	for i := range 3 {
		e.write(fmt.Sprint(i), replicatest.Put("k", "v"), late)
		e.fenceBy(fmt.Sprint("fence", i), "k", late)
	}
	e.l.Tick(late)
	e.collect(e.l)
	if n := len(e.l.Evaluations.earlyItems) + len(e.l.Fences.earlyFences); n != 0 {
		t.Errorf("%d that have given up are kept", n)
	}
	if e.l.Waiting() {
		t.Error("ticks go on for nobody")
	}
}

// TestFencesThatGiveUpAreForgotten: by the writes that they waited for, and by the proofs.
func TestFencesThatGiveUpAreForgotten(t *testing.T) {
	e := newEnv(testLimits())
	e.own()
	late := time.Unix(100, 0)
	first := e.write("first", replicatest.Put("k", "v"), time.Time{})
	for i := range 10 {
		e.fenceBy(fmt.Sprint(i), "k", late)
	}
	proofs := 0
	for _, r := range e.l.Fences.confirmCalls {
		proofs += len(r.fences)
	}
	if len(first.fences) != 10 || proofs != 10 {
		t.Fatalf("%d fences at the write, %d at proofs", len(first.fences), proofs)
	}
	e.l.Tick(late)
	e.collect(e.l)
	if len(first.fences)+len(e.l.Fences.confirmCalls)+len(e.l.Fences.confirmed)+e.l.Fences.fenceBytes != 0 {
		t.Errorf("kept: %d at the write, %d proofs, %d proven, %d bytes", len(first.fences), len(e.l.Fences.confirmCalls), len(e.l.Fences.confirmed), e.l.Fences.fenceBytes)
	}
}

// TestBoundsInBytes: what waits is bounded by what it holds, not only by how many they are.
func TestBoundsInBytes(t *testing.T) {
	big := strings.Repeat("x", 1000)
	lim := testLimits()
	lim.TableBytes, lim.FenceBytes, lim.CoordinationBytes, lim.Attaching = 2500, 2500, 2500, 2
	refused := func(e *env) int { return strings.Count(e.out.String(), shard.ErrTooManyRequests.Error()) }

	e := newEnv(lim)
	for i := range 4 {
		e.write(fmt.Sprint(i), replicatest.Put("k", big), time.Time{})
	}
	if n := refused(e); n != 2 {
		t.Errorf("before the own term: %d of 4 are refused, want 2", n)
	}

	e = newEnv(lim)
	e.own()
	for i := range 4 {
		e.write(fmt.Sprint(i), replicatest.PutLease("k", big, 7), time.Time{})
	}
	if n := refused(e); n != 2 {
		t.Errorf("waiting for a lease: %d of 4 are refused, want 2", n)
	}

	e = newEnv(lim)
	e.own()
	for i := range 4 {
		e.fenceBy(fmt.Sprint(i), big, time.Time{})
	}
	if n := refused(e); n != 2 {
		t.Errorf("fences: %d of 4 are refused, want 2", n)
	}

	e = newEnv(lim)
	e.own()
	for i := range 4 {
		e.write(fmt.Sprint(i), replicatest.PutLease("k", "v", int64(7+i)), time.Time{})
	}
	if n := refused(e); n != 2 || len(e.l.Attachments.attaching) != 2 {
		t.Errorf("leases: %d of 4 are refused and %d attached, want 2", n, len(e.l.Attachments.attaching))
	}

	e = newEnv(lim)
	e.own()
	for i := range 4 {
		it := newItem(replicatest.Put("k", big), func(resp *pb.WriteResponse, err error) { e.answered(fmt.Sprint(i), resp, err) })
		e.l.Coordinations.Coordinate(it, nil)
		e.collect(e.l)
	}
	if n := refused(e); n != 2 || e.l.Coordinations.bytes < 2000 {
		t.Errorf("coordinations: %d of 4 are refused, %d bytes counted", n, e.l.Coordinations.bytes)
	}
	e.depose()
	if n := e.pastTerms[0].Coordinations.bytes; n != 0 {
		t.Errorf("%d bytes of coordinations that have ended are counted", n)
	}
}

// TestOutcomesAreBounded: outcomes that have been proposed and are not applied count like those that wait.
func TestOutcomesAreBounded(t *testing.T) {
	lim := testLimits()
	lim.Resolutions = 2
	e := newEnv(lim)
	e.own()
	refused := 0
	for i := range 3 {
		body := &pb.Resolve{Id: &pb.TxnID{AnchorRange: 9, Term: 1, Seq: uint64(i)}, Committed: true, Revision: 5}
		e.l.Participants.Resolve(body, 1, func(err error) {
			if errors.Is(err, shard.ErrTooManyRequests) {
				refused++
			}
		})
		e.collect(e.l)
	}
	if refused != 1 {
		t.Fatalf("%d of 3 are refused, want 1", refused)
	}
	for len(e.log) > 0 {
		if err := e.applyOne(0); err != nil {
			t.Fatal(err)
		}
	}
	if e.l.Participants.resolving != 0 || e.l.Participants.resolvingBytes != 0 {
		t.Errorf("%d outcomes with %d bytes are counted after they have applied", e.l.Participants.resolving, e.l.Participants.resolvingBytes)
	}
}
