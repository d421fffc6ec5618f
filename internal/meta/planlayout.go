package meta

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/placement"
	"pontoon/shard"
)

// planLayout is what a snapshot has of the range map: columns that are kept from one to the next, because in a round a few ranges at most
// have changed. Whoever makes a snapshot holds its lock until the plan is made: the columns are shared.
type planLayout struct {
	mu      sync.Mutex
	version atomic.Uint64 // of the map; 0: there is none
	members []shard.NodeID
	factor  int
	nodes   []shard.NodeID // by position: the members, and behind them who holds something and is none
	places  map[shard.NodeID]int16
	pos     map[shard.RangeID]int32
	moved   []shard.RangeID // ranges whose rows are not what the map says, because of the moves that were under way
	columns placement.Ranges
}

// follow makes the columns those of a map.
func (t *planLayout) follow(in *planInput, moves map[shard.RangeID]*shard.Op) {
	m := &rowMaker{t: t, moves: moves}
	same := t.version.Load() != 0 && in.ranges.Version() >= t.version.Load() && in.since <= t.version.Load() && in.since != 0 && t.factor == in.factor &&
		slices.EqualFunc(t.members, in.members, func(id shard.NodeID, m shard.Member) bool { return id == m.ID })
	if same {
		for _, ids := range [][]shard.RangeID{in.changed, t.moved} {
			for _, id := range ids {
				same = same && m.patch(in.ranges, id)
			}
		}
		for id := range moves {
			same = same && (id == shard.MetaID || m.patch(in.ranges, id))
		}
	}
	if !same {
		m.rebuild(in)
	}
	t.moved = t.moved[:0]
	for id := range moves {
		if id != shard.MetaID {
			t.moved = append(t.moved, id)
		}
	}
	t.version.Store(in.ranges.Version())
	t.clean()
}

// clean empties the columns that follow from something else than the map.
func (t *planLayout) clean() {
	r := &t.columns
	n := r.Len()
	for _, col := range []*[]placement.Seconds{&r.At.Moved, &r.At.Led, &r.At.Cut, &r.At.Sticky} {
		*col = cleared(*col, n)
	}
	for _, col := range []*[]float32{&r.Bytes, &r.CPU, &r.Peak.CPU, &r.Peak.Writes} {
		*col = cleared(*col, n)
	}
	r.Leaders, r.Flags = cleared(r.Leaders, n), cleared(r.Flags, n)
}

// cleared is a column of n zeros.
func cleared[T any](col []T, n int) []T {
	if cap(col) < n || cap(col) > 4*n+1024 {
		return make([]T, n, n+n/8)
	}
	col = col[:n]
	clear(col)
	return col
}

// place is where a range is in the columns.
func (t *planLayout) place(id shard.RangeID) (int32, bool) {
	i, known := t.pos[id]
	return i, known
}

func (t *planLayout) nodeAt(n shard.NodeID) int16 {
	if at, known := t.places[n]; known && n != 0 {
		return at
	}
	return placement.None
}

// rowMaker says where ranges are.
type rowMaker struct {
	t     *planLayout
	moves map[shard.RangeID]*shard.Op
	on    []shard.NodeID
}

// rebuild walks the whole map.
func (m *rowMaker) rebuild(in *planInput) {
	t := m.t
	t.factor, t.members, t.nodes, t.places = in.factor, t.members[:0], t.nodes[:0], make(map[shard.NodeID]int16, len(in.members))
	for _, member := range in.members {
		t.members = append(t.members, member.ID)
		m.addNode(member.ID)
	}
	w, n := in.factor, in.ranges.Len()
	for d := range in.ranges.All() {
		w = max(w, len(d.Replicas))
	}
	r := &t.columns
	r.Width = min(w, replicasMax)
	r.IDs, r.Generations, r.KeyEnds = make([]shard.RangeID, 0, n), make([]shard.Generation, 0, n), make([]uint32, 0, n)
	r.Replicas, r.Keys = make([]int16, n*r.Width), r.Keys[:0]
	t.pos = make(map[shard.RangeID]int32, n)
	for d := range in.ranges.All() {
		i := len(r.IDs)
		t.pos[d.ID] = int32(i)
		r.IDs, r.Generations = append(r.IDs, d.ID), append(r.Generations, d.Generation)
		r.Keys = append(r.Keys, d.Span.Start...)
		r.KeyEnds = append(r.KeyEnds, uint32(len(r.Keys)))
		m.row(i, &d)
	}
}

// patch follows what has become of one range; false: it is not where it was.
func (m *rowMaker) patch(ranges *shard.Map, id shard.RangeID) bool {
	i, was := m.t.pos[id]
	d, is := ranges.Get(id)
	if !was || !is || ranges.Len() != len(m.t.columns.IDs) || len(d.Replicas) > m.t.columns.Width && m.t.columns.Width < replicasMax ||
		!bytes.Equal(m.t.columns.Start(int(i)), d.Span.Start) {
		return !was && !is && ranges.Len() == len(m.t.columns.IDs)
	}
	m.t.columns.Generations[i] = d.Generation
	m.row(int(i), &d)
	return true
}

func (m *rowMaker) addNode(id shard.NodeID) int16 {
	at := int16(len(m.t.nodes))
	m.t.nodes = append(m.t.nodes, id)
	m.t.places[id] = at
	return at
}

// row writes where a range is.
func (m *rowMaker) row(i int, d *shard.Descriptor) {
	row := m.t.columns.Row(i)
	k := 0
	for _, n := range m.replicas(d) {
		if k == len(row) {
			break
		}
		at, known := m.t.places[n]
		if !known { // no member any more; what it holds is to go
			at = m.addNode(n)
		}
		row[k] = at
		k++
	}
	for ; k < len(row); k++ {
		row[k] = placement.None
	}
}

// replicas are where a range is: its voters; during a move those that it began with, whatever the configuration is by now.
func (m *rowMaker) replicas(d *shard.Descriptor) []shard.NodeID {
	op, out := m.moves[d.ID], m.on[:0]
	left := op == nil || op.From.ID == 0
	for _, r := range d.Replicas {
		switch {
		case op != nil && (r.ID == op.To.ID && !mutate.On(mutate.PlannerTwice)):
		case op != nil && r.ID == op.From.ID:
			left = true
			out = append(out, r.Node)
		case op != nil || r.Role == shard.Voter:
			out = append(out, r.Node)
		}
	}
	if !left && !mutate.On(mutate.PlannerTwice) {
		out = append(out, op.From.Node)
	}
	m.on = out
	return out
}
