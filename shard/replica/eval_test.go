package replica

import (
	"errors"
	"math"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// evalAt carries op out over st with the next revision and returns what a client would see.
func evalAt(t *testing.T, st *memStore, op *pb.Op) (string, error) {
	t.Helper()
	now := max(st.last, 1)
	s := &mutations{scratch: scratch{base: st, at: math.MaxInt64}, rev: now + 1}
	ev := evaluator{view: s, sink: s, now: now, before: now, rev: now + 1, results: true, compacted: st.compact}
	res, err := ev.run(op)
	if err != nil {
		if len(s.muts) > 0 {
			t.Fatalf("%v failed after an effect", op)
		}
		return "", err
	}
	if _, err := st.Apply(mvccChange(st.pos.Index+1, s.muts)); err != nil {
		t.Fatal(err)
	}
	return resultString(res), nil
}

func wantEval(t *testing.T, st *memStore, op *pb.Op, want string) {
	t.Helper()
	got, err := evalAt(t, st, op)
	if err != nil || got != want {
		t.Fatalf("%v:\ngot  %s, %v\nwant %s", op, got, err, want)
	}
}

func TestEvalPut(t *testing.T) {
	st := newMemStore()
	wantEval(t, st, put("a", "1"), "put@2")
	wantEval(t, st, put("a", "2"), "put@3 prev 1@2")
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
	st := newMemStore()
	for _, k := range []string{"a", "b", "c", "d"} {
		wantEval(t, st, put(k, "v"+k), "put@"+string(rune('2'+k[0]-'a')))
	}
	wantEval(t, st, del("x", ""), "deleted 0@5")
	wantEval(t, st, del("b", "d"), "deleted 2@6")
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
	st := newMemStore()
	wantEval(t, st, put("a", "1"), "put@2")
	ops := []*pb.Op{get("a"), del("zz", ""), put("b", "1"), get("b"), del("a", ""), get("a"),
		{Range: &pb.RangeOp{Key: []byte("a"), Revision: 2}}}
	wantEval(t, st, txn(nil, ops, nil), "txn true {range@2[a=1@2] count 1 more false, deleted 0@2, put@3, "+
		"range@3[b=1@3] count 1 more false, deleted 1@3, range@3[] count 0 more false, range@3[a=1@2] count 1 more false}")
	// Nested compares see the state before the whole transaction.
	nested := txn(ifVersion("c", 0), []*pb.Op{put("d", "then")}, []*pb.Op{put("d", "else")})
	wantEval(t, st, txn(nil, []*pb.Op{put("c", "1"), nested, nested2()}, nil), "txn true {put@4, txn true {put@4}, txn false {}}")
}

func nested2() *pb.Op { return txn(ifVersion("c", 1), []*pb.Op{put("e", "then")}, nil) }

func TestEvalFailsBeforeAnyEffect(t *testing.T) {
	st := newMemStore()
	wantEval(t, st, put("a", "1"), "put@2")
	future := txn(nil, []*pb.Op{put("b", "1"), {Range: &pb.RangeOp{Key: []byte("a"), Revision: 3}}}, nil)
	if _, err := evalAt(t, st, future); !errors.Is(err, shard.ErrFutureRevision) {
		t.Fatal(err)
	}
	missing := txn(nil, []*pb.Op{put("b", "1"), {Put: &pb.PutOp{Key: []byte("b"), IgnoreValue: true}}}, nil)
	if _, err := evalAt(t, st, missing); !errors.Is(err, shard.ErrKeyNotFound) {
		t.Fatal(err)
	}
	st.compact = 2
	wantEval(t, st, txn(nil, []*pb.Op{{Range: &pb.RangeOp{Key: []byte("a"), Revision: 2}}}, nil), "txn true {range@2[a=1@2] count 1 more false}")
	wantEval(t, st, put("a", "2"), "put@3 prev 1@2")
	st.compact = 3
	old := txn(nil, []*pb.Op{put("b", "1"), {Range: &pb.RangeOp{Key: []byte("a"), Revision: 2}}}, nil)
	var c *shard.CompactedError
	if _, err := evalAt(t, st, old); !errors.As(err, &c) || c.Revision != 3 {
		t.Fatal(err)
	}
	// The branch that is not taken fails nothing.
	wantEval(t, st, txn(ifVersion("a", 9), []*pb.Op{future}, []*pb.Op{put("b", "1")}), "txn false {put@4}")
}

func TestCompares(t *testing.T) {
	st := newMemStore()
	wantEval(t, st, put("a", "1"), "put@2")
	wantEval(t, st, put("a", "2"), "put@3 prev 1@2")
	wantEval(t, st, put("b", "2"), "put@4")
	wantEval(t, st, &pb.Op{Put: &pb.PutOp{Key: []byte("b"), Value: []byte("2"), Lease: 5}}, "put@5")
	s := &scratch{base: st, at: math.MaxInt64}
	all := []byte{0}
	cases := []struct {
		c    *pb.Compare
		want verdict
	}{
		{&pb.Compare{Key: []byte("a"), Target: targetVersion, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), Target: targetCreate, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), Target: targetMod, Result: resultGreater, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), Target: targetMod, Result: resultLess, Number: 3}, no},
		{&pb.Compare{Key: []byte("a"), Target: targetValue, Result: resultNotEqual, Value: []byte("1")}, yes},
		{&pb.Compare{Key: []byte("b"), Target: targetLease, Number: 5}, yes},
		{&pb.Compare{Key: []byte("x"), Target: targetVersion, Number: 0}, yes},
		{&pb.Compare{Key: []byte("x"), Target: targetMod, Result: resultLess, Number: 1}, yes},
		{&pb.Compare{Key: []byte("x"), Target: targetLease, Result: resultNotEqual}, no},
		{&pb.Compare{Key: []byte("x"), Target: targetValue, Result: resultNotEqual, Value: []byte("1")}, no},
		{&pb.Compare{Key: []byte("a"), RangeEnd: all, Target: targetVersion, Number: 2}, yes},
		{&pb.Compare{Key: []byte("a"), RangeEnd: all, Target: targetCreate, Number: 2}, no},
		{&pb.Compare{Key: []byte("a"), RangeEnd: all, Target: targetValue, Value: []byte("2")}, yes},
		{&pb.Compare{Key: []byte("x"), RangeEnd: all, Target: targetVersion, Number: 0}, yes},
		{&pb.Compare{Key: []byte("x"), RangeEnd: all, Target: targetValue, Result: resultLess, Value: []byte("z")}, no},
	}
	for _, c := range cases {
		if got, err := compareHolds(s, c.c); err != nil || got != c.want {
			t.Errorf("%v: %v, %v", c.c, got, err)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(marshal(&pb.Entry{Term: 6, Epoch: 1, Proposer: 1, Batch: &pb.Batch{FirstRevision: 2, Requests: []*pb.Op{
		put("a", "1"), cas("a", "2", 2), del("a", "c"), {ExpireLease: 7}, txn(nil, []*pb.Op{nested2()}, nil),
	}}}))
	f.Add(marshal(&pb.Entry{Term: 6, LeaseHalf: &pb.LeaseHalf{Lease: 7, Attached: true}}))
	f.Add(marshal(&pb.Entry{Term: 6, Prepare: &pb.Prepare{Id: &pb.TxnID{}, Floor: 3, Write: []*pb.Span{{}}}}))
	f.Add(marshal(&pb.Entry{Term: 6, Commit: &pb.Commit{Id: &pb.TxnID{}, Revision: 3, Effects: []*pb.Effects{{Ops: []*pb.Op{put("a", "1")}, FirstSub: []int64{0}}}}}))
	f.Add(marshal(&pb.Entry{Term: 6, Resolve: &pb.Resolve{Id: &pb.TxnID{}}}))
	f.Add(marshal(&pb.Entry{Term: 6, Split: &pb.Split{}}))
	f.Add([]byte{0xff, 0x00, 0x12})
	f.Fuzz(func(t *testing.T, data []byte) {
		e := newEnv(testLimits())
		e.own()
		for range 2 { // the second time over what the first one left
			if err := e.applyEntry2(data); err != nil {
				return
			}
		}
	})
}

// TestRangeCorners pins the corner cases of etcd's assembly of a
// range: filters before the limit, count before the filters, keys only after the sort.
func TestRangeCorners(t *testing.T) {
	st := newMemStore()
	for i, k := range []string{"a", "b", "c"} {
		wantEval(t, st, put(k, string(rune('z'-i))), "put@"+string(rune('2'+i)))
	}
	r := &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 1, MinModRevision: 3}
	wantEval(t, st, &pb.Op{Range: r}, "range@4[b=y@3] count 3 more true")
	r = &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("z"), SortTarget: sortByValue, KeysOnly: true}
	wantEval(t, st, &pb.Op{Range: r}, "range@4[c=@4 b=@3 a=@2] count 3 more false")
	r = &pb.RangeOp{Key: []byte("b"), RangeEnd: []byte("a")}
	wantEval(t, st, &pb.Op{Range: r}, "range@4[] count 0 more false")
}
