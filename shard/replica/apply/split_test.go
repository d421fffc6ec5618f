package apply

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"pontoon/internal/moves"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

// whole is a range [b, y) on two nodes that leads term 7 and has applied entry 20.
func whole(t *testing.T) (*Machine, *replicatest.MemStore) {
	t.Helper()
	st := replicatest.NewMemStore()
	st.Pos = mvcc.Position{Index: 20, Term: 7}
	m, err := LoadMachine(1, shard.Descriptor{
		ID: 4, Generation: 3, Span: shard.Span{Start: []byte("b"), End: []byte("y")},
		Replicas: []shard.Replica{{ID: 1, Node: 11}, {ID: 2, Node: 12}},
	}, st)
	if err != nil {
		t.Fatal(err)
	}
	return m, st
}

func splitAt(at string) *pb.Split {
	return &pb.Split{At: []byte(at), Child: 9, Generation: 3, Op: 5, Replicas: []*pb.ReplicaDesc{{ReplicaId: 8, NodeId: 12}, {ReplicaId: 7, NodeId: 11}}}
}

// run applies an entry of term 7.
func run(t *testing.T, m *Machine, st *replicatest.MemStore, e *pb.Entry) *Decision {
	t.Helper()
	e.Term = 7
	d, err := m.Decide(Entry{Index: m.Index + 1, Term: 7, Data: Marshal(e)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Apply(d.Change); err != nil {
		t.Fatal(err)
	}
	m.Commit(d)
	return d
}

func commit(seq uint64, anchor string) *pb.Commit {
	return &pb.Commit{Id: &pb.TxnID{AnchorRange: 4, Term: 7, Seq: seq}, Revision: 30, Effects: []*pb.Effects{
		{ParticipantKey: []byte(anchor)}, {ParticipantKey: []byte("zz")},
	}}
}

// TestSplit: the left keeps its id and what it holds, the right begins with what is its own (hazard 62), and both say the same
// after a restart.
func TestSplit(t *testing.T) {
	m, st := whole(t)
	run(t, m, st, &pb.Entry{EpochRaise: &pb.EpochRaise{}, Epoch: 6})
	run(t, m, st, &pb.Entry{LeaseHalf: &pb.LeaseHalf{Lease: 77, GrantIndex: 3, Span: &pb.Span{Start: []byte("b"), End: []byte("y")}}})
	run(t, m, st, &pb.Entry{LeaseHalf: &pb.LeaseHalf{Lease: 77, GrantIndex: 3, Span: &pb.Span{Start: []byte("b"), End: []byte("y")}, Attached: true}})
	for seq, anchor := range []string{"c", "m", "x"} { // committed before the cut, not resolved everywhere
		id := &pb.TxnID{AnchorRange: 4, Term: 7, Seq: uint64(seq)}
		run(t, m, st, &pb.Entry{Epoch: 6, Prepare: &pb.Prepare{Id: id, Read: []*pb.Span{{Start: []byte(anchor), End: []byte(anchor + "\x00")}}}})
		run(t, m, st, &pb.Entry{Epoch: 6, Commit: commit(uint64(seq), anchor)})
	}
	d := run(t, m, st, &pb.Entry{Split: splitAt("m"), Closed: 40})
	if d.Refused != nil || d.Cut == nil || !d.Reshaped() {
		t.Fatalf("refused: %v, cut %v", d.Refused, d.Cut)
	}
	left := shard.Descriptor{ID: 4, Generation: 4, Span: shard.Span{Start: []byte("b"), End: []byte("m")}, Replicas: []shard.Replica{{ID: 1, Node: 11}, {ID: 2, Node: 12}}}
	right := shard.Descriptor{ID: 9, Generation: 4, Span: shard.Span{Start: []byte("m"), End: []byte("y")}, Replicas: []shard.Replica{{ID: 8, Node: 12}, {ID: 7, Node: 11}}}
	records := func(m *Machine) (seqs []uint64) {
		for id := range m.Records {
			seqs = append(seqs, id.Seq)
		}
		slices.Sort(seqs)
		return seqs
	}
	check := func(name string, m *Machine, want shard.Descriptor, recs ...uint64) {
		t.Helper()
		if !m.Desc.Equal(&want) {
			t.Errorf("%s is %+v, want %+v", name, m.Desc, want)
		}
		if got := records(m); !slices.Equal(got, recs) {
			t.Errorf("%s has the records %v, want %v", name, got, recs)
		}
		if a := m.Attachments[77]; !a.Attached || a.Grant != 3 || m.Epoch != 6 || len(m.Prepared) != 0 {
			t.Errorf("%s: lease %+v, epoch %d, %d prepared", name, a, m.Epoch, len(m.Prepared))
		}
	}
	check("the left", m, left, 0)
	if m.Closed != 40 {
		t.Errorf("closed at %d, not 40", m.Closed)
	}
	known := m.Known()
	if len(known) != 2 || !known[0].Equal(&left) || !known[1].Equal(&right) {
		t.Errorf("the left knows %+v", known)
	}
	again, err := LoadMachine(1, shard.Descriptor{ID: 4}, st)
	if err != nil {
		t.Fatal(err)
	}
	check("the left after a restart", again, left, 0)
	if again.Done.GetOp() != 5 || len(again.Known()) != 2 {
		t.Errorf("the left has forgotten op 5: %v", again.Done)
	}
	child := replicatest.NewMemStore()
	child.Pos = mvcc.Position{Index: 11, Term: 5}
	if _, err := child.Apply(mvcc.Change{Pos: mvcc.Position{Index: 12, Term: 5}, State: d.Cut.State}); err != nil {
		t.Fatal(err)
	}
	c, err := LoadMachine(7, shard.Descriptor{ID: 9}, child)
	if err != nil {
		t.Fatal(err)
	}
	check("the right", c, right, 1, 2)
	if c.Last != m.Last {
		t.Errorf("the right begins behind revision %d, the left ended at %d", c.Last, m.Last)
	}
	if d := run(t, m, st, &pb.Entry{Split: splitAt("d")}); !errors.Is(d.Refused, moves.ErrGeneration) {
		t.Errorf("a split that was decided for another generation: %v", d.Refused)
	}
}

// TestSplitRefused: what the range is not, or cannot be cut into, leaves it as it is.
func TestSplitRefused(t *testing.T) {
	with := func(change func(*pb.Split)) *pb.Split {
		s := splitAt("m")
		change(s)
		return s
	}
	for name, s := range map[string]*pb.Split{
		"at its first key":             splitAt("b"),
		"below it":                     splitAt("a"),
		"at its end":                   splitAt("y"),
		"of another generation":        with(func(s *pb.Split) { s.Generation = 2 }),
		"of a generation that comes":   with(func(s *pb.Split) { s.Generation = 4 }),
		"into itself":                  with(func(s *pb.Split) { s.Child = 4 }),
		"into nothing":                 with(func(s *pb.Split) { s.Child = 0 }),
		"with a replica too few":       with(func(s *pb.Split) { s.Replicas = s.Replicas[:1] }),
		"with a replica elsewhere":     with(func(s *pb.Split) { s.Replicas[0].NodeId = 13 }),
		"with a replica that is no id": with(func(s *pb.Split) { s.Replicas[0].ReplicaId = 0 }),
	} {
		m, st := whole(t)
		before, states := m.Desc, maps.Clone(st.States)
		d := run(t, m, st, &pb.Entry{Split: s})
		if d.Refused == nil || d.Cut != nil || !m.Desc.Equal(&before) || m.Done != nil || len(st.States) != len(states) {
			t.Errorf("a split %s: refused %v, and the range is %+v", name, d.Refused, m.Desc)
		}
	}
	m, st := whole(t)
	run(t, m, st, &pb.Entry{Prepare: &pb.Prepare{Id: &pb.TxnID{AnchorRange: 4, Term: 7, Seq: 1}, Write: []*pb.Span{{Start: []byte("c"), End: []byte("c\x00")}}}})
	if d := run(t, m, st, &pb.Entry{Split: splitAt("m")}); d.Refused == nil {
		t.Error("a range is cut in which a lock stands")
	}
}

// TestGenRise: nothing that was decided for the generation before has an effect any more.
func TestGenRise(t *testing.T) {
	m, st := whole(t)
	if d := run(t, m, st, &pb.Entry{GenRise: &pb.GenRise{Generation: 2, Op: 5}}); !errors.Is(d.Refused, moves.ErrGeneration) {
		t.Errorf("a rise of another generation: %v", d.Refused)
	}
	if d := run(t, m, st, &pb.Entry{GenRise: &pb.GenRise{Generation: 3, Op: 5}}); d.Refused != nil {
		t.Fatal(d.Refused)
	}
	if m.Desc.Generation != 4 || m.Done.GetOp() != 5 || m.Done.GetChild() != nil || len(m.Known()) != 1 {
		t.Errorf("generation %d, %v", m.Desc.Generation, m.Done)
	}
	if d := run(t, m, st, &pb.Entry{Split: splitAt("m")}); !errors.Is(d.Refused, moves.ErrGeneration) {
		t.Errorf("the split that was given up: %v", d.Refused)
	}
}

func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	t.Run("split", TestSplit)
	t.Run("refused", TestSplitRefused)
	t.Run("rise", TestGenRise)
}

func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.SplitNames(), time.Minute, func(out string) string { return "noticed: " + out[:min(len(out), 200)] }, "-test.run=^TestMutant$")
}
