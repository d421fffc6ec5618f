package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// still is a cluster of three nodes that changes nothing by itself, and which is all in one range at first.
func still() harness.Options {
	return harness.Options{Ranges: 1, Args: []string{"--placement=off"}}
}

// merge takes a border away and waits until it is gone. Requests of the ranges have stood for so long. A merge that was given up, because a
// range did not come to rest or a replica was late, is asked for again.
func merge(ctx context.Context, t *testing.T, c *harness.Cluster, key string) (stood time.Duration, again int) {
	t.Helper()
	ops := harness.Ops{ClientURL: c.Nodes[rand.IntN(len(c.Nodes))].ClientURL}
	for ; ; again++ {
		op, err := ops.BeginMerge(ctx, key, "test")
		if err != nil {
			t.Fatalf("merge at %q: %v", key, err)
		}
		op = awaitOver(ctx, t, ops, op)
		if op.Failure == "" {
			return op.Stood(), again
		}
		t.Logf("the merge at %q was given up: %s", key, op.Failure)
		if again == 5 {
			t.Fatalf("the merge at %q was given up", key)
		}
	}
}

// TestMerge cuts a range and merges the parts again, at random, under 64 writers, while one watcher watches everything: no client sees an error, no
// revision is left out, no write is lost, and the watcher hears of each once and in order.
func TestMerge(t *testing.T) {
	changes, pace, within := 200, time.Duration(0), 6*time.Minute
	switch {
	case testing.Short():
		changes = 24
	case env.long: // twenty minutes
		changes, pace, within = 400, 3*time.Second, 30*time.Minute
	}
	o := still()
	o.Args = append(o.Args, "--range-max-bytes=8GiB") // nothing is compacted, and what would be cut at once is not merged
	u := newUnderLoad(t, o, within)
	c, ctx := u.c, u.ctx
	u.write(t, "k/merge")
	var borders []string
	var most time.Duration
	merges, again := 0, 0
	for i := range changes {
		if pace > 0 {
			time.Sleep(pace)
			u.forget(t) // what is too large is not merged
		}
		if len(borders) == 0 || len(borders) < 12 && rand.IntN(2) == 0 {
			key := fmt.Sprintf("k/merge/%02d/%d", rand.IntN(writersAtOnce), i)
			split(ctx, t, c, key)
			borders = append(borders, key)
			continue
		}
		at := rand.IntN(len(borders))
		stood, n := merge(ctx, t, c, borders[at])
		borders = append(borders[:at], borders[at+1:]...)
		most, merges, again = max(most, stood), merges+1, again+n
	}
	planned := u.finish(t, termsByRange(t, c))
	t.Logf("%d merges, %d asked for again, among %d changes, %d writes; a range stood for %v at most; dense: %v; progress was told %d times",
		merges, again, changes, len(u.w.revs), most, planned, u.rec.told)
	if u.rec.told == 0 {
		t.Error("progress was never told")
	}
	if n := len(ranges(t, c.Nodes[0])); n != len(borders)+1 {
		t.Errorf("%d ranges, and %d borders", n, len(borders))
	}
	noOrphans(t, c)
	for _, key := range []string{"", "no/border", "\xff\xff"} {
		op, err := harness.Ops{ClientURL: c.Nodes[0].ClientURL}.BeginMerge(ctx, key, "test")
		refused(t, fmt.Sprintf("merge at %q", key), op, err)
	}
}

// TestMergeKill kills everything at random moments of merges and splits, again and again: what was acknowledged is there, every op comes to its
// end, all nodes hold the same, and no node has files of ranges that are no more.
func TestMergeKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	o := newOrdealOf(t, harness.Options{Args: []string{"--placement=off"}})
	rounds, pause := 6, 300*time.Millisecond
	if env.long {
		rounds, pause = 200, time.Second
	}
	merges := 0
	begun := o.killDuring(rounds, pause, func(ctx context.Context, ops harness.Ops, i int) error {
		rs, err := rangesAt(ctx, ops.ClientURL)
		if err != nil {
			return err
		}
		if len(rs) < 3 || i%2 == 0 && len(rs) < 30 {
			prefix := loadPrefixes()[rand.IntN(len(loadPrefixes()))]
			_, err := ops.BeginSplit(ctx, fmt.Sprintf("%s/load/%02d/%d", prefix, rand.IntN(6), i), "test")
			return err
		}
		_, err = ops.BeginMerge(ctx, string(rs[1+rand.IntN(len(rs)-1)].Start), "test")
		if err == nil {
			merges++
		}
		return err
	})
	list, err := harness.Ops{ClientURL: o.c.Nodes[0].ClientURL}.List(o.ctx)
	done := 0
	for _, op := range list {
		if op.Kind == "merge" && op.Failure == "" {
			done++
		}
	}
	t.Logf("%d ops begun, %d of them merges; of the last %d ops %d are merges that were carried out; %v", begun, merges, len(list), done, err)
	o.verify()
	noOrphans(t, o.c)
}

// TestPlannerMergesKill kills everything while the planner merges, and moves replicas so that it can: each round waits until a merge of its
// own is under way. In the end all is one range again, what was acknowledged is there, and no node has files of ranges that are no more.
func TestPlannerMergesKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	o := newOrdealWith(t, harness.Options{Nodes: 4, Ranges: 1, Args: []string{"--merge-after=2s"}}, 200*time.Millisecond)
	rounds := 4
	if env.long {
		rounds = 24
	}
	during := map[string]int{}
	for i := range rounds {
		o.cutLoosely(6)
		kind := o.awaitPlanned(i%4 == 3)
		during[kind]++
		time.Sleep(rand.N(200 * time.Millisecond))
		switch i % 3 {
		case 0, 1:
			o.killAll()
		default:
			o.kill("the oracle's node", o.oracleNode())
		}
	}
	eventually(t, limit(4*time.Minute), "all is one range again", func() error {
		if n := len(ranges(t, o.c.Nodes[0])); n != 1 {
			return fmt.Errorf("%d ranges", n)
		}
		_, err := harness.Ops{ClientURL: o.c.Nodes[0].ClientURL}.AllOver(o.ctx)
		return err
	})
	t.Logf("killed during %v", during)
	o.verify()
	noOrphans(t, o.c)
}

// cutLoosely cuts until there are so many ranges, at borders that need not stay.
func (o *ordeal) cutLoosely(atLeast int) {
	o.t.Helper()
	ops := harness.Ops{ClientURL: o.c.Nodes[0].ClientURL}
	eventually(o.t, limit(2*time.Minute), "it can be cut", func() error {
		rs, err := rangesAt(o.ctx, ops.ClientURL)
		if err != nil || len(rs) >= atLeast {
			return err
		}
		prefixes := loadPrefixes()
		_, err = ops.BeginLooseSplit(o.ctx, fmt.Sprintf("%s/load/%02d", prefixes[rand.IntN(len(prefixes))], rand.IntN(6)), "test")
		if err == nil {
			err = fmt.Errorf("%d ranges", len(rs))
		}
		return err
	})
}

// awaitPlanned waits for an op that the planner has begun, and tells its rule: a merge, or where moves do, too, one of those that
// bring two ranges together.
func (o *ordeal) awaitPlanned(moves bool) (rule string) {
	o.t.Helper()
	ops := harness.Ops{ClientURL: o.c.Nodes[0].ClientURL}
	deadline := time.Now().Add(limit(2 * time.Minute))
	for time.Now().Before(deadline) {
		list, err := ops.List(o.ctx)
		for _, op := range list {
			rule, _, _ := strings.Cut(strings.TrimPrefix(op.Reason, "by "), ":")
			if err == nil && !op.Over() && (rule == "merge" || moves && rule == "align") {
				return rule
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	o.t.Fatal("nothing was merged")
	return ""
}
