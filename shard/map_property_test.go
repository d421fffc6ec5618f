package shard

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// both is a map and what the model says of it.
type both struct {
	m     *Map
	model *modelMap
}

// TestMapAgainstModel makes changes of every kind at random, of maps that take one node and of maps that take
// hundreds, and compares all that a map says with what the model says.
func TestMapAgainstModel(t *testing.T) { rapid.Check(t, mapProperty) }

// FuzzMapAgainstModel is TestMapAgainstModel with changes that a fuzzer picks.
func FuzzMapAgainstModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(mapProperty)) }

func mapProperty(t *rapid.T) {
	w := mapWorld{draw: func(name string, n int) int { return rapid.IntRange(0, n-1).Draw(t, name) }, t: t}
	w.start(1 << w.draw("ranges", 9))
	for range w.draw("changes", 40) {
		w.step()
	}
	w.finish()
}

// TestMapGrowsAndShrinks cuts one range into thousands and merges them all again, with changes of other kinds between.
func TestMapGrowsAndShrinks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	w := mapWorld{draw: func(_ string, n int) int { return rnd.IntN(n) }, t: t}
	w.start(1)
	most := 1500
	if testing.Short() {
		most = 600
	}
	for w.now.m.Len() < most {
		w.split()
		if w.draw("", 50) == 0 {
			w.apply()
			w.update()
			w.compare()
		}
	}
	w.compare()
	for w.now.m.Len() > 1 {
		w.mergeAt(w.draw("", w.now.m.Len()-1))
		if w.draw("", 50) == 0 {
			w.apply()
			w.compare()
		}
	}
	w.finish()
}

type mapWorld struct {
	t      fataler
	draw   func(name string, n int) int // from [0,n)
	now    both
	past   []both
	nextID RangeID
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (w *mapWorld) key(name string) []byte {
	return fmt.Appendf(nil, "%04x", w.draw(name, 1<<16))[:1+3*w.draw(name+" length", 2)]
}

func (w *mapWorld) replicas() []Replica {
	return []Replica{{ID: ReplicaID(w.draw("replica", 3) + 1), Node: NodeID(w.draw("node", 2) + 1)}}
}

// start begins with n ranges, in any order.
func (w *mapWorld) start(n int) {
	keys := append([][]byte{nil}, SplitKeys(n)...)
	ds := make([]Descriptor, n)
	for i := range ds {
		ds[i] = Descriptor{ID: RangeID(i*7 + 2), Span: Span{Start: keys[i]}, Generation: Generation(w.draw("generation", 3)), Replicas: []Replica{{ID: 1, Node: 1}}}
		if i < n-1 {
			ds[i].Span.End = keys[i+1]
		}
	}
	for i := range ds {
		k := w.draw("place", i+1)
		ds[i], ds[k] = ds[k], ds[i]
	}
	w.nextID = RangeID(n*7 + 2)
	m, err := NewMap(1, ds)
	model, merr := newModel(1, ds)
	w.agree("start", both{m, model}, err, merr)
}

// agree takes in the outcome of a change.
func (w *mapWorld) agree(what string, next both, err, modelErr error) {
	w.t.Helper()
	if fmt.Sprint(err) != fmt.Sprint(modelErr) {
		w.t.Fatalf("%s:\n%v\nthe model says\n%v\nof %v", what, err, modelErr, w.now.m)
	}
	if err != nil {
		return
	}
	if w.draw("keep", 8) == 0 {
		w.past = append(w.past, next)
	}
	w.now = next
}

func (w *mapWorld) step() {
	switch w.draw("change", 6) {
	case 0, 1:
		w.split()
	case 2:
		w.mergeAt(w.draw("left", w.now.m.Len()))
	case 3:
		w.apply()
	case 4:
		w.update()
	case 5:
		m := w.now.m.WithVersion(uint64(w.draw("version", 100)))
		model := *w.now.model
		model.version = m.Version()
		w.agree("version", both{m, &model}, nil, nil)
	}
	w.compare()
}

// anyRange picks a range, or now and then an id that no range has, or 0.
func (w *mapWorld) anyRange() RangeID {
	if w.draw("no range", 20) == 0 {
		return RangeID(w.draw("id", 3))
	}
	return w.now.model.ranges[w.draw("range", len(w.now.model.ranges))].ID
}

func (w *mapWorld) split() {
	at, child, replicas := w.key("at"), w.nextID, w.replicas()
	id := w.now.model.lookup(at).ID
	if w.draw("bad split", 20) == 0 {
		id, child = w.anyRange(), w.anyRange()
	}
	w.nextID += RangeID(1 + w.draw("ids left out", 2)*w.draw("many", 1000))
	m, err := w.now.m.Split(id, at, child, replicas)
	model, merr := w.now.model.split(id, at, child, replicas)
	w.agree("split", both{m, model}, err, merr)
}

// mergeAt merges a range with its right neighbour; the last one with any.
func (w *mapWorld) mergeAt(i int) {
	ranges := w.now.model.ranges
	left, right := ranges[i].ID, w.anyRange()
	if i+1 < len(ranges) {
		right = ranges[i+1].ID
		if !SameNodes(ranges[i].Replicas, ranges[i+1].Replicas) {
			w.place(ranges[i+1], ranges[i].Replicas)
		}
	}
	m, err := w.now.m.Merge(left, right)
	model, merr := w.now.model.merge(left, right)
	w.agree("merge", both{m, model}, err, merr)
}

// place moves a range to other replicas, as a newer descriptor says.
func (w *mapWorld) place(d Descriptor, replicas []Replica) {
	d.Replicas = replicas
	d.Generation++
	m, err := w.now.m.Apply(d)
	model, merr := w.now.model.apply(d)
	w.agree("place", both{m, model}, err, merr)
}

// apply tells of a few descriptors: parts of ranges that there are, whole, cut in two or anything at all.
func (w *mapWorld) apply() {
	var ds []Descriptor
	for range w.draw("applied", 4) {
		d := w.now.model.ranges[w.draw("range", len(w.now.model.ranges))]
		d.Generation += Generation(w.draw("generation", 3))
		switch w.draw("kind", 6) {
		case 0:
			d.Replicas = w.replicas()
			ds = append(ds, d)
		case 1, 2:
			left, right := d, d
			at := append(slices.Clone(d.Span.Start), 'a')
			left.Span.End, right.Span.Start, right.ID = at, at, w.nextID
			w.nextID++
			ds = append(ds, right, left)[w.draw("without the right part", 8)/7:]
		case 3:
			d.ID, d.Span = w.anyRange(), Span{w.key("start"), w.key("end")}
			ds = append(ds, d)
		case 4: // swallows its neighbours
			d.Span.Start = nil
			d.Generation += Generation(w.draw("generations", 10))
			ds = append(ds, d)
		case 5:
			ds = append(ds, Descriptor{ID: d.ID, Generation: Generation(w.draw("generations", 20)), Replicas: d.Replicas})
		}
	}
	m, err := w.now.m.Apply(ds...)
	model, merr := w.now.model.apply(ds...)
	if (m == w.now.m) != (model == w.now.model) {
		w.t.Fatalf("apply %v: news %v, the model says %v, of %v", ds, m != w.now.m, model != w.now.model, w.now.m)
	}
	w.agree("apply", both{m, model}, err, merr)
}

// update goes from some map of the past to this one by differences, and tries differences that are wrong.
func (w *mapWorld) update() {
	if len(w.past) == 0 {
		return
	}
	old := w.past[w.draw("past", len(w.past))]
	changed, removed := w.now.m.Changes(old.m)
	removed = append(removed, 1<<40) // which came and went meanwhile
	m, err := old.m.Update(w.now.m.Version(), changed, removed)
	if err != nil || m.String() != w.now.model.string() {
		w.t.Fatalf("from\n%vby %v without %v:\n%v %v\ninstead of\n%v", old.m, changed, removed, m, err, w.now.m)
	}
	if w.draw("derived", 2) == 0 {
		w.now.m = m
	}
	if len(changed) == 0 {
		return
	}
	// One descriptor is missing, or another one more: right or wrong, as the model says.
	i := w.draw("missing", len(changed))
	changed = slices.Delete(slices.Clone(changed), i, i+1)
	if w.draw("one more", 2) == 0 {
		changed = append(changed, w.now.model.ranges[w.draw("range", len(w.now.model.ranges))])
	}
	over := func(d Descriptor) bool {
		return slices.Contains(removed, d.ID) || slices.ContainsFunc(changed, func(c Descriptor) bool { return c.ID == d.ID })
	}
	want, wantErr := newModel(9, append(slices.DeleteFunc(slices.Clone(old.model.ranges), over), changed...))
	got, err := old.m.Update(9, changed, removed)
	if (err == nil) != (wantErr == nil) || err == nil && got.String() != want.string() {
		w.t.Fatalf("from\n%vby %v without %v:\n%v %v\nthe model says\n%v", old.m, changed, removed, got, err, wantErr)
	}
}

// compare asks map and model the same.
func (w *mapWorld) compare() {
	m, model := w.now.m, w.now.model
	if m.String() != model.string() || m.Len() != len(model.ranges) || m.Version() != model.version {
		w.t.Fatalf("%d ranges of version %d:\n%v\nthe model says\n%v", m.Len(), m.Version(), m, model.string())
	}
	checkTree(w.t, m)
	key := w.key("key")
	if d, want := m.Lookup(key), model.lookup(key); !d.Equal(&want) {
		w.t.Fatalf("%q is in %v, the model says %v", key, d, want)
	}
	id := w.anyRange()
	d, ok := m.Get(id)
	if want, wanted := model.get(id); ok != wanted || !d.Equal(&want) {
		w.t.Fatalf("%v is %v %v, the model says %v %v", id, d, ok, want, wanted)
	}
	s := Span{key, w.key("end")}
	if w.draw("unbounded", 4) == 0 {
		s.End = nil
	}
	got := slices.Collect(m.Overlapping(s))
	if !slices.EqualFunc(got, model.overlapping(s), func(a, b Descriptor) bool { return a.Equal(&b) }) {
		w.t.Fatalf("%v overlaps %v, the model says %v", s, got, model.overlapping(s))
	}
	for d := range m.Overlapping(s) { // may be left
		if !d.Equal(&got[0]) {
			w.t.Fatalf("%v begins with %v, and then with %v", s, got[0], d)
		}
		break
	}
}

// finish looks whether changes have left older maps alone.
func (w *mapWorld) finish() {
	w.compare()
	for _, old := range w.past {
		if old.m.String() != old.model.string() {
			w.t.Fatalf("a later change made\n%v\nof\n%v", old.m, old.model.string())
		}
	}
}

// checkTree looks at the shape of a map: sizes of nodes, keys of inner ones, one depth, an index of exactly the ids.
func checkTree(t fataler, m *Map) {
	t.Helper()
	var walk func(n *node, height int)
	walk = func(n *node, height int) {
		if len(n.starts) > nodeMax || n != m.root && len(n.starts) < nodeMin || n.leaf() != (height == 0) {
			t.Fatalf("a node of %d entries at height %d", len(n.starts), height)
		}
		if n.leaf() {
			if len(n.entries) != len(n.starts) {
				t.Fatalf("%d entries with %d starts", len(n.entries), len(n.starts))
			}
			return
		}
		for i, kid := range n.kids {
			if !bytes.Equal(kid.starts[0], n.starts[i]) {
				t.Fatalf("%q is kept for what starts at %q", n.starts[i], kid.starts[0])
			}
			walk(kid, height-1)
		}
	}
	walk(m.root, m.root.height())
	ids := 0
	var count func(n *idNode)
	count = func(n *idNode) {
		ids += len(n.starts)
		for _, kid := range n.kids {
			count(kid)
		}
	}
	count(m.ids.root)
	if ids != m.Len() {
		t.Fatalf("%d ids of %d ranges", ids, m.Len())
	}
}

// TestMapChangeSharesAllElse: a change of a large map leaves all of it as it is but a few nodes, and what is new
// is found without a look at the rest.
func TestMapChangeSharesAllElse(t *testing.T) {
	const n = 100_000
	old, err := NewMap(1, benchDescriptors(n))
	if err != nil {
		t.Fatal(err)
	}
	m, err := old.Split(n/2, benchKey(n/2-2, 50), n+2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if now, was := unshared(m.root, old.root); len(now) > 2 || len(was) != 1 {
		t.Errorf("a split has made %d new leaves of %d", len(now), len(was))
	}
	changed, removed := m.Changes(old)
	if len(changed) != 2 || changed[0].ID != n/2 || changed[1].ID != n+2 || len(removed) != 0 {
		t.Errorf("a split has changed %v and removed %v", changed, removed)
	}
	changed, removed = old.Changes(m)
	if len(changed) != 1 || changed[0].ID != n/2 || len(removed) != 1 || removed[0] != n+2 {
		t.Errorf("the way back changes %v and removes %v", changed, removed)
	}
}

// TestMapLookupsAllocateNothing: they are on the way of every request.
func TestMapLookupsAllocateNothing(t *testing.T) {
	m, err := NewMap(1, benchDescriptors(1000))
	if err != nil {
		t.Fatal(err)
	}
	key := benchKey(500, 50)
	s := Point(key)
	for name, ask := range map[string]func(){
		"Lookup": func() { sink = m.Lookup(key) },
		"Get":    func() { sink, _ = m.Get(500) },
		"Overlapping": func() {
			for d := range m.Overlapping(s) {
				sink = d
			}
		},
		"nothing new": func() {
			if next, err := m.Apply(); next != m || err != nil {
				t.Error(err)
			}
		},
	} {
		if got := testing.AllocsPerRun(100, ask); got != 0 {
			t.Errorf("%s allocates %v times", name, got)
		}
	}
}
