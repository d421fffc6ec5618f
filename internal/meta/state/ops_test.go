package state

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/clusterversion"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// world is a state beside the ranges as their own logs have them.
type world struct {
	t     testing.TB
	r     *rand.Rand
	s     *State
	index uint64
	truth *shard.Map
	// done has what a range answers for an op that it has carried out, or made impossible.
	done    map[shard.OpID]*pb.MetaEndOp
	ids     map[string]bool // that were given out, and may not be again
	begun   []shard.Op
	reports []*pb.MetaEndOp  // of any time, which may come again
	stays   map[string]int64 // borders
	counts  struct{ begun, refused, done, givenUp, badEnds int }
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 7)), s: laidOut(t, 3), index: 10,
		done: map[shard.OpID]*pb.MetaEndOp{}, stays: map[string]int64{}, ids: map[string]bool{}}
	w.s.version = clusterversion.Newest
	w.truth = w.s.Map()
	for d := range w.truth.All() {
		w.own("range", uint64(d.ID))
		for _, rep := range d.Replicas {
			w.ids[fmt.Sprint("replica ", rep.ID)] = true // the layout of the test gives ranges the same
		}
	}
	return w
}

// own notes that an id was given out.
func (w *world) own(what string, id uint64) {
	w.t.Helper()
	name := fmt.Sprint(what, " ", id)
	if id == 0 || w.ids[name] {
		w.t.Fatalf("%s is given out again", name)
	}
	w.ids[name] = true
}

func (w *world) apply(e *pb.MetaEntry) Result {
	w.index++
	e.Term = 1
	return w.s.Apply(w.index, 1, e)
}

func (w *world) key() []byte { return []byte(fmt.Sprintf("%02x", w.r.IntN(256))) }

// begin asks for a split, now and then of something else than the map has.
func (w *world) begin() {
	w.t.Helper()
	key := w.key()
	d := w.s.Map().Lookup(key)
	op := shard.Op{Kind: shard.OpSplit, Range: d.ID, Generation: d.Generation, Key: key, Reason: "test", Began: int64(w.index)}
	var planned *pb.MetaEntry
	sticky := []int64{-1, 0, 0, int64(w.r.IntN(3))}[w.r.IntN(4)]
	planned, plan := PlanSplit(w.s, &pb.SplitOp{Key: key, Reason: "test", StickyS: sticky}, int64(w.index))
	asked := true
	switch w.r.IntN(6) {
	case 0:
		op.Generation, asked = op.Generation+shard.Generation(w.r.IntN(3))-1, false
	case 1:
		op.Range, asked = op.Range+shard.RangeID(w.r.IntN(3))-1, false
	}
	busy := slices.ContainsFunc(w.s.OpsUnderWay(), func(o shard.Op) bool { return o.Range == op.Range })
	e := &pb.MetaEntry{BeginOp: &pb.MetaBeginOp{Op: pb.FromOp(&op)}}
	if asked && plan == nil {
		e = planned
	}
	res := w.apply(e)
	if asked && (plan == nil) != (res.Err == nil) {
		w.t.Fatalf("planned: %v, applied: %v", plan, res.Err)
	}
	if res.Err != nil {
		w.counts.refused++
		return
	}
	if busy {
		w.t.Fatalf("two ops in %v", op.Range)
	}
	got := res.Op
	w.own("op", uint64(got.ID))
	w.own("range", uint64(got.Child))
	for _, rep := range got.Replicas {
		w.own("replica", uint64(rep.ID))
	}
	if was, _ := w.s.Map().Get(got.Range); len(got.Replicas) != len(was.Replicas) || got.Generation != was.Generation ||
		!was.Span.Contains(got.Key) || string(was.Span.Start) == string(got.Key) {
		w.t.Fatalf("%v begins %+v", was, got)
	}
	w.begun = append(w.begun, got)
	w.counts.begun++
}

// act lets a range carry out an op, or make it impossible, once.
func (w *world) act() {
	if len(w.begun) == 0 {
		return
	}
	op := w.begun[w.r.IntN(len(w.begun))]
	if w.done[op.ID] != nil {
		return
	}
	d, ok := w.truth.Get(op.Range)
	if !ok {
		w.t.Fatalf("%v is gone", op.Range)
	}
	end := &pb.MetaEndOp{Id: uint64(op.ID), EndedMs: int64(w.index), StoodUs: 1500}
	if d.Generation == op.Generation && w.r.IntN(2) > 0 { // by its log, whatever the map has
		next, err := w.truth.Split(op.Range, op.Key, op.Child, op.Replicas)
		if err != nil {
			w.t.Fatal(err)
		}
		w.truth = next
		left, _ := next.Get(op.Range)
		right, _ := next.Get(op.Child)
		end.Ranges = pb.FromDescriptors([]shard.Descriptor{left, right})
	} else {
		d.Generation++
		next, err := w.truth.Apply(d)
		if err != nil {
			w.t.Fatal(err)
		}
		w.truth = next
		end.Ranges, end.Failure = pb.FromDescriptors([]shard.Descriptor{d}), "no space"
	}
	w.done[op.ID] = end
}

// end reports an outcome: whole, in part, doubled or late.
func (w *world) end() {
	w.t.Helper()
	var e *pb.MetaEndOp
	open := w.s.OpsUnderWay()
	if len(w.reports) > 0 && w.r.IntN(4) == 0 {
		e = proto.CloneOf(w.reports[w.r.IntN(len(w.reports))])
		if len(open) > 0 && w.r.IntN(2) == 0 { // an old word for an op of now
			e.Id = uint64(open[w.r.IntN(len(open))].ID)
		}
	} else {
		if len(open) == 0 {
			return
		}
		op := open[w.r.IntN(len(open))]
		if e = w.done[op.ID]; e == nil {
			d, _ := w.s.Map().Get(op.Range) // nothing has happened there yet
			e = &pb.MetaEndOp{Id: uint64(op.ID), Ranges: []*pb.Descriptor{pb.FromDescriptor(d)}, Failure: "lost patience"}
		}
		w.reports = append(w.reports, e)
		e = proto.CloneOf(e)
		switch w.r.IntN(6) {
		case 0:
			e.Ranges = e.Ranges[:len(e.Ranges)-1]
		case 1:
			e.Ranges, e.Failure = e.Ranges[:1], "one part alone"
		case 2:
			e.Ranges[0].Generation++ // who says so has not looked at its log
			if w.done[shard.OpID(e.Id)] == nil {
				return // that would be a lie that nobody can tell from the truth
			}
			e.Ranges[0].Generation -= 2
		}
	}
	was, before := w.s.Map(), w.s.Ops()
	res := w.apply(&pb.MetaEntry{EndOp: e})
	if res.Err != nil {
		w.counts.badEnds++
		if w.s.Map() != was || fmt.Sprint(w.s.Ops()) != fmt.Sprint(before) {
			w.t.Fatalf("what was refused has changed something: %v", res.Err)
		}
		return
	}
	truth := w.done[res.Op.ID]
	if truth == nil {
		w.t.Fatalf("op %d is over, and its range knows nothing of it", res.Op.ID)
	}
	for _, p := range truth.Ranges {
		want := pb.ToDescriptor(p)
		if got, ok := w.s.Map().Get(want.ID); !ok || !got.Equal(&want) {
			w.t.Fatalf("op %d is over, and the map has %v instead of %v", res.Op.ID, got, want)
		}
	}
	if got := res.Op.Outcome(); (got == shard.OpGivenUp) != (truth.Failure != "") || got == shard.OpUnderWay {
		w.t.Fatalf("op %d is %s", res.Op.ID, got)
	}
	if res.Op.Failure == "" {
		w.counts.done++
		w.stay(&res.Op)
	} else {
		w.counts.givenUp++
	}
}

// stay notes what border a split was to leave.
func (w *world) stay(op *shard.Op) {
	if op.Until == 0 {
		return
	}
	for key, until := range w.stays {
		if until <= op.Ended {
			delete(w.stays, key)
		}
	}
	w.stays[string(op.Key)] = op.Until
}

// unstick takes back that a border stays, or one that need not.
func (w *world) unstick() {
	w.t.Helper()
	key := w.key()
	if all := w.s.Borders(); len(all) > 0 && w.r.IntN(4) > 0 {
		key = all[w.r.IntN(len(all))].Key
	}
	_, stays := w.stays[string(key)]
	res := w.apply(&pb.MetaEntry{Unstick: &pb.MetaUnstick{Key: key}})
	if (res.Err == nil) != stays {
		w.t.Fatalf("%q stays: %v; taken back: %v", key, stays, res.Err)
	}
	delete(w.stays, string(key))
}

// check holds the state against what must always be so.
func (w *world) check() {
	w.t.Helper()
	if _, err := shard.NewMap(1, slices.Collect(w.s.Map().All())); err != nil {
		w.t.Fatalf("the map does not tile: %v", err)
	}
	open := w.s.OpsUnderWay()
	in := map[shard.RangeID]bool{}
	for _, op := range open {
		if in[op.Range] {
			w.t.Fatalf("%v is in two ops", op.Range)
		}
		in[op.Range] = true
	}
	if len(open) > OpsUnderWayMax || len(w.s.over) > OpsOverMax {
		w.t.Fatalf("%d ops under way, %d over", len(open), len(w.s.over))
	}
	got := map[string]int64{}
	for _, b := range w.s.Borders() {
		got[string(b.Key)] = b.Until
	}
	if !maps.Equal(got, w.stays) || !slices.IsSortedFunc(w.s.Borders(), func(a, b Border) int { return strings.Compare(string(a.Key), string(b.Key)) }) {
		w.t.Fatalf("%v stay, and should %v", w.s.Borders(), w.stays)
	}
	if len(open) == 0 && describe(slices.Collect(w.s.Map().All())) != describe(slices.Collect(w.truth.All())) {
		w.t.Fatalf("nothing is under way, and the map is\n%v\ninstead of\n%v", w.s.Map(), w.truth)
	}
}

// restart writes and reads the state.
func (w *world) restart() {
	w.t.Helper()
	raw, err := w.s.Image().Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	back, err := Restore(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	if fmt.Sprint(back.ops, back.next, back.borders) != fmt.Sprint(w.s.ops, w.s.next, w.s.borders) {
		w.t.Fatalf("%v became %v", w.s.ops, back.ops)
	}
	w.s = back
}

// TestOps: whatever is asked and reported, in any order, doubled or late, the map tiles the key space, follows the ranges,
// and a range is in one op at a time.
func TestOps(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	all := [4]int{}
	for seed := range uint64(40) {
		w := newWorld(t, seed)
		for range 400 {
			switch w.r.IntN(10) {
			case 0, 1, 2:
				w.begin()
			case 3, 4, 5:
				w.act()
			case 6, 7:
				w.end()
			case 8:
				w.restart()
			case 9:
				w.unstick()
			}
			w.check()
		}
		for i, n := range []int{w.counts.done, w.counts.givenUp, w.counts.refused, w.counts.badEnds} {
			all[i] += n
		}
	}
	for i, n := range all {
		if n < 200 {
			t.Errorf("what was to be seen of kind %d came only %d times", i, n)
		}
	}
}

// TestMutants: the rules of ops taken out one by one, each must be noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.OpsNames(), time.Minute, func(out string) string { return fmt.Sprintf("noticed: %.200s", out) }, "-test.run=^TestOps(OfTheGroup|OfMoves|OfMerges)?$")
}

// TestOpsRefused: who asks for what cannot be is told why, and what to do.
func TestOpsRefused(t *testing.T) {
	s := laidOut(t, 2)
	border := s.Map().Lookup([]byte{0xff}).Span.Start
	wants := func(what string, key []byte, is error, words ...string) {
		t.Helper()
		_, err := PlanSplit(s, &pb.SplitOp{Key: key}, 1)
		if !errors.Is(err, is) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", what, err, w)
			}
		}
	}
	wants("an old cluster", []byte("k"), shard.ErrUnimplemented, "version 2", "these do not: one, two")
	for i := range s.list {
		s.list[i].Formats = uint32(clusterversion.Newest)
	}
	wants("a cluster that is about to be new", []byte("k"), shard.ErrUnimplemented, "try again")
	s.version = clusterversion.Newest
	wants("nothing", nil, shard.ErrInvalid, "first key")
	wants("a border", border, shard.ErrInvalid, "a border already", "r3 begins there")
	e, err := PlanSplit(s, &pb.SplitOp{Key: []byte("k"), Reason: "by hand"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	e.Term = 1
	if res := s.Apply(20, 1, e); res.Err != nil || res.Op.ID != 1 || res.Op.Reason != "by hand" {
		t.Fatalf("%+v", res)
	}
	wants("twice", []byte("k"), shard.ErrOpInWay, "is being split by op 1", "client ops")
	other := shard.Descriptor{ID: 2, Span: s.Map().Lookup(nil).Span, Generation: 5}
	if err := s.ApplyRanges(other); err != nil {
		t.Fatal(err)
	}
	s.ops = ops{}
	if res := s.Apply(21, 1, e); !errors.Is(res.Err, shard.ErrOpInWay) || !strings.Contains(res.Err.Error(), "generation 5") {
		t.Errorf("of another generation: %v", res.Err)
	}
	e.BeginOp.Op.Generation, e.BeginOp.Op.Key = 5, []byte{0xf0}
	if res := s.Apply(22, 1, e); !errors.Is(res.Err, shard.ErrInvalid) || !strings.Contains(res.Err.Error(), "is not in r2") {
		t.Errorf("outside: %v", res.Err)
	}
	e.BeginOp.Op.Kind = 77
	if res := s.Apply(23, 1, e); !errors.Is(res.Err, shard.ErrCorrupt) {
		t.Errorf("of a kind that nobody knows: %v", res.Err)
	}
	if _, err := PlanSplit(New(), &pb.SplitOp{Key: []byte("k")}, 1); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("before the bootstrap: %v", err)
	}
}

// TestOpsOfBefore: a snapshot that was written before there were ops is read, and gives ids out from the first on.
func TestOpsOfBefore(t *testing.T) {
	m := laidOut(t, 2).Image().rest
	m.NextOpId = 0
	raw, err := m.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Restore(raw)
	if err != nil || s.next.ops != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	m.NextOpId = 7
	for name, ops := range map[string][]*pb.MetaOp{
		"without an id": {{}}, "that nobody began": {{Id: 7}}, "twice": {{Id: 3, EndedMs: 1}, {Id: 3}}, "in no order": {{Id: 4}, {Id: 3}},
	} {
		m.Ops = ops
		raw, err := m.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(raw); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("an op %s: %v", name, err)
		}
	}
}

// TestOpsAreBounded: so many under way and no more, and so many are remembered.
func TestOpsAreBounded(t *testing.T) {
	s := laidOut(t, 200)
	s.version = clusterversion.Newest
	index := uint64(10)
	apply := func(e *pb.MetaEntry) Result {
		index++
		e.Term = 1
		return s.Apply(index, 1, e)
	}
	ended := shard.OpID(0)
	for d := range s.Map().All() {
		key := append(slices.Clone(d.Span.Start), 1)
		e, err := PlanSplit(s, &pb.SplitOp{Key: key}, 1)
		if len(s.OpsUnderWay()) == OpsUnderWayMax {
			if !errors.Is(err, shard.ErrOpInWay) || !strings.Contains(err.Error(), "64 ops are under way") {
				t.Fatalf("one more: %v", err)
			}
			op := s.OpsUnderWay()[3]
			left, _ := s.Map().Get(op.Range)
			left.Generation++
			if res := apply(&pb.MetaEntry{EndOp: &pb.MetaEndOp{Id: uint64(op.ID), Ranges: []*pb.Descriptor{pb.FromDescriptor(left)}, Failure: "x"}}); res.Err != nil || res.Op.Ended == 0 {
				t.Fatalf("%+v", res)
			}
			ended = op.ID
			e, err = PlanSplit(s, &pb.SplitOp{Key: key}, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		if res := apply(e); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	if _, ok := s.Op(ended); !ok || len(s.over) != OpsOverMax {
		t.Errorf("%d are remembered, the last to end: %v", len(s.over), ok)
	}
	if all := s.Ops(); len(all) != OpsOverMax+OpsUnderWayMax || !slices.IsSortedFunc(all, func(a, b shard.Op) int { return int(a.ID) - int(b.ID) }) {
		t.Errorf("%d ops", len(all))
	}
}
