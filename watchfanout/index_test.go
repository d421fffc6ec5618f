package watchfanout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/cockroachdb/datadriven"

	"pontoon/shard"
)

// TestIndex holds the index against a list of watches, over random additions and removals.
func TestIndex(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		var x index
		st, l := &Stream{}, &lane{}
		var last *watch // of the stream
		var all []*watch
		for step := range 400 {
			if len(all) > 0 && r.IntN(5) < 2 {
				i := r.IntN(len(all))
				all[i].live.Store(false)
				x.remove(all[i])
				all = slices.Delete(all, i, i+1)
			} else {
				w := &watch{st: st, id: int64(step), prev: last}
				last = w
				w.setSpan(randomSpan(r))
				w.lane.Store(l)
				x.add(w)
				w.live.Store(true)
				all = append(all, w)
			}
			checkIndex(t, seed, &x, all, []byte{byte('a' + r.IntN(8)), byte('a' + r.IntN(8))})
		}
		for _, w := range all {
			w.live.Store(false)
			x.remove(w)
		}
		if x.root != nil || len(x.keys) > 0 || x.size != 0 {
			t.Fatalf("seed %d: something is left", seed)
		}
	}
}

func randomSpan(r *rand.Rand) shard.Span {
	for {
		a := []byte{byte('a' + r.IntN(4)), byte('a' + r.IntN(4))}
		s := shard.Span{Start: a, End: []byte{byte('a' + r.IntN(6))}}
		switch r.IntN(4) {
		case 0:
			s = shard.Point(a)
		case 1:
			s = shard.Span{Start: a}
		}
		if !s.Empty() {
			return s
		}
	}
}

func checkIndex(t *testing.T, seed uint64, x *index, all []*watch, key []byte) {
	var got, want []int64
	for _, w := range x.match(nil, key) {
		for ; w != nil; w = w.after {
			got = append(got, w.id)
		}
	}
	for _, w := range all {
		if w.span().Contains(key) {
			want = append(want, w.id)
		}
		if w.covers(key) != w.span().Contains(key) {
			t.Fatalf("seed %d key %s: %v", seed, key, w.span())
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("seed %d key %s: got %v want %v", seed, key, got, want)
	}
}

// TestWatchIsSmall: a node may hold a million.
func TestWatchIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(watch{}); size > 160 {
		t.Errorf("a watch takes %d bytes", size)
	}
}

// TestPositionScenarios: "step" gives a position, a lane's state and whether there is room.
func TestPositionScenarios(t *testing.T) {
	datadriven.RunTest(t, "testdata/position", func(t *testing.T, d *datadriven.TestData) string {
		var p position
		var l laneState
		var horizon string
		d.ScanArgs(t, "pos", &p.pos)
		d.MaybeScanArgs(t, "released", &l.released)
		d.MaybeScanArgs(t, "recent", &l.recent)
		d.MaybeScanArgs(t, "horizon", &horizon)
		l.horizon = parseRev(t, horizon)
		p.unchecked = d.HasArg("unchecked")
		switch d.Cmd {
		case "step":
			return p.next(l, !d.HasArg("full")).String() + "\n"
		case "progress":
			rev, ok := p.progress(d.HasArg("live"), l.released)
			return fmt.Sprintf("%d %v\n", rev, ok)
		}
		return "unknown command\n"
	})
}
