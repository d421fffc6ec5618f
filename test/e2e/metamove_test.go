package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// metaID is the meta group where ranges are named.
const metaID = 1

// metaAt is where the meta group is, as a node has heard.
func metaAt(ctx context.Context, clientURL string) (r rangeInfo, err error) {
	code, body, err := httpGet(ctx, clientURL+"/pontoon/v1/meta")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d %s", code, body)
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &r)
	}
	return r, err
}

// metaNow is the same, once all nodes agree and have heard of a generation: each hears of a change with the next answer of the oracle.
func metaNow(t *testing.T, c *harness.Cluster, generation uint64) (r rangeInfo) {
	t.Helper()
	eventually(t, limit(20*time.Second), "the nodes agree on where the meta group is", func() error {
		for i, n := range c.Nodes {
			at, err := metaAt(t.Context(), n.ClientURL)
			if err != nil {
				return err
			}
			if i == 0 {
				r = at
			}
			if at.Generation < generation {
				return fmt.Errorf("%s has heard of generation %d, and not of %d", n.Name, at.Generation, generation)
			}
			if fmt.Sprint(at.Replicas) != fmt.Sprint(r.Replicas) || at.Leader == 0 || at.Leader != r.Leader {
				return fmt.Errorf("%s says %+v, and %s %+v", n.Name, at, c.Nodes[0].Name, r)
			}
		}
		return nil
	})
	return r
}

// moveMeta has a replica of the meta group moved, by way of a node.
func moveMeta(ctx context.Context, t *testing.T, via *harness.Node, from, to string) {
	t.Helper()
	ops := harness.Ops{ClientURL: via.ClientURL}
	carriedOut(ctx, t, ops, beginMove(ctx, t, ops, rangeInfo{ID: metaID}, from, to))
}

// metaFiles: each node has the meta group's state if it has a replica of it, and no other.
func metaFiles(t *testing.T, c *harness.Cluster) {
	t.Helper()
	eventually(t, limit(20*time.Second), "the state of the meta group is where its replicas are", func() error {
		r := metaNow(t, c, 0)
		for _, n := range c.Nodes {
			_, err := os.Stat(filepath.Join(n.DataDir, "meta"))
			has := !errors.Is(err, os.ErrNotExist)
			if want := slices.ContainsFunc(r.Replicas, func(on replicaInfo) bool { return on.Name == n.Name }); has != want {
				return fmt.Errorf("%s has it: %v; the replicas are %+v", n.Name, has, r.Replicas)
			}
		}
		return nil
	})
}

// TestMetaMove moves the meta group's replicas round and round under 64 writers, its leader's too, while one watcher watches everything: no client sees an
// error, no revision is left out or given twice, and what has moved away leaves nothing.
func TestMetaMove(t *testing.T) {
	u := newUnderLoad(t, onFour(), 6*time.Minute)
	c, ctx := u.c, u.ctx
	moves := 60
	if testing.Short() {
		moves = 8
	}
	u.write(t, "k/meta")
	began, handed, generation := time.Now(), 0, uint64(0)
	for i := range moves {
		r := metaNow(t, c, generation)
		generation = r.Generation + 3 // which is what a move takes
		_, from, to := aMove(c, []rangeInfo{r})
		if i%2 == 0 {
			from = nameOf(r) // the leader's
		}
		if from == nameOf(r) {
			handed++
		}
		moveMeta(ctx, t, c.Nodes[i%4], from, to)
	}
	took := time.Since(began)
	u.before[0] += uint64(handed)
	planned := u.finish(t, termsByRange(t, c))
	t.Logf("%d moves, %d of leaders, in %v, %d writes; dense: %v", moves, handed, took, len(u.w.revs), planned)
	metaFiles(t, c)
	r := metaNow(t, c, generation)
	_, from, to := aMove(c, []rangeInfo{r})
	for _, m := range [][2]string{{to, from}, {from, from}, {to, to}, {from, "n9"}, {"", ""}, {to, ""}} {
		op, err := harness.Ops{ClientURL: c.Nodes[0].ClientURL}.BeginMove(ctx, metaID, m[0], m[1], "test")
		refused(t, fmt.Sprintf("move %v", m), op, err)
	}
}

// TestMetaMoveAway: after all of the meta group's first replicas have moved away a cluster is killed and starts again: every node finds
// the group. One that was down meanwhile learns that its replica is none any more.
func TestMetaMoveAway(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, onFour())
	ctx := testContext(t, 4*time.Minute)
	cl := newClient(t, c)
	put := func(value string) {
		t.Helper()
		if _, err := cl.Put(ctx, "k", value); err != nil {
			t.Fatal(err)
		}
	}
	put("1")
	r := metaNow(t, c, 0)
	first := slices.Clone(r.Replicas)
	var there string
	for _, n := range c.Nodes {
		if !slices.ContainsFunc(first, func(on replicaInfo) bool { return on.Name == n.Name }) {
			there = n.Name
		}
	}
	away := c.Nodes[slices.IndexFunc(c.Nodes, func(n *harness.Node) bool { return n.Name == first[0].Name })]
	others := slices.DeleteFunc(slices.Clone(c.Nodes), func(n *harness.Node) bool { return n == away })
	if err := away.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(20*time.Second), "the others have a leader", func() error {
		_, err := harness.Ops{ClientURL: others[0].ClientURL}.AllOver(ctx)
		return err
	})
	moveMeta(ctx, t, others[0], first[0].Name, there)
	put("2")
	if err := away.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	metaFiles(t, c)
	for _, on := range first[1:] {
		moveMeta(ctx, t, away, on.Name, "")
	}
	metaFiles(t, c)
	if r := metaNow(t, c, r.Generation+7); len(r.Replicas) != 1 || r.Replicas[0].Name != there {
		t.Fatalf("it is on %+v", r.Replicas)
	}
	put("3")
	for range 2 {
		if err := c.KillAll(); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.Nodes {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		put("4")
		metaFiles(t, c)
	}
	for _, on := range first[:2] {
		moveMeta(ctx, t, away, "", on.Name)
	}
	put("5")
	metaFiles(t, c)
	resp, err := cl.Get(ctx, "k")
	if err != nil || string(resp.Kvs[0].Value) != "5" || resp.Kvs[0].Version != 6 {
		t.Errorf("%v, %v", resp, err)
	}
}

// TestMetaMoveKill kills everything at random moments of moves of the meta group and of ranges, again and again: what was acknowledged is
// there, no revision is given twice, every op comes to its end, and no node has files of what it has given up.
func TestMetaMoveKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	o := newOrdealOf(t, onFour())
	rounds, pause := 6, 300*time.Millisecond
	if env.long {
		rounds, pause = 150, time.Second
	}
	group := 0
	begun := o.killDuring(rounds, pause, func(ctx context.Context, ops harness.Ops, i int) error {
		r, err := metaAt(ctx, ops.ClientURL)
		if err != nil {
			return err
		}
		if i%3 == 0 {
			rs, err := rangesAt(ctx, ops.ClientURL)
			if err != nil {
				return err
			}
			r = rs[rand.IntN(len(rs))]
		}
		_, from, to := aMove(o.c, []rangeInfo{r})
		_, err = ops.BeginMove(ctx, r.ID, from, to, "test")
		if err == nil && r.ID == metaID {
			group++
		}
		return err
	})
	t.Logf("%d ops begun, %d of them of the meta group", begun, group)
	o.verify()
	noOrphans(t, o.c)
	metaFiles(t, o.c)
}

// TestMetaFollowsTheMembers: with two members more the meta group gets two voters more, one after the other, and with one less it is back at three, under
// writers that see no error and no revision twice.
func TestMetaFollowsTheMembers(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Ranges: 4, Args: []string{"--dead-after=1h"}})
	first := &harness.Cluster{Kind: c.Kind, Dir: c.Dir, Nodes: slices.Clone(c.Nodes)}
	ctl := memberCtl(t, c)
	w := startIdleWriters(ctl.ctx, t, first, "k/meta", 20*time.Millisecond)
	var id string
	for _, name := range []string{"n4", "n5"} {
		n, err := c.AddNode(name)
		if err != nil {
			t.Fatal(err)
		}
		var out string
		id, out = ctl.memberAdd(name, "--peer-urls="+n.PeerURL)
		n.Joins(initialCluster(t, out))
		startReady(t, n)
	}
	voters := func(want int) {
		t.Helper()
		eventually(t, limit(90*time.Second), fmt.Sprintf("the meta group has %d voters", want), func() error {
			at, err := metaAt(ctl.ctx, c.Nodes[0].ClientURL)
			if err == nil && len(at.Replicas) != want {
				err = fmt.Errorf("%+v", at.Replicas)
			}
			return err
		})
	}
	began := time.Now()
	voters(5)
	t.Logf("five voters after %v", time.Since(began))
	eventually(t, limit(30*time.Second), "a member can be removed", func() error {
		_, err := ctl.e.Run(ctl.ctx, "", "member", "remove", id)
		return err
	})
	voters(3)
	w.finish(ctl.ctx, t, newClient(t, first), false)
}
