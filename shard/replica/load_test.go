package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

func loadPut(keys ...string) *pb.Op {
	if len(keys) == 1 {
		return &pb.Op{Put: &pb.PutOp{Key: []byte(keys[0])}}
	}
	t := &pb.TxnOp{}
	for _, k := range keys {
		t.Success = append(t.Success, loadPut(k))
	}
	return &pb.Op{Txn: t}
}

// newLoaded is a replica of which only the load matters; it leads, or follows.
func newLoaded(leads bool) *Replica {
	r := &Replica{}
	d := shard.Descriptor{ID: 2, Generation: 1}
	r.desc.Store(&d)
	if leads {
		r.leading.Store(3)
	}
	return r
}

func (r *Replica) batch(ops ...*pb.Op) {
	r.load.applied(1600, &apply.Decision{Entry: &pb.Entry{Batch: &pb.Batch{Requests: ops}}})
}

// TestLoadRates: what is counted becomes rates, of which the recent count most; the highest of ten minutes and the lowest of three
// windows are told, and processor time is shared out by what has been done.
func TestLoadRates(t *testing.T) {
	r := newLoaded(true)
	window := func(writes int) {
		for range writes {
			r.batch(loadPut("k"))
		}
		want := float64(writes) * (1 + 1600.0/(16<<10))
		if got := r.LoadUnits(); got < want*0.999 || got > want*1.001 {
			t.Fatalf("%v units, want %v", got, want)
		}
		r.LoadSeen(10, 20_000, 1)
	}
	window(100)
	if l := r.load.tell(); l.WritesMilli != 10_000 || l.KnownS != 10 || l.LowWritesMilli != 0 || l.PeakWritesMilli != 10_000 || l.Bytes != 16_000 {
		t.Errorf("%v", l)
	}
	window(400)
	window(100)
	l := r.load.tell()
	if l.WritesMilli != 20_000 || l.LowWritesMilli != 10_000 || l.PeakWritesMilli != 40_000 || l.KnownS != 30 {
		t.Errorf("%v", l)
	}
	if cpu := 20_000.0 * 20 * (1 + 1600.0/(16<<10)); float64(l.CpuNs) < cpu*0.99 || float64(l.CpuNs) > cpu*1.01 {
		t.Errorf("%v, want %v ns", l.CpuNs, cpu)
	}
	for range peakWindows * peaksKept {
		window(0)
	}
	if l := r.load.tell(); l.WritesMilli > 10 || l.PeakWritesMilli != 0 || l.LowWritesMilli != 0 {
		t.Errorf("ten minutes later: %v", l)
	}
	window(100)
	if part := r.load.cut([]byte("m")); part != nil {
		t.Errorf("a part of what nobody has sampled: %v", part)
	}
	if l := r.load.tell(); l.KnownS != 0 || l.WritesMilli != 0 || l.PeakWritesMilli != 0 {
		t.Errorf("after a cut: %v", l)
	}
}

// TestLoadOfAFollower: it does less for the same load, which it knows all the same.
func TestLoadOfAFollower(t *testing.T) {
	f, l := newLoaded(false), newLoaded(true)
	for _, r := range []*Replica{f, l} {
		r.batch(loadPut("a"), loadPut("b"))
	}
	a, b := f.LoadUnits(), l.LoadUnits()
	if a != b*followerShare {
		t.Errorf("%v and %v units", a, b)
	}
	f.LoadSeen(10, 1000, 1)
	l.LoadSeen(10, 1000, 1)
	if a, b := f.load.tell(), l.load.tell(); a.CpuNs != b.CpuNs || a.WritesMilli != b.WritesMilli || a.CpuNs == 0 {
		t.Errorf("%v and %v", a, b)
	}
}

// busy lets windows go by with what write does, until a sample of a whole window is there.
func busy(r *Replica, write func(i int) *pb.Op) *pb.RangeLoad {
	for w := range 3 {
		for i := range 20_000 {
			r.batch(write(w*20_000 + i))
		}
		r.LoadUnits()
		r.LoadSeen(10, 20_000, 1)
	}
	return r.load.tell()
}

// best is the point that parts a load best.
func best(l *pb.RangeLoad) *pb.LoadPoint {
	var b *pb.LoadPoint
	for _, p := range l.Points {
		if b == nil || score(p) < score(b) {
			b = p
		}
	}
	return b
}

// TestLoadPoints: of a busy range it is told where it could be cut, how much of the load lies before, and how many transactions would cross; and
// whether it grows at its end.
func TestLoadPoints(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	hot := func(int) *pb.Op { // half of the load in a tenth of the keys
		n := dice.IntN(1000)
		if dice.IntN(2) == 0 {
			n = 900 + dice.IntN(100)
		}
		return loadPut(fmt.Sprintf("k%03d", n))
	}
	l := busy(newLoaded(true), hot)
	if p := best(l); p == nil || p.Left < 420 || p.Left > 580 || p.Cross != 0 || string(p.Key) < "k750" || string(p.Key) > "k980" {
		t.Errorf("best is %v of %v", p, l)
	}
	if len(l.Points) > pointsMax || l.TailPermille > 50 {
		t.Errorf("%v", l)
	}
	l = busy(newLoaded(true), func(int) *pb.Op { return loadPut("one") })
	if len(l.Points) != 0 {
		t.Errorf("one key: %v", l)
	}
	l = busy(newLoaded(true), func(int) *pb.Op {
		return loadPut(fmt.Sprintf("k%03d", dice.IntN(500)), fmt.Sprintf("k%03d", 500+dice.IntN(500)))
	})
	for _, p := range l.Points {
		if p.Cross != p.Left { // whatever begins before it ends behind it
			t.Errorf("all cross: %v", p)
		}
	}
	l = busy(newLoaded(true), func(i int) *pb.Op { return loadPut(fmt.Sprintf("k%09d", i)) })
	if l.TailPermille < 950 || string(l.End) < "k000059000" || string(l.End) >= "k000060000" {
		t.Errorf("a tail: %v", l)
	}
	r := newLoaded(true)
	for range 3 { // reads alone
		for range 400_000 {
			key := fmt.Appendf(nil, "k%03d", dice.IntN(1000))
			r.load.read(&pb.Span{Start: key, End: append(slices.Clip(key), 0)})
		}
		r.LoadUnits()
		r.LoadSeen(10, 20_000, 1)
	}
	if p := best(r.load.tell()); p == nil || p.Left < 350 || p.Left > 650 {
		t.Errorf("reads: %v", r.load.tell())
	}
}

// TestLoadIsCut: what is known of a busy range is shared out when it is cut, as its sample lies, and both parts know at once where they could be
// cut in their turn.
func TestLoadIsCut(t *testing.T) {
	dice := rand.New(rand.NewPCG(3, 4))
	r := newLoaded(true)
	write := func(int) *pb.Op { return loadPut(fmt.Sprintf("k%03d", dice.IntN(1000))) }
	whole := busy(r, write)
	for range 1000 { // of the window under way
		r.batch(write(0))
	}
	part := r.load.cut([]byte("k300"))
	right := newLoaded(true)
	d := shard.Descriptor{ID: 3, Span: shard.Span{Start: []byte("k300")}}
	right.desc.Store(&d)
	right.Inherit(part)
	for _, c := range []struct {
		r        *Replica
		share    float64
		from, to string
	}{{r, 0.3, "k000", "k300"}, {right, 0.7, "k300", "k999"}} {
		l := c.r.load.tell()
		near := func(what string, got, want uint64) {
			if share := float64(got) / float64(want); share < c.share-0.08 || share > c.share+0.08 {
				t.Errorf("%s of the part from %s on: %d of %d", what, c.from, got, want)
			}
		}
		near("cpu", l.CpuNs, whole.CpuNs)
		near("lowest cpu", l.LowCpuNs, whole.LowCpuNs)
		near("highest cpu", l.PeakCpuNs, whole.PeakCpuNs)
		near("writes", l.LowWritesMilli, whole.LowWritesMilli)
		near("counted", c.r.load.counted.writes.Load(), 1000)
		if l.KnownS != whole.KnownS {
			t.Errorf("known for %d s", l.KnownS)
		}
		p := best(l)
		if p == nil || p.Left < 400 || p.Left > 600 || string(p.Key) <= c.from || string(p.Key) >= c.to {
			t.Errorf("the part from %s on is best cut at %v", c.from, p)
		}
		again := c.r.load.cut(p.Key) // which can go on for as long as the sample says something
		if again == nil || best(c.r.load.tell()) == nil {
			t.Errorf("the part from %s on cannot be cut again", c.from)
		}
		c.r.LoadUnits()
		c.r.LoadSeen(10, 20_000, 1)
	}
	for range 2 { // idle
		r.LoadUnits()
		r.LoadSeen(10, 20_000, 1)
	}
	if part := r.load.cut([]byte("k100")); part != nil || r.load.tell().KnownS != 0 {
		t.Error("a part without a sample knows its load")
	}
}

// TestLoadOfAnIdleRange: nothing is kept of it.
func TestLoadOfAnIdleRange(t *testing.T) {
	r := newLoaded(true)
	for range 3 {
		for i := range 100 {
			r.batch(loadPut(fmt.Sprint(i)))
		}
		r.LoadUnits()
		r.LoadSeen(10, 20_000, 1)
	}
	if l := r.load.tell(); len(l.Points) != 0 || r.load.keys.now != nil {
		t.Errorf("%v", l)
	}
}

// BenchmarkLoad is what counting costs a batch of 64 requests, of a range that is not sampled and of one that is.
func BenchmarkLoad(b *testing.B) {
	ops := make([]*pb.Op, 64)
	for i := range ops {
		ops[i] = loadPut(fmt.Sprintf("k%03d", i))
	}
	d := &apply.Decision{Entry: &pb.Entry{Batch: &pb.Batch{Requests: ops}}}
	for _, sampled := range []bool{false, true} {
		b.Run(fmt.Sprintf("sampled=%v", sampled), func(b *testing.B) {
			r := newLoaded(true)
			r.load.keys.on.Store(sampled)
			b.ReportAllocs()
			for b.Loop() {
				r.load.applied(4096, d)
			}
		})
	}
}
