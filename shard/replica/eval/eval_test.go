package eval

import (
	"errors"
	"math"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

// evalAt carries op out over st with the next revision and returns what a client would see.
func evalAt(t *testing.T, st *replicatest.MemStore, op *pb.Op) (string, error) {
	t.Helper()
	now := max(st.Last, 1)
	s := &Mutations{Overlay: Overlay{Base: st, At: math.MaxInt64}, Rev: now + 1}
	ev := Evaluator{View: s, Sink: s, Current: now, PriorRev: now, Rev: now + 1, Results: true, Compacted: st.Compact}
	res, err := ev.Run(op)
	if err != nil {
		if len(s.Muts) > 0 {
			t.Fatalf("%v failed after an effect", op)
		}
		return "", err
	}
	if _, err := st.Apply(replicatest.MvccChange(st.Pos.Index+1, s.Muts)); err != nil {
		t.Fatal(err)
	}
	return replicatest.ResultString(res), nil
}

func wantEval(t *testing.T, st *replicatest.MemStore, op *pb.Op, want string) {
	t.Helper()
	got, err := evalAt(t, st, op)
	if err != nil || got != want {
		t.Fatalf("%v:\ngot  %s, %v\nwant %s", op, got, err, want)
	}
}

func TestEvalPut(t *testing.T) {
	st := replicatest.NewMemStore()
	wantEval(t, st, replicatest.Put("a", "1"), "put@2")
	wantEval(t, st, replicatest.Put("a", "2"), "put@3 prev 1@2")
	wantEval(t, st, &pb.Op{Put: &pb.PutOp{Key: []byte("a"), Lease: 5, IgnoreValue: true}}, "put@4")
	wantEval(t, st, &pb.Op{Put: &pb.PutOp{Key: []byte("a"), Value: []byte("3"), IgnoreLease: true}}, "put@5")
	kv, _, _ := st.Get([]byte("a"), math.MaxInt64)
	if string(kv.Value) != "3" || kv.Lease != 5 || kv.Version != 4 || kv.CreateRevision != 2 {
		t.Fatalf("%+v", kv)
	}
	for _, p := range []*pb.PutOp{{Key: []byte("b"), IgnoreValue: true}, {Key: []byte("b"), IgnoreLease: true}} {
		if _, err := evalAt(t, st, &pb.Op{Put: p}); !errors.Is(err, shard.ErrKeyNotFound) {
			t.Fatalf("%v: %v", p, err)
		}
	}
}

func TestEvalDeleteAndRange(t *testing.T) {
	st := replicatest.NewMemStore()
	for _, k := range []string{"a", "b", "c", "d"} {
		wantEval(t, st, replicatest.Put(k, "v"+k), "put@"+string(rune('2'+k[0]-'a')))
	}
	wantEval(t, st, replicatest.Del("x", ""), "deleted 0@5")
	wantEval(t, st, replicatest.Del("b", "d"), "deleted 2@6")
	rng := &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte{0}}
	wantEval(t, st, &pb.Op{Range: rng}, "range@6[a=va@2 d=vd@5] count 2 more false")
	rng.Limit = 1
	wantEval(t, st, &pb.Op{Range: rng}, "range@6[a=va@2] count 2 more true")
	rng.SortOrder = sortDescend
	wantEval(t, st, &pb.Op{Range: rng}, "range@6[d=vd@5] count 2 more true")
	rng.Limit, rng.MaxModRevision = 0, 4
	wantEval(t, st, &pb.Op{Range: rng}, "range@6[a=va@2] count 2 more false")
	rng.MaxModRevision, rng.CountOnly, rng.Revision = 0, true, 5
	wantEval(t, st, &pb.Op{Range: rng}, "range@6[] count 4 more false")
}

func TestEvalTxnHeadersAndOrder(t *testing.T) {
	st := replicatest.NewMemStore()
	wantEval(t, st, replicatest.Put("a", "1"), "put@2")
	ops := []*pb.Op{replicatest.Get("a"), replicatest.Del("zz", ""), replicatest.Put("b", "1"), replicatest.Get("b"), replicatest.Del("a", ""), replicatest.Get("a"),
		{Range: &pb.RangeOp{Key: []byte("a"), Revision: 2}}}
	wantEval(t, st, replicatest.Txn(nil, ops, nil), "txn true {range@2[a=1@2] count 1 more false, deleted 0@2, put@3, "+
		"range@3[b=1@3] count 1 more false, deleted 1@3, range@3[] count 0 more false, range@3[a=1@2] count 1 more false}")
	// Nested compares see the state before the whole transaction.
	nested := replicatest.Txn(replicatest.IfVersion("c", 0), []*pb.Op{replicatest.Put("d", "then")}, []*pb.Op{replicatest.Put("d", "else")})
	wantEval(t, st, replicatest.Txn(nil, []*pb.Op{replicatest.Put("c", "1"), nested, replicatest.Nested2()}, nil), "txn true {put@4, txn true {put@4}, txn false {}}")
}

func TestEvalFailsBeforeAnyEffect(t *testing.T) {
	st := replicatest.NewMemStore()
	wantEval(t, st, replicatest.Put("a", "1"), "put@2")
	future := replicatest.Txn(nil, []*pb.Op{replicatest.Put("b", "1"), {Range: &pb.RangeOp{Key: []byte("a"), Revision: 3}}}, nil)
	if _, err := evalAt(t, st, future); !errors.Is(err, shard.ErrFutureRevision) {
		t.Fatal(err)
	}
	missing := replicatest.Txn(nil, []*pb.Op{replicatest.Put("b", "1"), {Put: &pb.PutOp{Key: []byte("b"), IgnoreValue: true}}}, nil)
	if _, err := evalAt(t, st, missing); !errors.Is(err, shard.ErrKeyNotFound) {
		t.Fatal(err)
	}
	st.Compact = 2
	wantEval(t, st, replicatest.Txn(nil, []*pb.Op{{Range: &pb.RangeOp{Key: []byte("a"), Revision: 2}}}, nil), "txn true {range@2[a=1@2] count 1 more false}")
	wantEval(t, st, replicatest.Put("a", "2"), "put@3 prev 1@2")
	st.Compact = 3
	old := replicatest.Txn(nil, []*pb.Op{replicatest.Put("b", "1"), {Range: &pb.RangeOp{Key: []byte("a"), Revision: 2}}}, nil)
	var c *shard.CompactedError
	if _, err := evalAt(t, st, old); !errors.As(err, &c) || c.Revision != 3 {
		t.Fatal(err)
	}
	// The branch that is not taken fails nothing.
	wantEval(t, st, replicatest.Txn(replicatest.IfVersion("a", 9), []*pb.Op{future}, []*pb.Op{replicatest.Put("b", "1")}), "txn false {put@4}")
}

func TestCompares(t *testing.T) {
	st := replicatest.NewMemStore()
	wantEval(t, st, replicatest.Put("a", "1"), "put@2")
	wantEval(t, st, replicatest.Put("a", "2"), "put@3 prev 1@2")
	wantEval(t, st, replicatest.Put("b", "2"), "put@4")
	wantEval(t, st, &pb.Op{Put: &pb.PutOp{Key: []byte("b"), Value: []byte("2"), Lease: 5}}, "put@5")
	s := &Overlay{Base: st, At: math.MaxInt64}
	all := []byte{0}
	cases := []struct {
		c    *pb.Compare
		want verdict
	}{
		{&pb.Compare{Key: []byte("a"), Target: TargetVersion, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), Target: targetCreate, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), Target: targetMod, Result: resultGreater, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), Target: targetMod, Result: resultLess, Number: 3}, no},
		{&pb.Compare{Key: []byte("a"), Target: TargetValue, Result: resultNotEqual, Value: []byte("1")}, yes},
		{&pb.Compare{Key: []byte("b"), Target: TargetLease, Number: 5}, yes},
		{&pb.Compare{Key: []byte("x"), Target: TargetVersion, Number: 0}, yes},
		{&pb.Compare{Key: []byte("x"), Target: targetMod, Result: resultLess, Number: 1}, yes},
		{&pb.Compare{Key: []byte("x"), Target: TargetLease, Result: resultNotEqual}, no},
		{&pb.Compare{Key: []byte("x"), Target: TargetValue, Result: resultNotEqual, Value: []byte("1")}, no},
		{&pb.Compare{Key: []byte("a"), RangeEnd: all, Target: TargetVersion, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), RangeEnd: all, Target: targetCreate, Number: 2}, no},
		{&pb.Compare{Key: []byte("a"), RangeEnd: all, Target: TargetValue, Value: []byte("2")}, yes},
		{&pb.Compare{Key: []byte("x"), RangeEnd: all, Target: TargetVersion, Number: 0}, yes},
		{&pb.Compare{Key: []byte("x"), RangeEnd: all, Target: TargetValue, Result: resultLess, Value: []byte("z")}, no},
	}
	for _, c := range cases {
		if got, err := compareHolds(s, c.c); err != nil || got != c.want {
			t.Errorf("%v: %v, %v", c.c, got, err)
		}
	}
}

// TestRangeCorners pins the corner cases of etcd's assembly of a
// range: filters before the limit, count before the filters, keys only after the sort.
func TestRangeCorners(t *testing.T) {
	st := replicatest.NewMemStore()
	for i, k := range []string{"a", "b", "c"} {
		wantEval(t, st, replicatest.Put(k, string(rune('z'-i))), "put@"+string(rune('2'+i)))
	}
	r := &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 1, MinModRevision: 3}
	wantEval(t, st, &pb.Op{Range: r}, "range@4[b=y@3] count 3 more true")
	r = &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("z"), SortTarget: sortByValue, KeysOnly: true}
	wantEval(t, st, &pb.Op{Range: r}, "range@4[c=@4 b=@3 a=@2] count 3 more false")
	r = &pb.RangeOp{Key: []byte("b"), RangeEnd: []byte("a")}
	wantEval(t, st, &pb.Op{Range: r}, "range@4[] count 0 more false")
}
