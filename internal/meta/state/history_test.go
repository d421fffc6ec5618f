package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// follower has some view of before, and takes what it is told.
type follower struct {
	m       *shard.Map
	members []shard.Member
	meta    shard.Descriptor
}

func (f *follower) take(t *testing.T, d *pb.DescriptorsResponse) {
	t.Helper()
	var err error
	switch {
	case d.BaseVersion != 0:
		if d.BaseVersion != f.m.Version() {
			t.Fatalf("differences to version %d for who has %d", d.BaseVersion, f.m.Version())
		}
		f.m, err = f.m.Update(d.Version, pb.ToDescriptors(d.Ranges), pb.ToRangeIDs(d.Removed))
	case len(d.Ranges) > 0:
		f.m, err = shard.NewMap(d.Version, pb.ToDescriptors(d.Ranges))
	}
	if err != nil {
		t.Fatalf("%v: %v", d, err)
	}
	if len(d.Members) > 0 {
		f.members, f.meta = pb.ToMembers(d.Members), pb.ToDescriptor(d.Meta)
	}
}

func (f *follower) ask(t *testing.T, s *State) *pb.DescriptorsResponse {
	v := s.View(f.m.Version(), true)
	d := v.Response()
	if size := len(d.Ranges) + len(d.Removed); size > v.Size() {
		t.Fatalf("an answer of %d ranges was to have %d", size, v.Size())
	}
	f.take(t, d)
	return d
}

func laidOut(t testing.TB, ranges int) *State {
	s := New()
	b := &pb.MetaBootstrap{ClusterId: 9, Members: []*pb.Member{{Id: 1, Name: "one"}, {Id: 2, Name: "two"}}, Meta: &pb.Descriptor{RangeId: 1}}
	keys := append([][]byte{nil}, shard.SplitKeys(ranges)...)
	for i, key := range keys {
		d := shard.Descriptor{ID: shard.RangeID(i + 2), Span: shard.Span{Start: key}, Generation: 1, Replicas: []shard.Replica{{ID: 1, Node: 1}}}
		if i+1 < len(keys) {
			d.Span.End = keys[i+1]
		}
		b.Ranges = append(b.Ranges, pb.FromDescriptor(d))
	}
	if res := s.Apply(1, 1, &pb.MetaEntry{Term: 1, Bootstrap: b}); res.Err != nil {
		t.Fatal(res.Err)
	}
	return s
}

// change makes a change of ranges as a split, a merge or a move leaves it.
func changeRanges(t testing.TB, s *State, r *rand.Rand) {
	m := s.Map()
	all := slices.Collect(m.All())
	d := all[r.IntN(len(all))]
	var next *shard.Map
	var err error
	switch kind := r.IntN(3); {
	case kind == 0 && len(all) > 1 && !d.Span.Unbounded():
		next, err = m.Merge(d.ID, m.Lookup(d.Span.End).ID)
	case kind == 1:
		d.Generation++
		next, err = m.Apply(d)
	default:
		next, err = m.Split(d.ID, append(slices.Clone(d.Span.Start), byte(1+r.IntN(200))), shard.RangeID(s.next.ranges), d.Replicas)
	}
	if err != nil {
		return // the key was not inside
	}
	changed, _ := next.Changes(m)
	if err := s.ApplyRanges(changed...); err != nil {
		t.Fatal(err)
	}
}

// TestDifferences: whatever version somebody has, the answer takes him to the state's view, and members are told if they
// have changed.
func TestDifferences(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := laidOut(t, 1+r.IntN(40))
		first := follower{}
		v := s.View(0, true)
		first.take(t, v.Response())
		followers := []follower{first}
		whole, differences := 0, 0
		for i := range 300 {
			switch r.IntN(8) {
			case 0:
				res := s.Apply(uint64(10+i), 1, &pb.MetaEntry{Term: 1, MemberAttrs: &pb.MetaMemberAttrs{Id: 1, Name: fmt.Sprint("one ", i)}})
				if res.Err != nil {
					t.Fatal(res.Err)
				}
			default:
				changeRanges(t, s, r)
			}
			f := &followers[r.IntN(len(followers))]
			if r.IntN(4) == 0 {
				followers = append(followers, *f)
			}
			known := f.m.Version()
			d := f.ask(t, s)
			switch {
			case d.BaseVersion != 0:
				differences++
			case len(d.Ranges) > 0:
				whole++
			}
			if f.m.String() != s.Map().String() || fmt.Sprint(f.members) != fmt.Sprint(s.Members()) || !f.meta.Equal(&s.group.Desc) {
				t.Fatalf("seed %d: from version %d by %v:\n%v %v\ninstead of\n%v %v", seed, known, d, f.m, f.members, s.Map(), s.Members())
			}
		}
		if differences == 0 || seed == 0 && whole == 0 {
			t.Fatalf("seed %d: %d answers of all, %d of differences", seed, whole, differences)
		}
	}
}

// TestDifferencesAreAskedFor: who does not say that he takes them, as an older build, is told all.
func TestDifferencesAreAskedFor(t *testing.T) {
	s := laidOut(t, 10)
	s.ranges.record(s.ranges.now, change{members: true})
	v := s.View(1, false)
	if d := v.Response(); d.BaseVersion != 0 || len(d.Ranges) != 10 || len(d.Members) != 2 || d.Meta == nil {
		t.Errorf("an older build is told %v", d)
	}
	v = s.View(1, true)
	if d := v.Response(); d.BaseVersion != 1 || d.Version != 2 || len(d.Ranges) != 0 || len(d.Members) != 2 || d.Meta == nil {
		t.Errorf("differences: %v", d)
	}
	v = s.View(3, true)
	if d := v.Response(); d.BaseVersion != 0 || len(d.Ranges) != 10 {
		t.Errorf("who is ahead is told %v", d)
	}
}

// TestHistoryIsBounded in the number of changes and in what they name; a restored state begins anew.
func TestHistoryIsBounded(t *testing.T) {
	s := laidOut(t, 1)
	for range 3 * changesMax {
		s.ranges.record(s.ranges.now, change{ranges: []shard.RangeID{2}})
	}
	now := s.Map().Version()
	if got := len(s.ranges.changes.items); got != changesMax || s.ranges.changes.weight != changesMax || cap(s.ranges.changes.items) > 2*changesMax+16 {
		t.Errorf("%d changes with %d ids in %d places", got, s.ranges.changes.weight, cap(s.ranges.changes.items))
	}
	for known, want := range map[uint64]bool{0: false, now - changesMax - 1: false, now - changesMax: true, now - 1: true, now: true, now + 1: false} {
		if since, ok := s.ranges.since(known); ok != want || ok && uint64(len(since)) != now-known {
			t.Errorf("since %d of %d: %d changes, %v", known, now, len(since), ok)
		}
	}
	for i := range 30 {
		s.ranges.record(s.ranges.now, change{ranges: make([]shard.RangeID, changeIDsMax/10)})
		if s.ranges.changes.weight > changeIDsMax {
			t.Fatalf("%d ids after %d large changes", s.ranges.changes.weight, i)
		}
	}
	s.ranges.record(s.ranges.now, change{ranges: make([]shard.RangeID, changeIDsMax+1)})
	if since, ok := s.ranges.since(s.Map().Version() - 1); ok || len(s.ranges.changes.items) != 0 || s.ranges.changes.weight != 0 {
		t.Errorf("a change of more than may be kept: %d changes %v", len(since), ok)
	}
	raw, err := s.Image().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Restore(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := again.ranges.since(s.Map().Version() - 1); ok || again.Map().String() != s.Map().String() {
		t.Errorf("a restored state knows of the past, or has another map")
	}
}

// TestAnAnswerStaysAsItWas: what is rendered without the lock does not see what applies meanwhile.
func TestAnAnswerStaysAsItWas(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	s := laidOut(t, 20)
	old := follower{}
	v := s.View(0, true)
	old.take(t, v.Response())
	changeRanges(t, s, r)
	v = s.View(1, true)
	want := s.Map().String()
	for range 100 {
		changeRanges(t, s, r)
	}
	old.take(t, v.Response())
	if old.m.String() != want {
		t.Errorf("rendered late:\n%v\ninstead of\n%v", old.m, want)
	}
}

// TestApplyRangesRefuses what would leave a hole, and takes no notice of what is old.
func TestApplyRangesRefuses(t *testing.T) {
	s := laidOut(t, 4)
	was := s.Map()
	d := was.Lookup(nil)
	half := d
	half.Span.End, half.Generation = []byte{1}, 2
	if err := s.ApplyRanges(half); !errors.Is(err, shard.ErrInvalid) || s.Map() != was {
		t.Errorf("a split without its child: %v", err)
	}
	if err := s.ApplyRanges(d); err != nil || s.Map() != was {
		t.Errorf("nothing new: %v, version %d", err, s.Map().Version())
	}
	child := shard.Descriptor{ID: 70, Span: shard.Span{Start: []byte{1}, End: d.Span.End}, Generation: 2, Replicas: []shard.Replica{{ID: 8, Node: 1}}}
	if err := s.ApplyRanges(child, half); err != nil || s.Map().Version() != 2 || s.next != (nextIDs{71, 9, 1}) {
		t.Errorf("a split: %v, %v, next %v", err, s.Map(), s.next)
	}
}
