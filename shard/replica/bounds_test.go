package replica

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// lockPrefix applies a Prepare of a transaction that is anchored elsewhere, and that nobody ends.
func lockPrefix(t *testing.T, e *env, prefix string) {
	t.Helper()
	ent := &pb.Entry{Term: e.term, Epoch: 1, Prepare: &pb.Prepare{
		Id: &pb.TxnID{AnchorRange: 9, Term: 1, Seq: 1}, AnchorKey: []byte("\x00elsewhere"),
		Write: []*pb.Span{pb.FromSpan(shard.Span{Start: []byte(prefix), End: []byte(prefix + "\xff")})},
	}}
	if err := e.applyEntry2(marshal(ent)); err != nil {
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
			func(i int) *pb.Op { return put(fmt.Sprint("k", i), "v") },
			func(e *env) int { return len(e.l.lockWait) }},
		{"an unevaluated request", func(t *testing.T, e *env) {
			lockPrefix(t, e, "k")
			e.write("first", txn(nil, []*pb.Op{put("k", "v"), put("x", "v")}, nil), time.Time{})
		},
			func(int) *pb.Op { return put("x", "v") },
			func(e *env) int { return len(e.l.tab.first.onReady) }},
		{"a write that is not applied", func(t *testing.T, e *env) {
			e.write("first", put("k", "v"), time.Time{})
			e.alloc(0)
		},
			func(int) *pb.Op { return txn(ifVersion("k", 5), []*pb.Op{put("x", "v")}, nil) },
			func(e *env) int { return len(e.l.tab.first.onGone) }},
		{"the oracle", func(*testing.T, *env) {},
			func(int) *pb.Op { return txn(ifVersion("k", 5), []*pb.Op{put("x", "v")}, nil) },
			func(e *env) int {
				n := 0
				for _, r := range e.l.currents {
					n += len(r.current)
				}
				return n
			}},
		{"a lease", func(*testing.T, *env) {},
			func(int) *pb.Op { return putLease("k", "v", 7) },
			func(e *env) int { return len(e.l.works[7].waiting) + len(e.l.parked) }},
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
			e.l.tick(late)
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
	lim.earlyWaiting = 2
	e := newEnv(lim)
	late := time.Unix(100, 0)
	for i := range 3 {
		e.write(fmt.Sprint(i), put("k", "v"), late)
		e.fenceBy(fmt.Sprint("fence", i), "k", late)
	}
	e.l.tick(late)
	e.collect(e.l)
	if n := len(e.l.earlyItems) + len(e.l.earlyFences); n != 0 {
		t.Errorf("%d that have given up are kept", n)
	}
	if e.l.waiting() {
		t.Error("ticks go on for nobody")
	}
}

// TestFencesThatGiveUpAreForgotten: by the writes that they waited for, and by the proofs.
func TestFencesThatGiveUpAreForgotten(t *testing.T) {
	e := newEnv(testLimits())
	e.own()
	late := time.Unix(100, 0)
	first := e.write("first", put("k", "v"), time.Time{})
	for i := range 10 {
		e.fenceBy(fmt.Sprint(i), "k", late)
	}
	proofs := 0
	for _, r := range e.l.proofs {
		proofs += len(r.fences)
	}
	if len(first.fences) != 10 || proofs != 10 {
		t.Fatalf("%d fences at the write, %d at proofs", len(first.fences), proofs)
	}
	e.l.tick(late)
	e.collect(e.l)
	if len(first.fences)+len(e.l.proofs)+len(e.l.proven)+e.l.fenceBytes != 0 {
		t.Errorf("kept: %d at the write, %d proofs, %d proven, %d bytes", len(first.fences), len(e.l.proofs), len(e.l.proven), e.l.fenceBytes)
	}
}

// TestBoundsInBytes: what waits is bounded by what it holds, not only by how many they are.
func TestBoundsInBytes(t *testing.T) {
	big := strings.Repeat("x", 1000)
	lim := testLimits()
	lim.tableBytes, lim.fenceBytes, lim.coordinateBytes, lim.works = 2500, 2500, 2500, 2
	refused := func(e *env) int { return strings.Count(e.out.String(), shard.ErrTooManyRequests.Error()) }

	e := newEnv(lim)
	for i := range 4 {
		e.write(fmt.Sprint(i), put("k", big), time.Time{})
	}
	if n := refused(e); n != 2 {
		t.Errorf("before the own term: %d of 4 are refused, want 2", n)
	}

	e = newEnv(lim)
	e.own()
	for i := range 4 {
		e.write(fmt.Sprint(i), putLease("k", big, 7), time.Time{})
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
		e.write(fmt.Sprint(i), putLease("k", "v", int64(7+i)), time.Time{})
	}
	if n := refused(e); n != 2 || len(e.l.works) != 2 {
		t.Errorf("leases: %d of 4 are refused and %d attached, want 2", n, len(e.l.works))
	}

	e = newEnv(lim)
	e.own()
	for i := range 4 {
		it := newItem(put("k", big), func(resp *pb.WriteResponse, err error) { e.answered(fmt.Sprint(i), resp, err) })
		e.l.coordinate(it, nil)
		e.collect(e.l)
	}
	if n := refused(e); n != 2 || e.l.txns.bytes < 2000 {
		t.Errorf("coordinations: %d of 4 are refused, %d bytes counted", n, e.l.txns.bytes)
	}
	e.depose()
	if n := e.olds[0].txns.bytes; n != 0 {
		t.Errorf("%d bytes of coordinations that have ended are counted", n)
	}
}

// TestOutcomesAreBounded: outcomes that have been proposed and are not applied count like those that wait.
func TestOutcomesAreBounded(t *testing.T) {
	lim := testLimits()
	lim.resolve = 2
	e := newEnv(lim)
	e.own()
	refused := 0
	for i := range 3 {
		body := &pb.Resolve{Id: &pb.TxnID{AnchorRange: 9, Term: 1, Seq: uint64(i)}, Committed: true, Revision: 5}
		e.l.resolve(body, 1, func(err error) {
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
	if e.l.txns.resolving != 0 || e.l.txns.resolvingBytes != 0 {
		t.Errorf("%d outcomes with %d bytes are counted after they have applied", e.l.txns.resolving, e.l.txns.resolvingBytes)
	}
}

// TestHeldBackInBytes: a feed that holds back much, in few events, lets it go and says so.
func TestHeldBackInBytes(t *testing.T) {
	var f feed
	value := bytes.Repeat([]byte("x"), heldBytesMax/4)
	for i := range 6 {
		ev := mvcc.Event{KV: mvcc.KeyValue{Key: []byte("k"), Value: value, ModRevision: int64(10 + i)}}
		if out, gap := f.take([]mvcc.Event{ev}, 5); len(out) != 0 || gap != (f.gap) {
			t.Fatalf("event %d: %d go out, gap %v", i, len(out), gap)
		}
		if f.bytes > heldBytesMax {
			t.Fatalf("%d bytes are held", f.bytes)
		}
	}
	if _, gap := f.take(nil, 20); !gap {
		t.Error("events were dropped, and nobody is told")
	}
}
