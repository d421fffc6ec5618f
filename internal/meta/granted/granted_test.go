package granted

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

// TestMutants: each rule that is taken out is noticed, by what replicas then say that they have.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.GrantedNames(), time.Minute, mutatetest.NoticedBy, "-test.run=^TestFinal$")
}

func share(id shard.RangeID, gen shard.Generation, n int64) Share { return Share{id, gen, n} }

// told shows an answer, the latest first.
func told(t *Table, since int64) string {
	floor, last := t.Since(since)
	out := fmt.Sprint("above ", floor, ":")
	for _, id := range slices.SortedFunc(maps.Keys(last), func(a, b shard.RangeID) int { return cmp.Compare(last[b], last[a]) }) {
		out += fmt.Sprintf(" r%d %d", id, last[id])
	}
	return out
}

func descriptor(id shard.RangeID, gen shard.Generation, start, end string) shard.Descriptor {
	d := shard.Descriptor{ID: id, Generation: gen, Replicas: []shard.Replica{{ID: 1, Node: 1}}}
	d.Span.Start = []byte(start)
	if end != "" {
		d.Span.End = []byte(end)
	}
	return d
}

func mapOf(t testing.TB, version uint64, ds ...shard.Descriptor) *shard.Map {
	t.Helper()
	m, err := shard.NewMap(version, ds)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTable(t *testing.T) {
	var tab Table
	check := func(what string, since int64, want string) {
		t.Helper()
		if got := told(&tab, since); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	m := mapOf(t, 1, descriptor(2, 1, "", "m"), descriptor(3, 1, "m", ""))
	tab.Lead(100)
	check("nobody knows what others gave", 0, "above 100:")
	check("what is not asked for is not told", 200, "above 200:")
	tab.Note(101, 1, []Share{share(2, 1, 1)}, m)
	check("the first of a leadership is anybody's", 0, "above 101:")
	tab.Note(102, 2, []Share{share(2, 1, 1), share(3, 1, 1)}, m)
	check("the first of a range is its own, once it was there when another was given", 0, "above 101: r3 103 r2 102")
	tab.Note(104, 2, []Share{share(2, 1, 2)}, m)
	check("the latest come first", 0, "above 101: r2 105 r3 103")
	check("those that were asked for", 104, "above 104: r2 105")
	tab.Note(106, 1, []Share{share(3, 2, 1)}, m)
	check("of borders the group has not heard", 0, "above 106:")
	tab.Note(107, 1, []Share{share(3, 2, 1)}, m)
	check("the next is the range's", 0, "above 106: r3 107")
	m = mapOf(t, 2, descriptor(2, 1, "", "m"), descriptor(3, 2, "m", "t"), descriptor(4, 2, "t", ""))
	tab.Note(108, 1, []Share{share(2, 1, 1)}, m)
	check("the first after a change of the map, whoever gets it, is anybody's", 0, "above 108:")
	tab.Note(109, 2, []Share{share(4, 2, 1), share(3, 2, 1)}, m)
	check("those that the map has are known", 0, "above 108: r3 110 r4 109")
	tab.Note(111, 1, []Share{share(3, 1, 1)}, m)
	check("what a leader asks for that has not seen the change", 0, "above 111:")
	tab.Note(112, 3, []Share{share(3, 2, 1), share(0, 0, 1), share(3, 2, 1)}, m)
	check("what belongs to nobody in particular", 0, "above 114:")
	tab.Note(115, 2, []Share{share(3, 2, 1)}, m)
	check("what no share covers", 0, "above 116:")
	tab.Note(117, 2, []Share{share(3, 2, 3)}, m)
	check("a share of more than there is", 0, "above 118:")
	tab.Note(119, 2, nil, m)
	check("an oracle is asked by an older release", 0, "above 120:")
	tab.Lead(1000)
	check("another leadership", 0, "above 1000:")
	tab.Note(1001, 1, []Share{share(3, 2, 1)}, m)
	check("its first", 0, "above 1001:")
}

// TestTableIsBounded: what is forgotten, and what an answer has no room for, may be anybody's.
func TestTableIsBounded(t *testing.T) {
	ds := make([]shard.Descriptor, rangesMax+7)
	for i := range ds {
		ds[i] = descriptor(shard.RangeID(i+1), 1, fmt.Sprintf("%06d", i), fmt.Sprintf("%06d", i+1))
	}
	ds[0].Span.Start, ds[len(ds)-1].Span.End = nil, nil
	m := mapOf(t, 1, ds...)
	var tab Table
	tab.Lead(0)
	rev := int64(0)
	give := func(id shard.RangeID) {
		rev++
		tab.Note(rev, 1, []Share{share(id, 1, 1)}, m)
	}
	for range 2 {
		for id := range shard.RangeID(rangesMax) {
			give(id + 1)
		}
	}
	if floor, last := tab.Since(0); len(last) != toldMax || floor != rev-toldMax {
		t.Errorf("%d ranges above %d of %d", len(last), floor, rev)
	}
	if tab.floor != 1 {
		t.Errorf("the floor is %d", tab.floor)
	}
	give(rangesMax + 7)
	if len(tab.byID) != rangesMax || tab.recent.Len() != rangesMax || tab.floor != rangesMax+1 {
		t.Errorf("%d ranges are remembered above %d", len(tab.byID), tab.floor)
	}
}

// TestFinal holds what answers allow against what there is: ranges that take revisions, some of which never come to anything, are cut and merged, while
// replicas lie behind by any number of changes. A replica that an answer makes final has all that was ever put into its keys up to there.
func TestFinal(t *testing.T) {
	if *mutatetest.Mutant != "" {
		mutate.Set(*mutatetest.Mutant)
	}
	closed := 0
	for seed := range uint64(300) {
		w := newStore(seed)
		for range 400 {
			w.step()
			if err := w.audit(); err != "" {
				t.Fatalf("seed %d: %s", seed, err)
			}
		}
		closed += w.closed
	}
	if t.Logf("%d replicas were closed", closed); closed < 10_000 {
		t.Errorf("%d replicas were closed", closed)
	}
}

// store is ranges over cells, which stand for keys.
type store struct {
	rng    *rand.Rand
	tab    Table
	rev    int64
	ids    shard.RangeID
	ranges []*ranged
	reps   []*copied
	puts   map[int][]int64 // of every cell
	known  *shard.Map      // what the group has heard of the ranges
	closed int
}

// ranged is a range as its leader has it; its log is what has become of it.
type ranged struct {
	id       shard.RangeID
	gen      shard.Generation
	from, to int // cells
	log      []logged
}

// logged is an entry: a put, a fence, or a change of borders.
type logged struct {
	cell, from, to int
	put, fence     int64
	gen            shard.Generation
	merged         *ranged // what the right neighbour was when it was taken in
}

// copied is a replica, which has applied a part of the log.
type copied struct {
	of       *ranged
	applied  int
	from, to int
	final    int64
	has      map[int]int64 // the newest put of each cell
}

const cells = 24

func newStore(seed uint64) *store {
	s := &store{rng: rand.New(rand.NewPCG(seed, 1)), ids: 2, puts: map[int][]int64{}}
	s.ranges = []*ranged{{id: 1, from: 0, to: cells, gen: 1}}
	s.copies(s.ranges[0], 0, cells, 0, nil)
	s.tab.Lead(0)
	s.report()
	return s
}

// report lets the group hear what has become of the ranges.
func (s *store) report() {
	var ds []shard.Descriptor
	for _, r := range s.ranges {
		d := descriptor(r.id, r.gen, fmt.Sprintf("%02d", r.from), fmt.Sprintf("%02d", r.to))
		if r.from == 0 {
			d.Span.Start = nil
		}
		if r.to == cells {
			d.Span.End = nil
		}
		ds = append(ds, d)
	}
	m, err := shard.NewMap(uint64(s.rev), ds)
	if err != nil {
		panic(err)
	}
	s.known = m
}

// copies gives a range two replicas, whose state is that of the beginning of its log.
func (s *store) copies(r *ranged, from, to int, final int64, has map[int]int64) {
	for range 2 {
		c := &copied{of: r, from: from, to: to, final: final, has: map[int]int64{}}
		for k, v := range has {
			if k >= from && k < to {
				c.has[k] = v
			}
		}
		s.reps = append(s.reps, c)
	}
}

// state is what the leader of a range has, which has applied its whole log.
func (s *store) state(r *ranged) (has map[int]int64, final int64) {
	for _, c := range s.reps {
		if c.of == r {
			for c.applied < len(r.log) {
				s.apply(c)
			}
			return c.has, c.final
		}
	}
	panic("no replica")
}

func (s *store) step() {
	r := s.ranges[s.rng.IntN(len(s.ranges))]
	switch s.rng.IntN(60) {
	case 4: // a revision that comes to nothing
		s.give(r, true)
	case 5: // of a transaction over several ranges
		s.give(r, false)
		o := s.ranges[s.rng.IntN(len(s.ranges))]
		for _, x := range slices.Compact([]*ranged{r, o}) {
			x.write(x.from+s.rng.IntN(x.to-x.from), s.rev, s.puts)
		}
	case 6:
		r.log = append(r.log, logged{fence: s.rev})
	case 7:
		s.cut(r)
	case 8:
		s.merge()
	case 10, 11:
		s.report()
	case 9:
		s.rev += int64(s.rng.IntN(3)) // of the limit of who led before
		s.tab.Lead(s.rev)
	default:
		if s.rng.IntN(3) > 0 {
			s.put(r)
		}
	}
	s.lag()
	s.close()
}

// give allocates a revision, for one range or for anybody.
func (s *store) give(r *ranged, named bool) {
	s.rev++
	if named {
		s.tab.Note(s.rev, 1, []Share{share(r.id, r.gen, 1)}, s.known)
	} else {
		s.tab.Note(s.rev, 1, nil, s.known)
	}
}

func (s *store) put(r *ranged) {
	s.give(r, true)
	r.write(r.from+s.rng.IntN(r.to-r.from), s.rev, s.puts)
}

func (r *ranged) write(cell int, rev int64, puts map[int][]int64) {
	r.log = append(r.log, logged{cell: cell, put: rev})
	puts[cell] = append(puts[cell], rev)
}

func (s *store) cut(r *ranged) {
	if r.to-r.from < 2 {
		return
	}
	has, final := s.state(r)
	at := r.from + 1 + s.rng.IntN(r.to-r.from-1)
	child := &ranged{id: s.ids, from: at, to: r.to, gen: 1}
	s.ids++
	r.to = at
	r.gen++
	r.log = append(r.log, logged{from: r.from, to: r.to, gen: r.gen})
	s.ranges = append(s.ranges, child)
	s.copies(child, child.from, child.to, final, has)
}

func (s *store) merge() {
	for _, left := range s.ranges {
		i := slices.IndexFunc(s.ranges, func(x *ranged) bool { return x.from == left.to })
		if i < 0 || s.rng.IntN(2) == 0 {
			continue
		}
		right := s.ranges[i]
		s.state(right)
		s.ranges = slices.Delete(s.ranges, i, i+1)
		left.to = right.to
		left.gen++
		left.log = append(left.log, logged{from: left.from, to: left.to, gen: left.gen, merged: right})
		return
	}
}

// lag lets some replica apply something.
func (s *store) lag() {
	for range 3 {
		if c := s.reps[s.rng.IntN(len(s.reps))]; c.applied < len(c.of.log) {
			s.apply(c)
		}
	}
}

func (s *store) apply(c *copied) {
	e := c.of.log[c.applied]
	c.applied++
	switch {
	case e.put > 0:
		c.has[e.cell] = e.put
		c.final = max(c.final, e.put)
	case e.fence > 0:
		c.final = max(c.final, e.fence)
	case e.merged != nil:
		has, final := s.state(e.merged)
		for k, v := range has {
			c.has[k] = v
		}
		c.from, c.to, c.final = e.from, e.to, min(c.final, final)
	default:
		c.from, c.to = e.from, e.to
	}
}

// close asks the oracle for some replica, and closes it where the answer allows that.
func (s *store) close() {
	c := s.reps[s.rng.IntN(len(s.reps))]
	since := c.final
	if s.rng.IntN(3) == 0 {
		since = s.rng.Int64N(s.rev + 1)
	}
	floor, last := s.tab.Since(since)
	g := &shard.Granted{Revision: s.rev, Floor: floor, Last: last}
	if s.rng.IntN(4) == 0 {
		s.lag() // between the answer and its use
	}
	if c.final < g.Revision && g.Final(c.of.id, c.final) {
		c.final = g.Revision
		s.closed++
	}
}

// audit holds every replica against all that was ever put.
func (s *store) audit() string {
	for _, c := range s.reps {
		for cell := c.from; cell < c.to; cell++ {
			var want int64
			for _, rev := range s.puts[cell] {
				if rev <= c.final {
					want = rev
				}
			}
			if got := c.has[cell]; got < want {
				return fmt.Sprintf("at revision %d a replica of r%d, final up to %d, has cell %d as of %d, and %d was put there", s.rev, c.of.id, c.final, cell, got, want)
			}
		}
	}
	return ""
}
