package raftgroup

import (
	"errors"
	"slices"
	"testing"

	"pontoon/shard"
)

// termLog is a log whose every entry has one term.
type termLog struct {
	Log
	term uint64
}

func (l termLog) Term(shard.RangeID, uint64) (uint64, error) { return l.term, nil }

// A log and a state with different histories are refused, unless the log's was never committed: then a
// snapshot has replaced it.
func TestCompareTerms(t *testing.T) {
	for _, c := range []struct {
		log, commit   uint64
		older, refuse bool
	}{
		{log: 7, commit: 96},
		{log: 7, commit: 50},
		{log: 6, commit: 95, older: true},
		{log: 6, commit: 96, refuse: true},
		{log: 8, commit: 95, refuse: true},
	} {
		st := LogState{Truncated: Position{10, 5}, Last: 100, HardState: HardState{Term: 8, Commit: c.commit}}
		older, err := compareTerms(termLog{term: c.log}, 1, st, Position{96, 7})
		if older != c.older || errors.Is(err, shard.ErrCorrupt) != c.refuse {
			t.Errorf("%+v: older %v, %v", c, older, err)
		}
	}
}

// A group begins with voters and learners as it is told.
func TestFirstConf(t *testing.T) {
	cfg := &GroupConfig{Peers: map[shard.ReplicaID]shard.NodeID{3: 1, 5: 2, 7: 4, 9: 5}, Learners: []shard.ReplicaID{9, 5}}
	got := firstConf(cfg, 11)
	if v, l := got.State.GetVoters(), got.State.GetLearners(); !slices.Equal(v, []uint64{3, 7}) || !slices.Equal(l, []uint64{5, 9}) || got.Index != 11 {
		t.Errorf("%v, learners %v, at %d", v, l, got.Index)
	}
}
