package corruption

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/shard"
)

func TestJudge(t *testing.T) {
	gone := errors.New("gone")
	cp := func(hash uint64, compacted int64) Copy { return Copy{Hash: hash, Compacted: compacted} }
	silent := Copy{Err: gone}
	for name, tc := range map[string]struct {
		copies []Copy
		want   verdict
		nodes  []shard.NodeID
	}{
		"all agree":                             {[]Copy{cp(1, 5), cp(1, 5), cp(1, 5)}, agree, nil},
		"one differs":                           {[]Copy{cp(1, 5), cp(2, 5), cp(1, 5)}, differ, []shard.NodeID{2}},
		"one is silent":                         {[]Copy{cp(1, 5), silent, cp(1, 5)}, agree, nil},
		"one is at another compaction":          {[]Copy{cp(1, 5), cp(2, 9), cp(1, 5)}, agree, nil},
		"two differ, one is silent":             {[]Copy{cp(1, 5), cp(2, 5), silent}, open, nil},
		"two differ, one at another":            {[]Copy{cp(1, 5), cp(2, 5), cp(3, 9)}, open, nil},
		"three differ":                          {[]Copy{cp(1, 5), cp(2, 5), cp(3, 5)}, split, []shard.NodeID{1, 2, 3}},
		"two of two differ":                     {[]Copy{cp(1, 5), cp(2, 5)}, split, []shard.NodeID{1, 2}},
		"two of five differ, each by itself":    {[]Copy{cp(1, 5), cp(2, 5), cp(3, 5), cp(1, 5), cp(1, 5)}, differ, []shard.NodeID{2, 3}},
		"two against two of five":               {[]Copy{cp(1, 5), cp(1, 5), cp(2, 5), cp(2, 5), silent}, open, nil},
		"two against two and one":               {[]Copy{cp(1, 5), cp(1, 5), cp(2, 5), cp(2, 5), cp(3, 5)}, split, []shard.NodeID{1, 2, 3, 4, 5}},
		"nobody answers":                        {[]Copy{silent, silent, silent}, open, nil},
		"a half is no majority":                 {[]Copy{cp(1, 5), cp(1, 5), silent, silent}, open, nil},
		"a hash of zero, which is that of none": {[]Copy{cp(0, 0), cp(0, 0), cp(7, 0)}, differ, []shard.NodeID{3}},
	} {
		for i := range tc.copies {
			tc.copies[i].Node = shard.NodeID(i + 1)
		}
		if got, nodes := judge(tc.copies); got != tc.want || !slices.Equal(nodes, tc.nodes) {
			t.Errorf("%s: %v %v, want %v %v", name, got, nodes, tc.want, tc.nodes)
		}
	}
}

// world is a cluster of ranges with three voters each.
type world struct {
	ranges    []shard.Descriptor
	bad       map[shard.RangeID][]uint64 // hashes, where not all are the same
	leads     bool
	compacted int64

	asked      []int64 // revisions
	here       []bool
	distrusted []shard.NodeID
	alarms     []shard.NodeID
}

func (w *world) env() Env {
	return Env{
		Leads: func() bool { return w.leads },
		Ranges: func(here bool) iter.Seq[shard.Descriptor] {
			w.here = append(w.here, here)
			return slices.Values(w.ranges)
		},
		Compacted: func() int64 { return w.compacted },
		Copies: func(_ context.Context, d shard.Descriptor, rev int64) ([]Copy, error) {
			w.asked = append(w.asked, rev)
			out := make([]Copy, len(d.Replicas))
			for i, r := range d.Replicas {
				out[i] = Copy{Node: r.Node, Hash: 1}
				if h := w.bad[d.ID]; h != nil {
					out[i].Hash = h[i]
				}
			}
			return out, nil
		},
		Distrust: func(_ context.Context, node shard.NodeID, _ shard.RangeID, _ string) error {
			w.distrusted = append(w.distrusted, node)
			return nil
		},
		Corrupt: func(_ context.Context, node shard.NodeID) error {
			w.alarms = append(w.alarms, node)
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func newWorld() *world {
	w := &world{leads: true, bad: map[shard.RangeID][]uint64{}}
	for id := shard.RangeID(2); id < 4; id++ {
		w.ranges = append(w.ranges, shard.Descriptor{ID: id, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}, {ID: 3, Node: 3}}})
	}
	return w
}

func TestScheduleOfChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.compacted = 7
		ctx, cancel := context.WithCancel(t.Context())
		go Run(ctx, Plan{Every: time.Minute, Compacted: 10 * time.Second, First: true}, w.env())
		<-time.After(time.Second)
		if !slices.Equal(w.asked, []int64{0, 0}) || !slices.Equal(w.here, []bool{true}) {
			t.Errorf("at the start: %v %v", w.asked, w.here)
		}
		<-time.After(30 * time.Second) // one compaction is compared at once
		if !slices.Equal(w.asked[2:], []int64{7, 7}) {
			t.Errorf("after a compaction: %v", w.asked[2:])
		}
		w.leads = false
		w.compacted = 9
		<-time.After(time.Minute)
		if len(w.asked) != 4 {
			t.Errorf("a node that does not lead: %v", w.asked[4:])
		}
		w.leads = true
		<-time.After(time.Minute)
		if got := w.asked[4:]; !slices.Contains(got, 0) || !slices.Contains(got, 9) || len(got) != 4 {
			t.Errorf("one that leads again: %v", got)
		}
		cancel()
		synctest.Wait()
	})
}

// TestWhatFollows: who is outvoted is told, one at a time; where nobody has a majority all are alarmed for.
func TestWhatFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.bad[2] = []uint64{1, 1, 5}
		w.bad[3] = []uint64{1, 2, 3}
		Run(t.Context(), Plan{First: true}, w.env())
		if !slices.Equal(w.distrusted, []shard.NodeID{3}) || !slices.Equal(w.alarms, []shard.NodeID{1, 2, 3}) {
			t.Errorf("distrusted %v, alarms for %v", w.distrusted, w.alarms)
		}
	})
}
