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

// Batches against a slice that is cut; what is taken stays as it is until it is given back.
func TestBatches(t *testing.T) {
	for _, spare := range []int{0, 8} {
		q := Batches[*int]{Spare: spare}
		var want []*int
		var taken, copied [][]*int
		rng := rand.New(rand.NewPCG(2, uint64(spare)))
		for range 20000 {
			for range rng.IntN(6) {
				v := new(int)
				q.Push(v)
				want = append(want, v)
			}
			if !slices.Equal(q.Items(), want) || q.Len() != len(want) {
				t.Fatalf("%d wait, want %d", q.Len(), len(want))
			}
			if n := rng.IntN(len(want) + 1); rng.IntN(2) == 0 {
				batch := q.Take(n)
				if !slices.Equal(batch, want[:n]) {
					t.Fatal("out of order")
				}
				want = want[n:]
				taken, copied = append(taken, batch), append(copied, slices.Clone(batch))
			}
			for i := range taken {
				if !slices.Equal(taken[i], copied[i]) {
					t.Fatal("a batch was written while it was somebody's")
				}
			}
			if len(taken) > rng.IntN(4) {
				q.Recycle(taken[0])
				taken, copied = taken[1:], copied[1:]
			}
			if spare > 0 && cap(q.spare) > spare {
				t.Fatalf("room for %d was kept", cap(q.spare))
			}
			if slices.ContainsFunc(q.spare[:cap(q.spare)], func(p *int) bool { return p != nil }) {
				t.Fatal("it refers to what has been taken")
			}
		}
	}
}

// What is taken and given back as a whole takes turns in two slices.
func TestBatchesUseRoomAgain(t *testing.T) {
	var q Batches[int]
	if n := testing.AllocsPerRun(1000, func() {
		for i := range 10 {
			q.Push(i)
		}
		q.Recycle(q.Take(q.Len()))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
