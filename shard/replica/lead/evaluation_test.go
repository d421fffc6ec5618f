package lead

import (
	"fmt"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/replicatest"
)

// ifAll is a transaction that puts a key if every key of a span is at its first version.
func ifAll(from, to, key string) *pb.Op {
	c := &pb.Compare{Target: eval.TargetVersion, Key: []byte(from), RangeEnd: []byte(to), Number: 1}
	return replicatest.Txn(c, []*pb.Op{replicatest.Put(key, "v")}, nil)
}

// newApart is a leader whose predictions wait for the test.
func newApart(t *testing.T) *env {
	e := newLed(t)
	e.holdPreds = true
	return e
}

// TestAPredictionHoldsNobodyElse: while a request is predicted, those that do not overlap it go on,
// and those that do keep their place behind it.
func TestAPredictionHoldsNobodyElse(t *testing.T) {
	e := newApart(t)
	e.write("wide", ifAll("a", "b", "k"), time.Time{})
	e.write("behind", replicatest.Put("k", "2"), time.Time{})
	e.write("other", replicatest.Put("x", "1"), time.Time{})
	if len(e.preds) != 1 || len(e.allocs) != 1 {
		t.Fatalf("%d predictions, %d allocations", len(e.preds), len(e.allocs))
	}
	e.alloc(0)
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "other: rev 2")
	e.wantNot(t, "behind: rev")
	e.settle(t) // no key is there: numbers compare as zero, so it writes nothing
	e.wantOut(t, "behind: rev 3", "wide: rev 3 wrote false")
}

// TestWhatIsEvaluatedApart: all that may take long or wait for a file, and nothing else.
func TestWhatIsEvaluatedApart(t *testing.T) {
	var many []*pb.Op
	for i := range inlineKeysMax + 1 {
		many = append(many, replicatest.Del(fmt.Sprint("k", i), ""))
	}
	ignore := &pb.Op{Put: &pb.PutOp{Key: []byte("cold"), IgnoreValue: true}}
	cold := replicatest.Txn(replicatest.IfVersion("cold", 0), []*pb.Op{replicatest.Put("k", "v")}, nil)
	warm := replicatest.Txn(replicatest.IfVersion("warm", 0), []*pb.Op{replicatest.Put("cold", "v"), replicatest.Get("cold")}, nil)
	for i, tt := range []struct {
		op    *pb.Op
		async int
	}{
		{replicatest.Put("cold", "v"), 0}, {warm, 0}, {replicatest.Del("warm", ""), 0},
		{replicatest.Txn(nil, many[:inlineKeysMax], nil), 0}, {replicatest.Txn(nil, many, nil), 1},
		{cold, 1}, {ignore, 1}, {replicatest.Del("cold", ""), 1}, {replicatest.Del("a", "b"), 1}, {ifAll("a", "b", "k"), 1},
		{replicatest.Txn(nil, nil, []*pb.Op{ifAll("a", "b", "k")}), 1}, {&pb.Op{ExpireLease: 7}, 1},
	} {
		e := newApart(t)
		e.st.Cold = func(key []byte) bool { return string(key) == "cold" }
		e.write("w", tt.op, time.Time{})
		if len(e.preds) != tt.async {
			t.Errorf("%d: %v: %d predictions, want %d", i, tt.op, len(e.preds), tt.async)
		}
		e.settle(t)
		e.wantNot(t, "w: error: range")
	}
}

// TestAPredictionOutOfDate: who has given up, or has begun again, is not moved by a prediction that comes
// late, and one over a store that was compacted beyond its view is made anew.
func TestAPredictionOutOfDate(t *testing.T) {
	e := newApart(t)
	late := time.Unix(100, 0)
	e.write("gives up", ifAll("a", "b", "k"), late)
	e.l.Tick(late)
	e.collect(e.l)
	e.predict(0)
	e.settle(t)
	e.wantOut(t, "gives up: error: "+shard.ErrTimeout.Error())

	e.write("x", replicatest.Put("a1", "1"), time.Time{})
	e.settle(t)
	e.write("again", ifAll("a", "b", "k"), time.Time{})
	e.st.Compact = e.rev + 5
	e.predict(0)
	if len(e.preds) != 1 {
		t.Fatal("it is not evaluated again")
	}
	e.st.Compact = 0
	e.settle(t)
	e.wantOut(t, "again: rev 3 wrote true")

	e.write("lost", ifAll("a", "b", "k"), time.Time{})
	e.depose()
	e.predict(0)
	e.wantOut(t, "lost: error: not leader")
}

// TestALeaseOfManyKeys: it enters the table as one span, however many its keys are.
func TestALeaseOfManyKeys(t *testing.T) {
	e := newApart(t)
	e.write("first", replicatest.PutLease("k", "v", 7), time.Time{})
	e.settle(t)
	e.l.Attachments.Attached(7, 1, nil)
	e.collect(e.l)
	e.settle(t)
	for i := range expiryPointsMax + 1 {
		e.write(fmt.Sprint(i), replicatest.PutLease(fmt.Sprintf("k%05d", i), "v", 7), time.Time{})
	}
	e.settle(t)
	e.write("expire", &pb.Op{ExpireLease: 7}, time.Time{})
	e.predict(0)
	if n := len(e.l.tab.points) + len(e.l.tab.spanItems); n != 1 {
		t.Errorf("%d entries in the table", n)
	}
	e.write("within", replicatest.Put("k00003x", "v"), time.Time{})
	e.write("outside", replicatest.Put("z", "v"), time.Time{})
	e.settle(t)
	e.wantOut(t, fmt.Sprintf("deleted %d@", expiryPointsMax+2), "within: rev")
	if got := e.st.Dump(); len(got) > 200 {
		t.Errorf("what is left: %s", got)
	}
}
