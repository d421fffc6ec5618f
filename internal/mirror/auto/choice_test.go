package auto_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pontoon/internal/mirror/auto"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

// TestMutants: each rule that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.AutoNames(), time.Minute, mutatetest.NoticedBy, "-test.run=^(TestRules|TestRandom)$")
}

func take() {
	if *mutatetest.Mutant != "" {
		mutate.Set(*mutatetest.Mutant)
	}
}

const (
	kib   = 1 << 10
	floor = 4 * kib
)

// gateway is a Choice, ranges of some sizes, and mirrors of those that it takes, which are read in a second.
type gateway struct {
	t      *testing.T
	choice *auto.Choice
	m      *shard.Map
	sizes  map[shard.RangeID]int
	rates  map[shard.RangeID]float64 // times that a range is listed a minute
	owed   map[shard.RangeID]float64
	room   int
	taken  map[shard.RangeID]auto.Range
	whole  map[shard.RangeID]bool
	takes  map[shard.RangeID]int
	now    time.Time
}

func newGateway(t *testing.T, room int, sizes ...int) *gateway {
	g := &gateway{
		t: t, choice: auto.New(floor), room: room, sizes: map[shard.RangeID]int{}, rates: map[shard.RangeID]float64{}, owed: map[shard.RangeID]float64{},
		taken: map[shard.RangeID]auto.Range{}, whole: map[shard.RangeID]bool{}, takes: map[shard.RangeID]int{}, now: time.Unix(1000, 0),
	}
	var all []shard.Descriptor
	for i, size := range sizes {
		d := shard.Descriptor{ID: shard.RangeID(2 + i), Generation: 1, Span: shard.Span{Start: key(i), End: key(i + 1)}}
		if i == 0 {
			d.Span.Start = nil
		}
		if i == len(sizes)-1 {
			d.Span.End = nil
		}
		all = append(all, d)
		g.sizes[d.ID] = size
	}
	g.remap(all)
	return g
}

func key(i int) []byte { return fmt.Appendf(nil, "k%04d", i) }

func (g *gateway) remap(all []shard.Descriptor) {
	g.t.Helper()
	version := uint64(1)
	if g.m != nil {
		version = g.m.Version() + 1
	}
	m, err := shard.NewMap(version, all)
	if err != nil {
		g.t.Fatal(err)
	}
	g.m = m
	g.choice.Follow(m, g.now)
}

// second lets a second pass: lists come, mirrors are read, and it is decided anew.
func (g *gateway) second() {
	g.t.Helper()
	g.now = g.now.Add(time.Second)
	for id, rate := range g.rates {
		for g.owed[id] += rate / 60; g.owed[id] >= 1; g.owed[id]-- {
			sofar := 0
			for sofar < g.sizes[id] { // in pages
				n := min(g.sizes[id]-sofar, 64*kib)
				sofar += n
				g.choice.Listed(id, n, sofar, g.now)
			}
		}
	}
	held := map[shard.RangeID]auto.Held{}
	for id, r := range g.taken {
		switch {
		case g.whole[id] || g.sizes[id] <= r.Room:
			g.whole[id] = true
			held[id] = auto.Held{Bytes: g.sizes[id], Whole: true}
		default:
			g.choice.TooLarge(id, r.Room+1, g.now)
		}
	}
	g.choice.Decide(g.m, g.room, held, g.now)
	before, sum := g.taken, 0
	g.taken = map[shard.RangeID]auto.Range{}
	for _, r := range g.choice.Taken() {
		if _, was := before[r.ID]; !was {
			g.takes[r.ID]++
			g.whole[r.ID] = false
		}
		g.taken[r.ID] = r
		if g.whole[r.ID] {
			sum += g.sizes[r.ID]
		} else {
			sum += r.Room
		}
	}
	if sum > g.room {
		g.t.Fatalf("%d bytes have been given, there are %d", sum, g.room)
	}
}

func (g *gateway) run(d time.Duration) {
	g.t.Helper()
	for end := g.now.Add(d); g.now.Before(end); {
		g.second()
	}
}

func (g *gateway) want(taken ...shard.RangeID) {
	g.t.Helper()
	ok := len(taken) == len(g.taken)
	for _, id := range taken {
		_, is := g.taken[id]
		ok = ok && is
	}
	if !ok {
		g.t.Fatalf("%v are taken, want %v", g.taken, taken)
	}
}

// TestRules: what is taken, when, and what is given up.
func TestRules(t *testing.T) {
	take()
	for name, run := range map[string]func(t *testing.T){
		"listed less often than its size, and more often": func(t *testing.T) {
			g := newGateway(t, 1000*kib, 100*kib, 100*kib)
			g.rates[2] = 0.5
			g.run(20 * time.Minute)
			g.want()
			g.rates[2] = 6
			g.run(3 * time.Minute)
			g.want(2)
			g.rates[2] = 1 // less than would have it taken, and it stays
			g.run(30 * time.Minute)
			g.want(2)
			if g.takes[2] != 1 {
				t.Errorf("it was taken %d times", g.takes[2])
			}
			g.rates[2] = 0
			g.run(3 * time.Minute)
			g.want()
		},
		"a list or two after a break": func(t *testing.T) {
			g := newGateway(t, 1000*kib, 100*kib)
			g.choice.Listed(2, 100*kib, 100*kib, g.now)
			g.second()
			g.choice.Listed(2, 100*kib, 100*kib, g.now)
			g.run(time.Minute)
			g.want()
		},
		"next to nothing, however often": func(t *testing.T) {
			g := newGateway(t, 1000*kib, 10)
			g.rates[2] = 60
			g.run(10 * time.Minute)
			g.want()
		},
		"two of which one has room, listed alike": func(t *testing.T) {
			g := newGateway(t, 150*kib, 100*kib, 100*kib)
			g.rates[2], g.rates[3] = 10, 12
			g.run(2 * time.Hour)
			if len(g.taken) != 1 || g.takes[2]+g.takes[3] != 1 {
				t.Errorf("%v, taken %v", g.taken, g.takes)
			}
		},
		"another one that is listed much more": func(t *testing.T) {
			g := newGateway(t, 150*kib, 100*kib, 100*kib)
			g.rates[2] = 6
			g.run(3 * time.Minute)
			g.want(2)
			g.rates[3] = 30
			g.run(time.Minute)
			g.want(3)
			g.run(time.Hour)
			g.want(3)
			if g.takes[2] != 1 || g.takes[3] != 1 {
				t.Errorf("taken %v times", g.takes)
			}
		},
		"the small ones before the large one, which is listed more than each": func(t *testing.T) {
			g := newGateway(t, 500*kib, 50*kib, 50*kib, 450*kib)
			g.rates[2], g.rates[3], g.rates[4] = 24, 24, 4
			g.run(10 * time.Minute)
			g.want(2, 3)
		},
		"larger than its lists have shown": func(t *testing.T) {
			g := newGateway(t, 500*kib, 10)
			g.sizes[2] = 800 * kib
			for range 600 { // of one page, again and again
				g.choice.Listed(2, 64*kib, 64*kib, g.now)
				g.second()
			}
			if g.want(); g.takes[2] == 0 || g.takes[2] > 5 {
				t.Errorf("it was tried %d times in ten minutes", g.takes[2])
			}
		},
		"one that grows": func(t *testing.T) {
			g := newGateway(t, 300*kib, 100*kib, 100*kib)
			g.rates[2], g.rates[3] = 10, 30
			g.run(3 * time.Minute)
			g.want(2, 3)
			g.sizes[2] = 201 * kib
			func() {
				defer func() { g.room = 300 * kib }()
				g.room = 301 * kib // of this second
				g.second()
			}()
			g.second()
			g.want(3)
		},
		"one whose mirror does not hold": func(t *testing.T) {
			g := newGateway(t, 300*kib, 100*kib)
			g.rates[2] = 30
			g.run(time.Minute)
			g.want(2)
			for range 4 {
				g.choice.Voided(2, g.now)
			}
			g.choice.Voided(99, g.now)
			g.second()
			g.want()
			g.run(50 * time.Second)
			g.want()
			g.run(20 * time.Second)
			g.want(2)
			for range 10 { // from time to time that is to be expected
				g.run(3 * time.Minute)
				g.choice.Voided(2, g.now)
				g.second()
				g.want(2)
			}
		},
		"less room, and none": func(t *testing.T) {
			g := newGateway(t, 300*kib, 100*kib, 100*kib)
			g.rates[2], g.rates[3] = 10, 30
			g.run(3 * time.Minute)
			g.want(2, 3)
			g.room = 150 * kib
			g.second()
			g.want(3)
			g.room = 0
			g.second()
			g.want()
		},
		"one that is cut, and merged again": func(t *testing.T) {
			g := newGateway(t, 300*kib, 100*kib)
			g.rates[2] = 30
			g.run(time.Minute)
			g.want(2)
			g.remap([]shard.Descriptor{
				{ID: 2, Generation: 2, Span: shard.Span{End: key(5)}}, {ID: 7, Generation: 3, Span: shard.Span{Start: key(5), End: key(7)}},
				{ID: 8, Generation: 3, Span: shard.Span{Start: key(7)}},
			})
			g.sizes[2], g.sizes[7], g.sizes[8], g.rates[7], g.rates[8] = 30*kib, 50*kib, 20*kib, 30, 0
			g.taken = map[shard.RangeID]auto.Range{}
			for _, r := range g.choice.Taken() {
				d, _ := g.m.Get(r.ID)
				if !r.Span.Equal(d.Span) {
					t.Errorf("%v has %v", r, d.Span)
				}
				g.taken[r.ID], g.whole[r.ID] = r, true
			}
			g.want(2, 7, 8)
			g.second()
			g.want(2, 7, 8)
			g.run(7 * time.Minute) // nobody lists the last
			g.want(2, 7)
			g.remap([]shard.Descriptor{{ID: 2, Generation: 4, Span: shard.All}})
			for _, r := range g.choice.Taken() {
				t.Errorf("%v stays", r)
			}
		},
	} {
		t.Run(name, run)
	}
}

// TestRandom: whatever is listed, the room is never exceeded, and as long as ranges are listed evenly none comes and goes.
func TestRandom(t *testing.T) {
	take()
	seeds := uint64(12)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			sizes := make([]int, 40)
			for i := range sizes {
				sizes[i] = 1 << (10 + rng.IntN(12))
			}
			g := newGateway(t, 1<<(16+rng.IntN(8)), sizes...)
			for range 4 {
				for id := range g.sizes {
					g.rates[id] = 0.1 * float64(int(1)<<rng.IntN(10))
				}
				g.run(10 * time.Minute)
				clear(g.takes)
				g.run(20 * time.Minute)
				for id, n := range g.takes {
					if n > 2 {
						t.Errorf("%v was taken %d times in 20 minutes, in which nothing changed", id, n)
					}
				}
				for id := range g.sizes { // as writes would have it
					g.sizes[id] = max(100, int(float64(g.sizes[id])*(0.5+rng.Float64())))
				}
				g.room *= 100 // of the first second only what is given anew is held against the room
				g.second()
				g.room /= 100
			}
		})
	}
}

// TestBounds: however many ranges are listed, a bounded number is remembered, and those that are listed most are.
func TestBounds(t *testing.T) {
	g := newGateway(t, 1<<30, make([]int, 5000)...)
	for id := range g.sizes {
		g.sizes[id] = 5 * kib
		g.rates[id] = 6
	}
	g.rates[100] = 60
	g.run(3 * time.Minute)
	if n := g.choice.Remembered(); n > auto.RangesMax {
		t.Errorf("%d ranges are remembered", n)
	}
	if n := len(g.taken); n > auto.TakenMax || n < auto.TakenMax/2 {
		t.Errorf("%d ranges are taken", n)
	}
}
