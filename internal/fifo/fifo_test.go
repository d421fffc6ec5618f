package fifo

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Against a slice that is appended to and cut.
func TestQueue(t *testing.T) {
	for _, spare := range []int{0, 8} {
		q := Queue[*int]{Spare: spare}
		var want []*int
		rng := rand.New(rand.NewPCG(1, uint64(spare)))
		for range 20000 {
			if n := rng.IntN(6); rng.IntN(100) < 50-rng.IntN(10) {
				vs := make([]*int, n)
				for i := range vs {
					vs[i] = new(int)
				}
				q.Push(vs...)
				want = append(want, vs...)
			}
			for range rng.IntN(4) {
				v, ok := q.Pop()
				if ok != (len(want) > 0) {
					t.Fatalf("%v of %d", ok, len(want))
				}
				if ok {
					if v != want[0] {
						t.Fatal("out of order")
					}
					want = want[1:]
				}
			}
			if q.Len() != len(want) || !slices.Equal(q.Items(), want) {
				t.Fatalf("%d wait, want %d", q.Len(), len(want))
			}
			if free := q.all[len(q.all):cap(q.all)]; slices.ContainsFunc(slices.Concat(q.all[:q.head], free), func(p *int) bool { return p != nil }) {
				t.Fatal("it refers to what has been taken")
			}
			if q.Len() == 0 && spare > 0 && cap(q.all) > max(spare, 2*6) {
				t.Fatalf("empty, with room for %d", cap(q.all))
			}
		}
	}
}

// A queue that is never empty stays as large as what waits asks for.
func TestRoomIsUsedAgain(t *testing.T) {
	var q Queue[int]
	q.Push(0, 1, 2, 3)
	for i := range 10000 {
		q.Push(i)
		q.Pop()
	}
	if cap(q.all) > 32 {
		t.Fatalf("room for %d, for 4 that wait", cap(q.all))
	}
}
