package simtest

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
)

// A log that has lost a write takes no later one: what followed would stand on a hole.
func TestNothingFollowsATornWrite(t *testing.T) {
	l := NewMemLog()
	entry := func(i uint64) raftgroup.Update {
		return raftgroup.Update{Group: 1, Entries: []*raftpb.Entry{{Index: &i, Term: new(uint64(6))}}, HardState: &raftgroup.HardState{Term: 6, Commit: i}}
	}
	if err := l.Save([]raftgroup.Update{{Group: 1, Reset: &raftgroup.Position{Index: 10, Term: 5}}, entry(11)}); err != nil {
		t.Fatal(err)
	}
	l.TearNext(0)
	if err := l.Save([]raftgroup.Update{entry(12)}); !errors.Is(err, ErrTorn) {
		t.Fatalf("the torn write: %v", err)
	}
	l.TearNext(4)
	if err := l.Save([]raftgroup.Update{entry(13)}); err == nil {
		t.Error("a write after it went well")
	}
	l.Crash()
	st, _, err := l.Load(1)
	if err != nil || st.Last != 11 || st.HardState.Commit != 11 {
		t.Fatalf("after the crash: %+v, %v", st, err)
	}
	if err := l.Save([]raftgroup.Update{entry(12)}); err != nil {
		t.Errorf("in the next life: %v", err)
	}
}
