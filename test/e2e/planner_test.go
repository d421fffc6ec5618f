package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// holds counts the replicas and the leads of each node, by name.
func holds(rs []rangeInfo) (replicas, leads map[string]int) {
	replicas, leads = map[string]int{}, map[string]int{}
	for _, r := range rs {
		for _, on := range r.Replicas {
			replicas[on.Name]++
		}
		leads[nameOf(r)]++
	}
	return replicas, leads
}

// but is a cluster of all nodes but one, to talk to.
func but(c *harness.Cluster, i int) *harness.Cluster {
	rest := &harness.Cluster{Kind: c.Kind, Dir: c.Dir}
	rest.Nodes = append(append(rest.Nodes, c.Nodes[:i]...), c.Nodes[i+1:]...)
	return rest
}

// planOf is what a node tells of the plan.
func planOf(ctx context.Context, t *testing.T, n *harness.Node, query string) (p struct {
	Mode, Acts string
	Ops        []struct{ Kind, Rule, Why, Blocked, Text string }
	Nodes      []struct{ Name, State, Leaves string }
}) {
	t.Helper()
	code, body, err := httpGet(ctx, n.ClientURL+"/pontoon/v1/plan"+query)
	if err != nil || code != http.StatusOK {
		t.Fatalf("%d %s %v", code, body, err)
	}
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPlannerReplaces: the replicas of a node that has stopped for good are replaced, under writers that see no error, and each
// op says why.
func TestPlannerReplaces(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Nodes: 4, Ranges: 8, Args: []string{"--dead-after=3s"}})
	ctx := testContext(t, 4*time.Minute)
	gone := 3
	rest := but(c, gone)
	eventually(t, limit(60*time.Second), "nothing is left to be planned", func() error { // else replicas leave the node before it dies
		if p := planOf(ctx, t, rest.Nodes[0], ""); len(p.Ops) > 0 {
			return fmt.Errorf("%+v", p.Ops)
		}
		_, err := harness.Ops{ClientURL: rest.Nodes[0].ClientURL}.AllOver(ctx)
		return err
	})
	replicas, _ := holds(ranges(t, rest.Nodes[0]))
	name := c.Nodes[gone].Name
	if replicas[name] == 0 {
		t.Fatalf("%s holds nothing: %v", name, replicas)
	}
	w := startWriters(ctx, t, rest, "k/replace")
	if _, _, err := c.Nodes[gone].Stop(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, limit(90*time.Second), "its replicas are on other nodes", func() error {
		if replicas, _ := holds(ranges(t, rest.Nodes[0])); replicas[name] != 0 {
			return fmt.Errorf("%v", replicas)
		}
		_, err := harness.Ops{ClientURL: rest.Nodes[1].ClientURL}.AllOver(ctx)
		return err
	})
	t.Logf("%d replicas replaced in %v", replicas[name], time.Since(began))
	ops, err := harness.Ops{ClientURL: rest.Nodes[1].ClientURL}.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	replaced := 0
	for _, op := range ops {
		if strings.HasPrefix(op.Reason, "by replace: node ") && op.Kind == "move" && op.Failure == "" {
			replaced++
		}
	}
	if replaced < replicas[name] {
		t.Errorf("%+v", ops)
	}
	w.finish(ctx, t, newClient(t, rest), false)
	for _, r := range ranges(t, rest.Nodes[0]) {
		if len(r.Replicas) != 3 {
			t.Errorf("%+v", r)
		}
	}
	p := planOf(ctx, t, rest.Nodes[0], "")
	dead := 0
	for _, n := range p.Nodes {
		if n.State == "dead" && n.Name == name {
			dead++
		}
	}
	if p.Mode != "on" || p.Acts != "on" || len(p.Nodes) != 4 || dead != 1 {
		t.Errorf("%+v", p)
	}
}

// TestPlannerEvens: of ranges that were all cut from one, and lie on three of four nodes, each node comes to hold and to lead its share,
// under writers that see no error.
func TestPlannerEvens(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Nodes: 4, Ranges: 1})
	ctx := testContext(t, 4*time.Minute)
	w := startWriters(ctx, t, c, "k/even")
	ops := harness.Ops{ClientURL: c.Nodes[0].ClientURL}
	for i := range 11 {
		op, err := ops.BeginSplit(ctx, fmt.Sprintf("k/even/%02d", 5*(i+1)), "test")
		if err != nil {
			i-- // it may be being moved
			eventually(t, limit(30*time.Second), "it can be cut", func() error {
				op, err = ops.BeginSplit(ctx, fmt.Sprintf("k/even/%02d", 5*(i+2)), "test")
				return err
			})
		}
		carriedOut(ctx, t, ops, op)
	}
	began := time.Now()
	eventually(t, limit(2*time.Minute), "every node has its share", func() error {
		replicas, leads := holds(ranges(t, c.Nodes[0]))
		for _, n := range c.Nodes {
			if replicas[n.Name] < 8 || replicas[n.Name] > 10 || leads[n.Name] < 2 || leads[n.Name] > 4 {
				return fmt.Errorf("replicas %v, leads %v", replicas, leads)
			}
		}
		_, err := ops.AllOver(ctx)
		return err
	})
	t.Logf("even after %v", time.Since(began))
	w.finish(ctx, t, newClient(t, c), false)
	noOrphans(t, c)
}

// TestPlannerMerges: ranges that are small and idle become one by themselves, but for a border that stays, under writers that see no error and
// revisions without a gap; then that border is taken back, and goes as well.
func TestPlannerMerges(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Nodes: 4, Ranges: 1, Args: []string{"--merge-after=5s"}})
	ctx := testContext(t, 8*time.Minute)
	w := startIdleWriters(ctx, t, c, "k/join", time.Second)
	ops := harness.Ops{ClientURL: c.Nodes[0].ClientURL}
	cut := func(begin func(context.Context, string, string) (harness.Op, error), key string) {
		eventually(t, limit(30*time.Second), "it can be cut", func() error { // it may be being moved
			op, err := begin(ctx, key, "test")
			if err == nil {
				carriedOut(ctx, t, ops, op)
			}
			return err
		})
	}
	for i := range 5 {
		cut(ops.BeginLooseSplit, fmt.Sprintf("k/join/%02d", 10*(i+1)))
	}
	cut(ops.BeginSplit, "k/join/35")
	borders := func(want ...string) func() error {
		return func() error {
			var got []string
			for _, r := range ranges(t, c.Nodes[0]) {
				got = append(got, string(r.Start))
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("the ranges begin at %q, want %q", got, want)
			}
			_, err := ops.AllOver(ctx)
			return err
		}
	}
	began := time.Now()
	eventually(t, limit(4*time.Minute), "they are merged", borders("", "k/join/35"))
	t.Logf("merged after %v", time.Since(began))
	if err := ops.Unstick(ctx, "k/join/35"); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(2*time.Minute), "all is one range again", borders(""))
	list, err := ops.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	merges, moves, aligned, longest := 0, 0, 0, time.Duration(0)
	for _, op := range list {
		switch {
		case op.Kind == "merge" && op.Failure != "":
			t.Logf("given up: %s", op.Failure)
		case strings.HasPrefix(op.Reason, "by merge: "):
			merges++
			longest = max(longest, op.Stood())
		case strings.HasPrefix(op.Reason, "by align: "):
			aligned++
		case op.Kind == "move":
			moves++
		}
	}
	if merges != 6 {
		t.Errorf("%d merges: %+v", merges, list)
	}
	w.finish(ctx, t, newClient(t, c), false)
	t.Logf("%d merges after %d moves to lie together and %d others, %d writes; a range stood for %v at most", merges, aligned, moves, len(w.revs), longest)
	noOrphans(t, c)
}

// TestPlannerEmpties: a member that is removed while it lives gives all away, leads first, under writers that see no error; also where nothing
// is done that nobody has asked for.
func TestPlannerEmpties(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Nodes: 4, Ranges: 8, Args: byHand().Args})
	ctx := testContext(t, 4*time.Minute)
	rest := but(c, 3)
	cl := newClient(t, rest)
	id := uint64(0)
	for member, n := range memberIDs(ctx, t, cl, c) {
		if n == c.Nodes[3] {
			id = member
		}
	}
	name := c.Nodes[3].Name
	before, leads := holds(ranges(t, rest.Nodes[0]))
	if before[name] == 0 || leads[name] == 0 {
		t.Fatalf("%s holds %v and leads %v", name, before, leads)
	}
	w := startWriters(ctx, t, rest, "k/empty")
	eventually(t, limit(30*time.Second), "a member is removed", func() error { // the others are to have been within reach for a while
		_, err := cl.MemberRemove(ctx, id)
		return err
	})
	began := time.Now()
	eventually(t, limit(90*time.Second), "it holds nothing", func() error {
		for _, r := range ranges(t, rest.Nodes[0]) {
			for _, on := range r.Replicas {
				if on.Node == id {
					return fmt.Errorf("r%d is on it", r.ID)
				}
			}
		}
		_, err := harness.Ops{ClientURL: rest.Nodes[1].ClientURL}.AllOver(ctx)
		return err
	})
	t.Logf("%d replicas, %d leads given away in %v", before[name], leads[name], time.Since(began))
	w.finish(ctx, t, newClient(t, rest), false)
}

// TestPlannerHot: a range that is written to more than one leader should take is cut where its load lies, and its parts come to be led by
// several nodes. The planner looks at half a minute of load first.
func TestPlannerHot(t *testing.T) {
	pontoonOnly(t)
	if !env.long {
		t.Skip("E2E_LONG")
	}
	c := newCluster(t, harness.Options{Ranges: 1})
	ctx := testContext(t, 8*time.Minute)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 256 {
		cl := newClient(t, c, c.Nodes[i%3].ClientURL)
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := cl.Put(ctx, fmt.Sprintf("hot/%03d/%d", (i*37+n*11)%1000, i), "v"); err != nil {
					t.Errorf("a client's error: %v", err)
					return
				}
			}
		})
	}
	began := time.Now()
	eventually(t, limit(6*time.Minute), "it is cut for its load, and several nodes lead", func() error {
		ops, err := harness.Ops{ClientURL: c.Nodes[0].ClientURL}.List(ctx)
		if err != nil {
			return err
		}
		cuts := 0
		for _, op := range ops {
			if strings.HasPrefix(op.Reason, "by load: ") && op.Outcome == "done" {
				cuts++
			}
		}
		_, leads := holds(ranges(t, c.Nodes[0]))
		if cuts == 0 || len(leads) < 2 {
			return fmt.Errorf("%d cuts, leads %v; %+v", cuts, leads, planOf(ctx, t, c.Nodes[0], "").Ops)
		}
		return nil
	})
	t.Logf("cut after %v", time.Since(began))
	close(stop)
	wg.Wait()
	for _, r := range ranges(t, c.Nodes[0]) {
		t.Logf("r%d from %q on, led by %s", r.ID, r.Start, nameOf(r))
	}
}
