package placement

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

// testNow is late enough for everything of the snapshots here to be long ago.
const testNow = Seconds(100_000)

// testCluster makes a snapshot by hand. Nodes are 1, 2, 3 and so on, in the zones that are named.
type testCluster struct {
	*Snapshot
	limits Limits
}

func newTestCluster(zones string) *testCluster {
	c := &testCluster{Snapshot: &Snapshot{ReplicationFactor: 3, Round: 1}, limits: DefaultLimits()}
	for i, z := range zones {
		c.Nodes = append(c.Nodes, Node{ID: shard.NodeID(i + 1), Locality: "zone=" + string(z), DiskUsed: 10 << 30, DiskFree: 90 << 30, CPU: 0.3, Cores: 4})
	}
	c.Ranges.Width = 3
	return c
}

// add appends a range of so many MiB on these nodes, the first of which leads, and returns its position.
func (c *testCluster) add(size float32, nodes ...int) int {
	r := &c.Ranges
	i := r.Len()
	r.IDs = append(r.IDs, shard.RangeID(i+2))
	r.Generations = append(r.Generations, shard.Generation(i+100))
	if i > 0 {
		r.Keys = fmt.Appendf(r.Keys, "k%03d", i)
	}
	r.KeyEnds = append(r.KeyEnds, uint32(len(r.Keys)))
	for k := range r.Width {
		if k < len(nodes) {
			r.Replicas = append(r.Replicas, int16(nodes[k]-1))
		} else {
			r.Replicas = append(r.Replicas, None)
		}
	}
	r.Leaders, r.Flags = append(r.Leaders, 0), append(r.Flags, 0)
	r.Bytes, r.CPU = append(r.Bytes, size*mib), append(r.CPU, 0)
	r.Peak.CPU, r.Peak.Writes = append(r.Peak.CPU, 0), append(r.Peak.Writes, 0)
	r.At.Moved, r.At.Led, r.At.Cut, r.At.Sticky = append(r.At.Moved, 0), append(r.At.Led, 0), append(r.At.Cut, 0), append(r.At.Sticky, 0)
	return i
}

// die lets a node have been dead for so long.
func (c *testCluster) die(n int, d Seconds) {
	c.Nodes[n-1].Liveness, c.Nodes[n-1].Since = Dead, testNow-d
}

func (c *testCluster) plan() []Op { return Plan(c.Snapshot, c.limits, testNow) }

// lines is what is due, then what may not begin, one a line without its reasons.
func lines(ops []Op) string {
	var out []string
	for _, op := range ops {
		line, _, _ := strings.Cut(op.String(), ":")
		if !op.Due() {
			line = "not now: " + line
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// TestRules has a cluster for each row of the table, and one beside it in which the rule must keep still.
func TestRules(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	hot := func(c *testCluster, i int, left float32) {
		c.Nodes[c.Ranges.leader(i)].CPU = 0.7
		c.Samples = append(c.Samples, Sample{Range: int32(i), CPU: 300e6, Writes: 100, Points: []SamplePoint{{Key: []byte("k5"), Left: left}}})
	}
	for _, c := range []struct {
		name string
		make func() *testCluster
		want string
		why  string // part of the first op's reasons
	}{
		{"nothing to do", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 1, 2, 3)
			return c
		}, "", ""},
		{"a dead node's replica is replaced, in its zone", func() *testCluster {
			c := newTestCluster("abcac")
			c.add(100, 2, 1, 3)
			c.die(1, 301)
			return c
		}, "move r2 from 1 to 4 (replace)", "node 1 is gone, 2 of 3 replicas live"},
		{"not before five minutes", func() *testCluster {
			c := newTestCluster("abcac")
			c.add(100, 2, 1, 3)
			c.die(1, 299)
			return c
		}, "", ""},
		{"at once if it was removed", func() *testCluster {
			c := newTestCluster("abcac")
			c.add(100, 2, 1, 3)
			c.die(1, 1)
			c.Nodes[0].Removed = true
			return c
		}, "move r2 from 1 to 4 (replace)", ""},
		{"bare majorities first, then the smallest", func() *testCluster {
			c := newTestCluster("abcdefgh")
			c.Ranges.Width, c.ReplicationFactor, c.limits.Pace.Ops = 5, 5, 3
			c.add(90, 3, 1, 4, 5, 6)
			c.add(80, 3, 1, 4, 5, 6)
			c.add(99, 3, 1, 2, 4, 5)
			c.die(1, 400)
			c.die(2, 400)
			return c
		}, "move r4 from 1 to 7 (replace)\nmove r3 from 1 to 8 (replace)\nmove r2 from 1 to 8 (replace)", ""},
		{"without a majority nothing can be done", func() *testCluster {
			c := newTestCluster("abcabc")
			c.add(100, 3, 1, 2)
			c.die(1, 400)
			c.die(2, 400)
			return c
		}, "not now: move r2 from 1 (replace)", "majority of its replicas is dead"},
		{"no disk for it", func() *testCluster {
			c := newTestCluster("abca")
			c.add(100, 2, 1, 3)
			c.die(1, 400)
			c.Nodes[3].DiskFree = 10 << 30
			c.Nodes[3].DiskUsed = 90 << 30
			return c
		}, "not now: move r2 from 1 (replace)", "15 % of its disk free"},
		{"a range with too few grows", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 1, 2)
			return c
		}, "move r2 to 3 (grow)", "2 replicas, and 3 are wanted"},
		{"with the last members a range shrinks", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 3, 1, 2)
			c.Nodes[2].Removed = true
			return c
		}, "move r2 from 3, 1 leads then (shrink)", ""},
		{"first without who was removed first", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 3, 1, 2)
			c.Nodes[0].Removed, c.Nodes[0].Left, c.Nodes[1].Removed, c.Nodes[1].Left = true, 9, true, 8
			return c
		}, "move r2 from 2 (shrink)", ""},
		{"first without the one that does not answer", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 3, 1, 2)
			c.Nodes[0].Removed, c.Nodes[1].Removed, c.Nodes[1].Liveness = true, true, Suspect
			return c
		}, "move r2 from 2 (shrink)", ""},
		{"not without a majority behind it", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 3, 1, 2)
			c.Nodes[2].Removed = true
			c.die(1, 10)
			return c
		}, "not now: move r2 from 3 (shrink)", "would have no majority"},
		{"a drain hands over leads first", func() *testCluster {
			c := newTestCluster("abca")
			c.limits.Pace.OpsPerNode = 1
			c.add(100, 2, 1, 3)
			c.add(100, 1, 2, 3)
			c.Nodes[0].Draining = true
			return c
		}, "transfer the lead of r3 from 1 to 3 (drain-lead)\nnot now: move r2 from 1 to 4 (drain)", "node 1 is to be empty"},
		{"then replicas", func() *testCluster {
			c := newTestCluster("abca")
			c.add(100, 2, 1, 3)
			c.Nodes[0].Draining = true
			return c
		}, "move r2 from 1 to 4 (drain)", "node 1 is to be empty"},
		{"a drain has nowhere to go", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 2, 1, 3)
			c.Nodes[0].Draining = true
			return c
		}, "not now: move r2 from 1 (drain)", "no node that serves is without a replica of it"},
		{"replicas in one zone are taken apart", func() *testCluster {
			c := newTestCluster("aabc")
			c.add(100, 1, 2, 3)
			return c
		}, "move r2 from 2 to 4 (domain)", "1 of its replicas would fail with another one"},
		{"a learner gets nothing", func() *testCluster {
			c := newTestCluster("aabc")
			c.add(100, 1, 2, 3)
			c.Nodes[3].Learner = true
			return c
		}, "", ""},
		{"a large range is cut", func() *testCluster {
			c := newTestCluster("abc")
			c.add(256, 1, 2, 3)
			return c
		}, "split r2 in the middle (size)", "256 MiB in use"},
		{"not a file that is not trimmed", func() *testCluster {
			c := newTestCluster("abc")
			c.Ranges.Flags[c.add(600, 1, 2, 3)] = Untrimmed
			return c
		}, "not now: split r2 in the middle (size)", "gave away"},
		{"not without disk for it", func() *testCluster {
			c := newTestCluster("abc")
			c.add(256, 1, 2, 3)
			c.Nodes[1].DiskFree, c.Nodes[1].DiskUsed, c.limits.Move.DiskFull = 255<<20, 99<<30, 0
			return c
		}, "not now: split r2 in the middle (size)", "node 2 has less disk free"},
		{"not just after a merge", func() *testCluster {
			c := newTestCluster("abc")
			i := c.add(300, 1, 2, 3)
			c.Ranges.Flags[i], c.Ranges.At.Cut[i] = CutByMerge, testNow-599
			return c
		}, "not now: split r2 in the middle (size)", "came of a merge"},
		{"but for one that is far too large", func() *testCluster {
			c := newTestCluster("abc")
			i := c.add(512, 1, 2, 3)
			c.Ranges.Flags[i], c.Ranges.At.Cut[i] = CutByMerge, testNow-599
			return c
		}, "split r2 in the middle (size)", ""},
		{"a tail is cut at its end", func() *testCluster {
			c := newTestCluster("abc")
			i := c.add(300, 1, 2, 3)
			c.Samples = []Sample{{Range: int32(i), CPU: 1, Writes: 10, Tail: 0.8}}
			return c
		}, "split r2 at its end (tail)", "80 % of its writes go to its end"},
		{"a busy range is cut where its load is parted", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			return c
		}, `split r2 at "k5" (load)`, "40 % of it lies before"},
		{"though its file is not trimmed", func() *testCluster {
			c := newTestCluster("abc")
			i := c.add(100, 1, 2, 3)
			hot(c, i, 0.4)
			c.Ranges.Flags[i] = Untrimmed
			return c
		}, `split r2 at "k5" (load)`, ""},
		{"but not where no other has much more time left", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			c.Nodes[0].CPU, c.Nodes[1].CPU, c.Nodes[2].CPU = 0.9, 0.6, 0.55
			return c
		}, "", ""},
		{"not if nobody could help", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			for n := range c.Nodes {
				c.Nodes[n].CPU = 0.55
			}
			return c
		}, "", ""},
		{"if somebody could", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			c.Nodes[0].CPU, c.Nodes[2].CPU = 0.5, 0.25
			return c
		}, `split r2 at "k5" (load)`, ""},
		{"not below the threshold in every window", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			c.Samples[0].CPU = 249e6
			return c
		}, "", ""},
		{"of a node with an eighth of a processor the threshold is an eighth", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			c.Samples[0].CPU = 32e6
			for n := range c.Nodes {
				c.Nodes[n].Cores = 0.125
			}
			return c
		}, `split r2 at "k5" (load)`, ""},
		{"nor with an unknown load", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			c.Ranges.Flags[0] = LoadUnknown
			return c
		}, "", ""},
		{"writes alone are reason enough", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.4)
			c.Samples[0].CPU, c.Samples[0].Writes = 0, 2000
			return c
		}, `split r2 at "k5" (load)`, ""},
		{"unsplittable", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.66)
			return c
		}, "leave r2 alone for 300 s (load)", "unsplittable"},
		{"a cut that parts transactions is none", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.5)
			c.Samples[0].Points[0].Cross = 0.11
			return c
		}, "leave r2 alone for 300 s (load)", ""},
		{"for longer the next time", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.66)
			c.Backoffs = []Backoff{{Range: 0, For: 2400, Until: testNow}}
			return c
		}, "leave r2 alone for 3600 s (load)", ""},
		{"anew after a long time", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.66)
			c.Backoffs = []Backoff{{Range: 0, For: 600, Until: testNow - 601}}
			return c
		}, "leave r2 alone for 300 s (load)", ""},
		{"not looked at before", func() *testCluster {
			c := newTestCluster("abc")
			hot(c, c.add(100, 1, 2, 3), 0.5)
			c.Backoffs = []Backoff{{Range: 0, For: 300, Until: testNow + 7}}
			return c
		}, "not now: split r2 at \"\" (load)", "looked at again in 7 s"},
		{"a border that somebody asked for", func() *testCluster {
			c := newTestCluster("abc")
			c.add(1, 1, 2, 3)
			c.limits.Mode = ModeOff
			c.Asked = []HandSplit{{Key: []byte("x"), Until: Forever}}
			return c
		}, `split r2 at "x" (hand)`, "asked for"},
		{"once is enough", func() *testCluster {
			c := newTestCluster("abc")
			c.limits.Mode = ModeOff
			c.add(1, 1, 2, 3)
			c.add(1, 1, 2, 3)
			c.Asked = []HandSplit{{Key: []byte("k001")}, {Key: []byte("x")}, {Key: []byte("y")}}
			return c
		}, "split r3 at \"x\" (hand)\nnot now: split r3 at \"y\" (hand)", ""},
		{"small neighbours become one", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			c.add(30, 2, 3, 1)
			return c
		}, "merge r2 with r3 (merge)", "60 MiB together"},
		{"of a run of them every other pair", func() *testCluster {
			c := newTestCluster("abc")
			for range 5 {
				c.add(10, 1, 2, 3)
			}
			c.limits.Pace.OpsPerNode = 9
			c.Ranges.Leaders = []int8{0, 1, 2, 0, 1}
			return c
		}, "merge r2 with r3 (merge)\nmerge r4 with r5 (merge)", ""},
		{"not below what was asked for", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			c.add(30, 2, 3, 1)
			c.limits.Merge.RangesMin = 2
			return c
		}, "", ""},
		{"not over a border that somebody cut", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			c.Ranges.At.Sticky[c.add(30, 2, 3, 1)] = Forever
			return c
		}, "", ""},
		{"but over what was cut for its size behind one", func() *testCluster {
			c := newTestCluster("abc")
			c.Ranges.At.Sticky[c.add(30, 1, 2, 3)] = Forever
			c.add(30, 2, 3, 1)
			return c
		}, "merge r2 with r3 (merge)", ""},
		{"nor over one that stays for another second", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			c.Ranges.At.Sticky[c.add(30, 2, 3, 1)] = testNow + 1
			return c
		}, "", ""},
		{"nor where either was busy within ten minutes", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			c.Ranges.Peak.CPU[c.add(30, 2, 3, 1)] = 63e6
			return c
		}, "", ""},
		{"nor where that is not known", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			c.Ranges.Flags[c.add(30, 2, 3, 1)] = LoadUnknown
			return c
		}, "", ""},
		{"nor where it is known for a moment only", func() *testCluster {
			c := newTestCluster("abc")
			c.Ranges.Flags[c.add(30, 1, 2, 3)] = LoadShort
			c.add(30, 2, 3, 1)
			return c
		}, "", ""},
		{"nor where something was done within ten minutes", func() *testCluster {
			c := newTestCluster("abc")
			c.Ranges.At.Led[c.add(30, 1, 2, 3)] = testNow - 599
			c.add(30, 2, 3, 1)
			return c
		}, "not now: merge r2 with r3 (merge)", "less than 600 s ago"},
		{"nor while a node is silent", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			c.add(30, 2, 3, 1)
			c.Nodes[2].Liveness = Suspect
			return c
		}, "not now: merge r2 with r3 (merge)", "node 3 does not serve"},
		{"they come together first", func() *testCluster {
			c := newTestCluster("abcc")
			c.add(30, 1, 2, 3)
			c.add(30, 2, 4, 1)
			return c
		}, "move r3 from 4 to 3 (align)", "to lie where r2 does"},
		{"and do not wait for it", func() *testCluster {
			c := newTestCluster("abc")
			c.add(30, 1, 2, 3)
			i := c.add(30, 2, 3, 1)
			c.Ranges.At.Moved[i], c.Ranges.Flags[i] = testNow-1, MovedToAlign
			return c
		}, "merge r2 with r3 (merge)", ""},
		{"leads go to where they are preferred", func() *testCluster {
			c := newTestCluster("abc")
			c.add(100, 1, 2, 3)
			c.limits.Move.PreferredTier = "zone=b"
			return c
		}, "transfer the lead of r2 from 1 to 2 (prefer)", "leads are preferred in zone=b"},
		{"a node that is back", func() *testCluster {
			c := newTestCluster("abca")
			c.add(100, 2, 1, 3)
			c.Running = []Running{{ID: 7, Kind: KindMove, Rule: RuleReplace, Range: 0, Right: None, From: 0, To: 3, Leader: None}}
			return c
		}, "give up op 7 on r2 (give-up)", "node 1 is back"},
		{"too late to go back", func() *testCluster {
			c := newTestCluster("abca")
			c.add(100, 2, 1, 3)
			c.Running = []Running{{ID: 7, Kind: KindMove, Rule: RuleReplace, Range: 0, Right: None, From: 0, To: 3, Leader: None, Begun: true}}
			return c
		}, "", ""},
		{"an op that goes to a dead node", func() *testCluster {
			c := newTestCluster("abca")
			c.add(100, 2, 1, 3)
			c.die(4, 400)
			c.Running = []Running{{ID: 7, Kind: KindMove, Rule: RuleBalance, Range: 0, Right: None, From: 0, To: 3, Leader: None, Begun: true}}
			return c
		}, "give up op 7 on r2 (give-up)", "node 4, where it goes, is dead"},
		{"a range takes part in one op at a time", func() *testCluster {
			c := newTestCluster("abca")
			c.add(600, 2, 1, 3)
			c.Running = []Running{{ID: 7, Kind: KindTransfer, Range: 0, Right: None, From: 1, To: 0, Leader: None}}
			return c
		}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ops := c.make().plan()
			if got := lines(ops); got != c.want {
				t.Fatalf("got  %s\nwant %s", got, c.want)
			}
			if c.why != "" && !strings.Contains(ops[0].String(), c.why) {
				t.Errorf("%v: does not say %q", ops[0], c.why)
			}
		})
	}
}

// even adds n ranges on these nodes in turn; the first of a row leads.
func (c *testCluster) even(n int, size float32, rows ...[]int) {
	for i := range n {
		c.add(size, rows[i%len(rows)]...)
	}
}

// TestAnEmptyNodeIsFilled: nobody is far above the mean, and one is far below.
func TestAnEmptyNodeIsFilled(t *testing.T) {
	c := newTestCluster("abcdefghijklmnopqrstuv")
	for i := range 21 * 20 {
		c.add(100, 1+i%21, 1+(i+1)%21, 1+(i+2)%21)
	}
	var to []shard.NodeID
	for _, op := range c.plan() {
		if op.Due() && op.Kind == KindMove {
			to = append(to, op.To)
		}
	}
	if len(to) != c.limits.Pace.OpsPerNode || slices.Max(to) != 22 || slices.Min(to) != 22 {
		t.Fatalf("moves to %v, want as many as node 22 may take part in", to)
	}
}

// TestLeadsFollowLoad: a node that leads what is hot hands some of it over, and nothing is copied for it.
func TestLeadsFollowLoad(t *testing.T) {
	c := newTestCluster("abc")
	c.even(30, 100, []int{1, 2, 3}, []int{2, 3, 1}, []int{3, 1, 2})
	for i := range c.Ranges.CPU {
		if c.Ranges.leader(i) == 0 {
			c.Ranges.CPU[i] = 90e6
		}
	}
	ops := c.plan()
	if len(ops) == 0 {
		t.Fatal("nothing is planned")
	}
	for _, op := range ops {
		if op.Kind != KindTransfer || op.From != 1 && c.Ranges.CPU[c.Ranges.Find([]byte(fmt.Sprintf("k%03d", op.Range-2)))] > 0 {
			t.Errorf("%v", op)
		}
	}
	for i := range c.Ranges.At.Led {
		c.Ranges.At.Led[i] = testNow - c.limits.Move.LeadCooldown + 1
	}
	for _, op := range c.plan() {
		if op.Due() && op.Kind == KindTransfer {
			t.Errorf("within the cooldown: %v", op)
		}
	}
}

// TestWhyNothingIsTaken: a node with too many replicas, all of which were moved a moment ago, is told so, though it may hand leads over.
func TestWhyNothingIsTaken(t *testing.T) {
	c := newTestCluster("abcd")
	for _, nodes := range [][]int{{1, 3, 4}, {2, 3, 4}, {1, 2, 4}, {2, 1, 4}, {2, 3, 4}, {3, 1, 4}, {4, 1, 3}, {4, 1, 3}, {4, 3, 1}, {3, 2, 4}, {3, 2, 4}, {2, 1, 3}} {
		i := c.add(1, nodes...)
		c.Ranges.At.Moved[i] = testNow - 1
	}
	for _, op := range c.plan() {
		if op.Rule == RuleBalance && op.From == 4 && strings.Contains(op.Blocked, "was moved a moment ago") {
			return
		}
		t.Logf("%v: %s", op, op.Blocked)
	}
	t.Error("nobody says why node 4 keeps its replicas")
}

// TestABusyNodeHandsOverFirst: a node without time left hands a lead over before it is made to cut or to copy anything: with two hot ranges, one of
// them goes at once, and only the other is cut. What has just changed and was not heard of since stays where it is until it was.
func TestABusyNodeHandsOverFirst(t *testing.T) {
	c := newTestCluster("abcdef")
	for i := range 2 {
		c.add(100, 1, 2, 3)
		c.Ranges.CPU[i] = 500e6
		c.Samples = append(c.Samples, Sample{Range: int32(i), CPU: 500e6, Writes: 100, Points: []SamplePoint{{Key: fmt.Appendf(nil, "k%03d5", i), Left: 0.5}}})
	}
	c.Nodes[0].CPU = 1
	if got, want := lines(c.plan()), "transfer the lead of r2 from 1 to 2 (lead)\nsplit r3 at \"k0015\" (load)"; got != want {
		t.Errorf("planned:\n%s\nwant:\n%s", got, want)
	}
	c.Ranges.At.Cut[0] = testNow - restSeconds + 1
	if got, want := lines(c.plan()), "transfer the lead of r3 from 1 to 2 (lead)\nsplit r2 at \"k0005\" (load)"; got != want {
		t.Errorf("one has just been cut:\n%s\nwant:\n%s", got, want)
	}
	c.Ranges.At.Cut[0] = 0
	c.Nodes[0].CPU = 0.8
	if got, want := lines(c.plan()), "split r2 at \"k0005\" (load)\nsplit r3 at \"k0015\" (load)\nnot now: move any range from 1 (balance)"; got != want {
		t.Errorf("with time left:\n%s\nwant:\n%s", got, want)
	}
	c.Samples = nil
	c.Ranges.Leaders[0], c.Ranges.Leaders[1] = None, None
	if got := lines(c.plan()); got != "" {
		t.Errorf("nobody has told of them: %s", got)
	}
}

// TestALeadThatHasJustCome: what a node has got a moment ago is not in its own figures yet, but in those of the range.
func TestALeadThatHasJustCome(t *testing.T) {
	for _, cpu := range []float32{2.6e9, 1.9e9} {
		c := newTestCluster("abc")
		c.add(100, 1, 2, 3)
		c.Ranges.CPU[0] = cpu
		c.Samples = []Sample{{CPU: cpu, Points: []SamplePoint{{Key: []byte("k5"), Left: 0.5}}}}
		if got := strings.HasPrefix(lines(c.plan()), "split"); got != (cpu > 2.4e9) {
			t.Errorf("%.0f %% of a node: cut: %v", cpu/4e9*100, got)
		}
	}
}

// TestSmallerPartsOfAFullNode: where one node has no time left and another is idle, a range is cut for less.
func TestSmallerPartsOfAFullNode(t *testing.T) {
	for _, tc := range []struct {
		own, others, does float32
		cut               bool
	}{
		{1, 0, 15.5e6, true}, {1, 0, 14.5e6, false}, // half of what it is otherwise
		{1, 0.1, 17.5e6, true}, {1, 0.1, 16e6, false}, // a part of what a node would do if all did as much
		{1, 0.5, 29e6, false}, {0.85, 0.1, 29e6, false}, {0.85, 0.1, 31e6, true},
	} {
		c := newTestCluster("abc")
		c.add(100, 1, 2, 3)
		for n := range c.Nodes {
			c.Nodes[n].CPU, c.Nodes[n].Cores = tc.others, 0.12
		}
		c.Nodes[0].CPU, c.Ranges.CPU[0] = tc.own, tc.does
		c.Samples = []Sample{{CPU: tc.does, Points: []SamplePoint{{Key: []byte("k5"), Left: 0.5}}}}
		if got := strings.HasPrefix(lines(c.plan()), "split"); got != tc.cut {
			t.Errorf("%+v: cut: %v", tc, got)
		}
	}
}

// TestAFullNodeIsCutNoFurther than until its parts are small enough for nodes that all do as much: then it is moves that help.
func TestAFullNodeIsCutNoFurther(t *testing.T) {
	for _, parts := range []int{4, 8} {
		c := newTestCluster("abcdefghi")
		for i := range parts {
			c.add(100, 1, 2, 3)
			c.Ranges.CPU[i] = 1.6e9 / float32(parts)
			c.Samples = append(c.Samples, Sample{
				Range: int32(i), CPU: c.Ranges.CPU[i], Points: []SamplePoint{{Key: fmt.Appendf(nil, "k%03d5", i), Left: 0.5}},
			})
		}
		for n := range c.Nodes {
			if c.Nodes[n].CPU = 0.1; n < 3 {
				c.Nodes[n].CPU = 1
			}
		}
		got := lines(c.plan())
		if cuts := strings.Count(got, "split"); (cuts > 0) != (parts == 4) || cuts == 0 && strings.Count(got, "move") < 2 {
			t.Errorf("%d parts:\n%s", parts, got)
		}
	}
}

// TestTheBusiestIsCutFirst: a node takes part in a few ops at a time.
func TestTheBusiestIsCutFirst(t *testing.T) {
	c := newTestCluster("abc")
	for i := range 6 {
		c.add(100, 1, 2, 3)
		c.Samples = append(c.Samples, Sample{
			Range: int32(i), CPU: 300e6 + 1e6*float32(i), Points: []SamplePoint{{Key: fmt.Appendf(nil, "k%03d5", i), Left: 0.5}},
		})
	}
	c.Nodes[0].CPU = 0.8
	if got, want := c.plan()[0].Range, c.Ranges.IDs[5]; got != want {
		t.Errorf("%v is cut first, not %v", got, want)
	}
}

// TestATailIsLedByTheIdlest: the hottest range cannot be cut; who leads it should do nothing else.
func TestATailIsLedByTheIdlest(t *testing.T) {
	c := newTestCluster("abc")
	i := c.add(100, 1, 2, 3)
	c.even(9, 100, []int{1, 2, 3}, []int{1, 2, 3}, []int{2, 3, 1})
	c.Samples = []Sample{{Range: int32(i), CPU: 900e6, Writes: 9000, Tail: 0.9}}
	for k := range c.Ranges.CPU {
		c.Ranges.CPU[k] = 50e6
	}
	c.Ranges.CPU[i] = 900e6
	ops := c.plan()
	if len(ops) == 0 || ops[0].Rule != RuleTail || ops[0].Kind != KindTransfer || ops[0].To != 3 {
		t.Fatalf("%v", lines(ops))
	}
}

// TestAFullDiskGivesAway: whatever it is full of.
func TestAFullDiskGivesAway(t *testing.T) {
	c := newTestCluster("abca")
	c.even(40, 100, []int{1, 2, 3}, []int{4, 2, 3})
	if ops := c.plan(); len(ops) > 0 && ops[0].Rule == RuleBalance {
		t.Fatalf("balanced: %v", lines(ops))
	}
	c.Nodes[0].DiskFree, c.Nodes[0].DiskUsed = 10<<30, 90<<30
	found := false
	for _, op := range c.plan() {
		if op.Rule == RuleBalance && op.Kind == KindMove && op.Due() {
			found = true
			if op.From != 1 || op.To != 4 || !strings.Contains(op.Why, "of its disk free") {
				t.Errorf("%v", op)
			}
		}
	}
	if !found {
		t.Fatal("nothing leaves it")
	}
}

// TestADrainGivesManyLeadsAtATime: they do not wait for what copies, nor does that for them.
func TestADrainGivesManyLeadsAtATime(t *testing.T) {
	c := newTestCluster("abcd")
	c.even(60, 100, []int{1, 2, 3})
	c.Nodes[0].Draining = true
	leads, moves := 0, 0
	for _, op := range c.plan() {
		switch {
		case op.Due() && op.Rule == RuleDrainLead:
			leads++
		case op.Due() && op.Rule == RuleDrain:
			moves++
		}
	}
	if leads != c.limits.Pace.Farewells {
		t.Errorf("%d leads and %d moves at a time", leads, moves)
	}
}

// TestCandidatesAreDrawnAnew: one range of three hundred can move, because who leads the others is busy, and it is found.
func TestCandidatesAreDrawnAnew(t *testing.T) {
	c := newTestCluster("abca")
	for range 300 {
		c.add(100, 2, 1, 3)
	}
	c.Ranges.Leaders[217] = 2
	for i := range c.limits.Pace.OpsPerNode {
		c.Running = append(c.Running, Running{ID: uint64(i + 1), Kind: KindTransfer, Range: int32(i), Right: None, From: 1, To: 1, Leader: None})
	}
	for range 300 {
		c.Round++
		for _, op := range c.plan() {
			if op.Due() && op.Kind == KindMove && op.Range == c.Ranges.IDs[217] {
				t.Logf("in round %d: %v", c.Round, op)
				return
			}
		}
	}
	t.Error("not found")
}

// TestPaces: no plan has more ops than may be, those under way counted.
func TestPaces(t *testing.T) {
	c := newTestCluster("abcdefghijkl")
	for i := range 300 {
		c.add(100, 1+i%3, 4+i%3, 7+i%3)
	}
	c.limits.Pace = PaceLimits{OpsPerNode: 3, Ops: 8, DeadAfter: 300, BlockedMax: 5}
	c.Running = []Running{{ID: 1, Kind: KindMove, Range: 9, Right: None, From: 0, To: 11, Leader: None}, {ID: 2, Kind: KindSplit, Range: 4, Right: None, From: None, To: None, Leader: None}}
	nodes := map[shard.NodeID]int{1: 1, 12: 1}
	for _, n := range c.Ranges.Row(4) {
		nodes[shard.NodeID(n+1)]++
	}
	due, held := 0, 0
	for _, op := range c.plan() {
		if !op.Due() {
			held++
			continue
		}
		due++
		nodes[op.From]++
		nodes[op.To]++
	}
	if due == 0 || due > 6 || held > 5 {
		t.Errorf("%d ops beside two, %d held", due, held)
	}
	for n, k := range nodes {
		if k > 3 {
			t.Errorf("node %v takes part in %d", n, k)
		}
	}
}

// TestModes: what each leaves alone.
func TestModes(t *testing.T) {
	c := newTestCluster("abcac")
	c.add(300, 2, 1, 3) // to be cut
	c.add(100, 2, 5, 3) // two in zone c
	c.add(100, 2, 4, 3) // on a dead node
	c.die(4, 400)
	for mode, want := range map[Mode][]Rule{ModeOn: {RuleReplace, RuleDomain, RuleSize}, ModeRepair: {RuleReplace, RuleDomain}, ModeOff: nil} {
		c.limits.Mode = mode
		var got []Rule
		for _, op := range c.plan() {
			if op.Due() {
				got = append(got, op.Rule)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("mode %d: %v, want %v", mode, got, want)
		}
	}
}

// TestNothing: what is not there yet is no reason to fall over.
func TestNothing(t *testing.T) {
	c := newTestCluster("")
	if ops := c.plan(); len(ops) > 0 {
		t.Errorf("without nodes and ranges: %v", ops)
	}
	c = newTestCluster("abc")
	c.Asked = []HandSplit{{Key: []byte("x")}}
	if ops := c.plan(); len(ops) > 0 {
		t.Errorf("without ranges: %v", ops)
	}
	c.Ranges.Leaders[c.add(600, 1, 2, 3)] = None
	c.Samples = []Sample{{Range: 0, CPU: 1e9, Writes: 1e4, Tail: 0.9}}
	if got := lines(c.plan()); got != `split r2 at "x" (hand)` {
		t.Errorf("a range that nobody leads: %v", got)
	}
}

// TestPlanIsAFunctionOfItsInput: the same ops every time, and the snapshot is as it was.
func TestPlanIsAFunctionOfItsInput(t *testing.T) {
	make := func() *Snapshot {
		s := million(20, 2000, 7)
		s.Nodes[3].Liveness, s.Nodes[3].Since = Dead, 1
		s.Nodes[8].Draining = true
		s.Running = []Running{{ID: 1, Kind: KindMove, Range: 17, From: s.Ranges.Replicas[51], To: 19, Right: None, Leader: None}, {ID: 2, Kind: KindSplit, Range: 40, From: None, To: None, Right: None, Leader: None}}
		return s
	}
	s := make()
	want := Plan(s, DefaultLimits(), testNow)
	if len(want) < 10 {
		t.Fatalf("only %d ops", len(want))
	}
	if !reflect.DeepEqual(s, make()) {
		t.Error("the snapshot has changed")
	}
	for range 20 {
		if got := Plan(make(), DefaultLimits(), testNow); !reflect.DeepEqual(got, want) {
			t.Fatalf("another plan:\n%s\nwant\n%s", lines(got), lines(want))
		}
	}
}

// TestARoundAllocatesByNodes: ten times as many ranges cost no more allocations.
func TestARoundAllocatesByNodes(t *testing.T) {
	cost := func(ranges int) float64 {
		s := million(50, ranges, 3)
		return testing.AllocsPerRun(5, func() { Plan(s, DefaultLimits(), testNow) })
	}
	few, many := cost(20_000), cost(200_000)
	if many > 1.5*few+50 {
		t.Errorf("%.0f allocations with 20 000 ranges, %.0f with 200 000", few, many)
	}
}

// TestTop: the lowest keys, in order.
func TestTop(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, notedMax, 5 * notedMax} {
		var all []noted
		var kept top
		for i := range n {
			x := noted{rnd.Uint64N(1000), int32(i)}
			all = append(all, x)
			kept.add(x.key, x.at)
		}
		slices.SortFunc(all, func(a, b noted) int {
			if a.less(b) {
				return -1
			}
			return 1
		})
		if got := kept.sorted(); !slices.Equal(got, all[:min(n, notedMax)]) {
			t.Errorf("%d: %v", n, got)
		}
	}
}

// TestDomains: how many replicas a domain may hold, and what is one too many.
func TestDomains(t *testing.T) {
	nodes := make([]Node, 0)
	for _, l := range []string{"r=1,z=a", "r=1,z=a", "r=1,z=b", "r=2,z=c", "r=2,z=d", "r=2,z=d"} {
		nodes = append(nodes, Node{Locality: l})
	}
	roles := make([]role, len(nodes))
	for _, c := range []struct {
		n    int
		caps []int
		rows map[string]int
	}{
		{3, []int{2, 1}, map[string]int{"0 2 3": 0, "0 1 3": 1, "3 4 5": 2, "2 3 4": 0}},
		{5, []int{3, 2}, map[string]int{"0 1 2 3 4": 0, "0 3 4 5 2": 0}},
		{2, []int{1, 1}, map[string]int{"0 2": 1, "0 1": 2, "0 3": 0}},
	} {
		d := domainsOf(nodes, func(int) bool { return true }, c.n)
		if !slices.Equal(d.caps, c.caps) {
			t.Errorf("%d replicas: %v, want %v", c.n, d.caps, c.caps)
		}
		for text, want := range c.rows {
			var row []int16
			for _, f := range strings.Fields(text) {
				row = append(row, int16(f[0]-'0'))
			}
			if got := d.violations(row, roles, roleAbsent); got != want || d.clear(row) && want > 0 {
				t.Errorf("%d replicas on %s: %d violations, want %d; clear: %t", c.n, text, got, want, d.clear(row))
			}
		}
	}
}

// TestVain: what was tried in vain on a range is not tried again before its time, and other things are.
func TestVain(t *testing.T) {
	c := newTestCluster("abcd")
	c.add(300, 1, 2, 3)
	c.add(500, 1, 2, 3)
	c.Vain = []Vain{{Range: 1, Kind: KindMove, Until: testNow + 9}, {Range: 1, Kind: KindSplit, Until: testNow + 1}}
	c.limits.Mode = ModeOn
	cuts := func(now Seconds) (due, held int) {
		for _, op := range Plan(c.Snapshot, c.limits, now) {
			switch {
			case op.Kind != KindSplit:
			case op.Due():
				due++
			case op.Blocked == "it was tried in vain: again in 1 s":
				held++
			}
		}
		return due, held
	}
	if due, held := cuts(testNow); due != 1 || held != 1 {
		t.Errorf("%d cuts are due, %d wait", due, held)
	}
	if due, held := cuts(testNow + 1); due != 2 || held != 0 {
		t.Errorf("later %d cuts are due, %d wait", due, held)
	}
}
