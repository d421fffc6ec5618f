// Package raftlogtest is the contract of raftgroup.Log as a test: every implementation must
// pass it.
package raftlogtest

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// Disk is a log and what can happen to it.
type Disk struct {
	raftgroup.Log
	// Crash ends the process that uses the log, and returns what the next one finds: all that
	// was durable.
	Crash func() raftgroup.Log
}

// Run tests a kind of log. open returns a new, empty one.
func Run(t *testing.T, open func(t *testing.T) *Disk) {
	for name, fn := range map[string]func(*testing.T, *Disk){
		"Empty":     testEmpty,
		"Append":    testAppend,
		"Overwrite": testOverwrite,
		"Truncate":  testTruncate,
		"Reset":     testReset,
		"Remove":    testRemove,
		"Crash":     testCrash,
		"MaxBytes":  testMaxBytes,
		"Random":    testRandom,
		"Replicas":  testReplicas,
		"Change":    testChange,
	} {
		t.Run(name, func(t *testing.T) { fn(t, open(t)) })
	}
}

// Entry makes an entry.
func Entry(index, term uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Index: &index, Term: &term, Type: raftpb.EntryNormal.Enum(), Data: []byte(data)}
}

// Entries makes n entries of one term, from an index on.
func Entries(from uint64, n int, term uint64) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := range uint64(n) {
		out = append(out, Entry(from+i, term, fmt.Sprintf("%d/%d", from+i, term)))
	}
	return out
}

func begin(g shard.RangeID) raftgroup.Update {
	return raftgroup.Update{
		Group:     g,
		Reset:     &raftgroup.Position{Index: 10, Term: 5},
		HardState: &raftgroup.HardState{Term: 5, Commit: 10},
		Conf:      &raftgroup.Conf{State: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Index: 10},
	}
}

func save(t *testing.T, l raftgroup.Log, us ...raftgroup.Update) {
	t.Helper()
	if err := l.Save(us); err != nil {
		t.Fatalf("save: %v", err)
	}
}

func load(t *testing.T, l raftgroup.Log, g shard.RangeID) raftgroup.LogState {
	t.Helper()
	st, ok, err := l.Load(g)
	if err != nil || !ok {
		t.Fatalf("load: %v, %v", ok, err)
	}
	return st
}

// wantEntries checks that the log holds exactly these entries, by every way to read them.
func wantEntries(t *testing.T, l raftgroup.Log, g shard.RangeID, truncated raftgroup.Position, want []*raftpb.Entry) {
	t.Helper()
	st := load(t, l, g)
	if st.Truncated != truncated || st.Last != truncated.Index+uint64(len(want)) {
		t.Fatalf("the log is (%v, %d], want (%v, +%d]", st.Truncated, st.Last, truncated, len(want))
	}
	for i, w := range want {
		if term, err := l.Term(g, w.GetIndex()); err != nil || term != w.GetTerm() {
			t.Fatalf("term of %d: %d, %v; want %d", w.GetIndex(), term, err, w.GetTerm())
		}
		got, err := l.Entries(g, w.GetIndex(), st.Last+1, 1<<30)
		if err != nil || len(got) != len(want)-i {
			t.Fatalf("entries from %d: %d, %v", w.GetIndex(), len(got), err)
		}
		if !proto.Equal(got[0], w) {
			t.Fatalf("entry %v, want %v", got[0], w)
		}
	}
	for _, i := range []uint64{truncated.Index, st.Last + 1} {
		if _, err := l.Entries(g, i, i+1, 100); !errors.Is(err, raftgroup.ErrNoEntry) {
			t.Fatalf("entry %d outside the log: %v", i, err)
		}
	}
}

func testEmpty(t *testing.T, d *Disk) {
	if _, ok, err := d.Load(7); ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	save(t, d, begin(7))
	st := load(t, d, 7)
	if st.HardState != (raftgroup.HardState{Term: 5, Commit: 10}) || len(st.Conf.State.Voters) != 3 || st.Conf.Index != 10 {
		t.Fatalf("%+v", st)
	}
	wantEntries(t, d, 7, raftgroup.Position{Index: 10, Term: 5}, nil)
}

func testAppend(t *testing.T, d *Disk) {
	a, b := Entries(11, 3, 6), Entries(14, 2, 7)
	save(t, d, begin(7), begin(8), raftgroup.Update{Group: 7, Entries: a})
	save(t, d, raftgroup.Update{Group: 7, Entries: b, HardState: &raftgroup.HardState{Term: 7, Vote: 2, Commit: 12}})
	wantEntries(t, d, 7, raftgroup.Position{Index: 10, Term: 5}, append(a, b...))
	wantEntries(t, d, 8, raftgroup.Position{Index: 10, Term: 5}, nil)
	if st := load(t, d, 7); st.HardState != (raftgroup.HardState{Term: 7, Vote: 2, Commit: 12}) {
		t.Fatalf("%+v", st.HardState)
	}
	if err := d.Save([]raftgroup.Update{{Group: 8, Entries: Entries(12, 1, 6)}}); err == nil {
		t.Fatal("a gap was accepted")
	}
}

func testOverwrite(t *testing.T, d *Disk) {
	save(t, d, begin(7), raftgroup.Update{Group: 7, Entries: Entries(11, 5, 6)})
	old, err := d.Entries(7, 11, 16, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	save(t, d, raftgroup.Update{Group: 7, Entries: Entries(13, 1, 7)}, raftgroup.Update{Group: 7, Entries: Entries(14, 1, 8)})
	want := append(append(Entries(11, 2, 6), Entries(13, 1, 7)...), Entries(14, 1, 8)...)
	wantEntries(t, d, 7, raftgroup.Position{Index: 10, Term: 5}, want)
	if old[2].GetTerm() != 6 {
		t.Fatal("what a reader holds has changed")
	}
	d.Log = d.Crash()
	wantEntries(t, d, 7, raftgroup.Position{Index: 10, Term: 5}, want)
}

func testTruncate(t *testing.T, d *Disk) {
	save(t, d, begin(7), begin(8), raftgroup.Update{Group: 7, Entries: Entries(11, 10, 6)}, raftgroup.Update{Group: 8, Entries: Entries(11, 10, 6)})
	at := raftgroup.Position{Index: 15, Term: 6}
	save(t, d, raftgroup.Update{Group: 7, Truncate: &at, Lazy: true})
	wantEntries(t, d, 7, at, Entries(16, 5, 6))
	wantEntries(t, d, 8, raftgroup.Position{Index: 10, Term: 5}, Entries(11, 10, 6))
	save(t, d, raftgroup.Update{Group: 7, Truncate: &raftgroup.Position{Index: 12, Term: 6}})
	wantEntries(t, d, 7, at, Entries(16, 5, 6)) // a lower one changes nothing
	all := raftgroup.Position{Index: 20, Term: 6}
	save(t, d, raftgroup.Update{Group: 7, Truncate: &all})
	wantEntries(t, d, 7, all, nil)
	save(t, d, raftgroup.Update{Group: 7, Entries: Entries(21, 2, 6)})
	d.Log = d.Crash()
	wantEntries(t, d, 7, all, Entries(21, 2, 6))
	if err := d.Save([]raftgroup.Update{{Group: 7, Truncate: &raftgroup.Position{Index: 30, Term: 6}}}); err == nil {
		t.Fatal("a truncation above the end was accepted")
	}
}

func testReset(t *testing.T, d *Disk) {
	save(t, d, begin(7), raftgroup.Update{Group: 7, Entries: Entries(11, 5, 6), HardState: &raftgroup.HardState{Term: 6, Vote: 3, Commit: 11}})
	at := raftgroup.Position{Index: 100, Term: 9}
	save(t, d, raftgroup.Update{Group: 7, Reset: &at, HardState: &raftgroup.HardState{Term: 9, Commit: 100}, Entries: Entries(101, 2, 9)})
	wantEntries(t, d, 7, at, Entries(101, 2, 9))
	if st := load(t, d, 7); st.HardState.Term != 9 || st.Conf.Index != 10 {
		t.Fatalf("%+v", st)
	}
	d.Log = d.Crash()
	wantEntries(t, d, 7, at, Entries(101, 2, 9))
}

func testRemove(t *testing.T, d *Disk) {
	save(t, d, begin(7), begin(8), raftgroup.Update{Group: 7, Entries: Entries(11, 5, 6)})
	save(t, d, raftgroup.Update{Group: 7, Remove: true})
	for range 2 {
		if _, ok, err := d.Load(7); ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
		wantEntries(t, d, 8, raftgroup.Position{Index: 10, Term: 5}, nil)
		d.Log = d.Crash()
	}
}

// testCrash: a lazy update may be lost, but never something before it, and a durable one carries
// the lazy ones before it.
func testCrash(t *testing.T, d *Disk) {
	base := raftgroup.Position{Index: 10, Term: 5}
	save(t, d, begin(7), raftgroup.Update{Group: 7, Entries: Entries(11, 4, 6)})
	at := raftgroup.Position{Index: 12, Term: 6}
	save(t, d, raftgroup.Update{Group: 7, Truncate: &at, Lazy: true})
	d.Log = d.Crash()
	if st := load(t, d, 7); st.Truncated == at {
		wantEntries(t, d, 7, at, Entries(13, 2, 6))
	} else {
		wantEntries(t, d, 7, base, Entries(11, 4, 6))
	}
	save(t, d, raftgroup.Update{Group: 7, Truncate: &at, Lazy: true})
	save(t, d, raftgroup.Update{Group: 7, Entries: Entries(15, 1, 7)})
	d.Log = d.Crash()
	wantEntries(t, d, 7, at, append(Entries(13, 2, 6), Entries(15, 1, 7)...))
}

func testMaxBytes(t *testing.T, d *Disk) {
	save(t, d, begin(7))
	for i := range uint64(20) {
		save(t, d, raftgroup.Update{Group: 7, Entries: []*raftpb.Entry{Entry(11+i, 6, string(make([]byte, 1000)))}})
	}
	for range 2 {
		for _, c := range []struct{ max, want uint64 }{{0, 1}, {1, 1}, {2500, 2}, {1 << 20, 20}} {
			ents, err := d.Entries(7, 11, 31, c.max)
			if err != nil || uint64(len(ents)) != c.want {
				t.Fatalf("%d bytes: %d entries, %v; want %d", c.max, len(ents), err, c.want)
			}
		}
		d.Log = d.Crash()
	}
}

// testRandom compares with a slice.
func testRandom(t *testing.T, d *Disk) {
	rnd := rand.New(rand.NewSource(1))
	type model struct {
		at   raftgroup.Position
		ents []*raftpb.Entry
	}
	models := map[shard.RangeID]*model{}
	for g := shard.RangeID(1); g <= 3; g++ {
		save(t, d, begin(g))
		models[g] = &model{at: raftgroup.Position{Index: 10, Term: 5}}
	}
	term := uint64(6)
	for i := range 400 {
		g := shard.RangeID(1 + rnd.Intn(3))
		m := models[g]
		last := m.at.Index + uint64(len(m.ents))
		switch k := rnd.Intn(20); {
		case k < 12:
			from := last + 1
			if rnd.Intn(4) == 0 && len(m.ents) > 0 {
				from -= uint64(rnd.Intn(len(m.ents)))
				term++
			}
			ents := Entries(from, 1+rnd.Intn(4), term)
			save(t, d, raftgroup.Update{Group: g, Entries: ents})
			m.ents = append(m.ents[:from-m.at.Index-1:from-m.at.Index-1], ents...)
		case k < 17 && len(m.ents) > 0:
			n := 1 + rnd.Intn(len(m.ents))
			at := raftgroup.Position{Index: m.ents[n-1].GetIndex(), Term: m.ents[n-1].GetTerm()}
			save(t, d, raftgroup.Update{Group: g, Truncate: &at})
			m.at, m.ents = at, m.ents[n:]
		case k == 17:
			at := raftgroup.Position{Index: last + uint64(rnd.Intn(10)), Term: term}
			save(t, d, raftgroup.Update{Group: g, Reset: &at})
			m.at, m.ents = at, nil
		case k == 18:
			d.Log = d.Crash()
		}
		if i%10 == 0 {
			for id, m := range models {
				wantEntries(t, d, id, m.at, m.ents)
			}
		}
	}
}

// testReplicas: what is noted of a replica outlives its log, as a tombstone, and is listed.
func testReplicas(t *testing.T, d *Disk) {
	note := func(g shard.RangeID, id shard.ReplicaID, st raftgroup.ReplicaState) raftgroup.Replica {
		return raftgroup.Replica{Group: g, ID: id, State: st}
	}
	want := func(list ...raftgroup.Replica) {
		t.Helper()
		got, err := d.Replicas()
		if err != nil || !slices.Equal(got, list) {
			t.Fatalf("%+v, %v; want %+v", got, err, list)
		}
	}
	want()
	waiting, removed, present := note(9, 4, raftgroup.ReplicaWaiting), note(8, 3, raftgroup.ReplicaRemoved), note(8, 7, raftgroup.ReplicaPresent)
	up := begin(9)
	up.Replica = &waiting
	save(t, d, begin(1<<63), begin(8), begin(7), up)
	save(t, d, raftgroup.Update{Group: 8, Remove: true, Replica: &removed})
	for range 2 {
		want(note(7, 0, raftgroup.ReplicaUnknown), removed, waiting, note(1<<63, 0, raftgroup.ReplicaUnknown))
		st, ok, err := d.Load(8)
		if ok || err != nil || st.Replica != removed {
			t.Fatalf("%+v, %v, %v", st, ok, err)
		}
		d.Log = d.Crash()
	}
	up = begin(8)
	up.Replica = &present
	save(t, d, up, raftgroup.Update{Group: 9, Remove: true})
	for range 2 {
		want(note(7, 0, raftgroup.ReplicaUnknown), present, note(1<<63, 0, raftgroup.ReplicaUnknown))
		d.Log = d.Crash()
	}
}

// testChange: the log knows of its last change of the configuration, at least.
func testChange(t *testing.T, d *Disk) {
	ents := Entries(11, 4, 6)
	ents[1].Type, ents[2].Type = raftpb.EntryConfChange.Enum(), raftpb.EntryConfChangeV2.Enum()
	save(t, d, begin(7), begin(8), raftgroup.Update{Group: 7, Entries: ents}, raftgroup.Update{Group: 8, Entries: Entries(11, 4, 6)})
	save(t, d, raftgroup.Update{Group: 7, Entries: Entries(15, 2, 6)})
	for range 2 {
		if a, b := load(t, d, 7).Change, load(t, d, 8).Change; a != 13 || b != 0 {
			t.Fatalf("the last changes are at %d and %d, want 13 and 0", a, b)
		}
		d.Log = d.Crash()
	}
}
