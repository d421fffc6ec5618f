package watchfanout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/datadriven"

	"pontoon/shard"
)

// TestIndex holds the index against a list of watches, over random additions and removals.
func TestIndex(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		var x index
		var all []*watch
		for step := range 400 {
			if len(all) > 0 && r.IntN(5) < 2 {
				i := r.IntN(len(all))
				x.remove(all[i])
				all = slices.Delete(all, i, i+1)
			} else {
				w := &watch{id: int64(step), spans: randomSpans(r)}
				x.add(w)
				all = append(all, w)
			}
			checkIndex(t, seed, &x, all, []byte{byte('a' + r.IntN(8)), byte('a' + r.IntN(8))})
		}
		for _, w := range all {
			x.remove(w)
		}
		if x.root != nil || len(x.keys) > 0 || x.size != 0 {
			t.Fatalf("seed %d: something is left", seed)
		}
	}
}

func randomSpans(r *rand.Rand) []shard.Span {
	var spans []shard.Span
	for range 1 + r.IntN(3) {
		a, b := []byte{byte('a' + r.IntN(8)), byte('a' + r.IntN(8))}, []byte{byte('a' + r.IntN(9))}
		switch r.IntN(4) {
		case 0:
			spans = append(spans, shard.Point(a))
		case 1:
			spans = append(spans, shard.Span{Start: a})
		default:
			spans = append(spans, shard.Span{Start: a, End: b})
		}
	}
	if spans = normalize(spans); len(spans) == 0 {
		return []shard.Span{shard.All}
	}
	return spans
}

func checkIndex(t *testing.T, seed uint64, x *index, all []*watch, key []byte) {
	var got, want []int64
	for _, n := range x.match(nil, key) {
		for _, s := range n.subs {
			got = append(got, s.w.id)
		}
	}
	for _, w := range all {
		if w.covers(key) {
			want = append(want, w.id)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("seed %d key %s: got %v want %v", seed, key, got, want)
	}
}

// TestPositionScenarios: "step" gives a position, a lane's view and whether there is room.
func TestPositionScenarios(t *testing.T) {
	datadriven.RunTest(t, "testdata/position", func(t *testing.T, d *datadriven.TestData) string {
		var p position
		var v view
		var horizon string
		d.ScanArgs(t, "pos", &p.pos)
		d.MaybeScanArgs(t, "start", &p.start)
		d.MaybeScanArgs(t, "released", &v.released)
		d.MaybeScanArgs(t, "recent", &v.recent)
		d.MaybeScanArgs(t, "horizon", &horizon)
		v.horizon = parseRev(t, horizon)
		p.fresh = d.HasArg("fresh")
		switch d.Cmd {
		case "step":
			return p.next(v, !d.HasArg("full")).String() + "\n"
		case "progress":
			rev, ok := p.progress(d.HasArg("live"), v.released)
			return fmt.Sprintf("%d %v\n", rev, ok)
		}
		return "unknown command\n"
	})
}

// TestNormalize: a key lies in at most one of a watch's spans, so that no event comes twice.
func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"a-c+b-d": "a-d", "a-c+c-d": "a-d", "k+k": "k", "b-a": "", "x-+y": "x-", "b+a": "a+b", "-+k": "-",
		"k-l+ka+m": "k-l+m",
	} {
		if got := joinSpans(normalize(parseSpans(in))); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
