package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// onFour is a cluster in which each range is on three of four nodes, and which moves nothing by itself.
func onFour() harness.Options { return harness.Options{Nodes: 4, Args: byHand().Args} }

// aMove picks a range, a node that has it and one that has not.
func aMove(c *harness.Cluster, rs []rangeInfo) (r rangeInfo, from, to string) {
	r = rs[rand.IntN(len(rs))]
	from = r.Replicas[rand.IntN(len(r.Replicas))].Name
	var free []string
	for _, n := range c.Nodes {
		if !slices.ContainsFunc(r.Replicas, func(on replicaInfo) bool { return on.Name == n.Name }) {
			free = append(free, n.Name)
		}
	}
	if len(free) == 0 { // it is being moved
		return r, from, from
	}
	return r, from, free[rand.IntN(len(free))]
}

// TestMove moves replicas round and round under 64 writers, those of leaders too, while one watcher watches everything: no client sees an
// error, no revision is left out, no write is lost, and no node keeps what it has given up.
func TestMove(t *testing.T) {
	u := newUnderLoad(t, onFour(), 6*time.Minute)
	c, ctx := u.c, u.ctx
	moves := 200
	if testing.Short() {
		moves = 12
	}
	u.write(t, "k/move")
	began := time.Now()
	handed := 0
	for i := range moves {
		r, from, to := aMove(c, ranges(t, c.Nodes[i%4]))
		if nameOf(r) == from {
			u.before[r.ID]++ // the leader hands over
			handed++
		}
		ops := harness.Ops{ClientURL: c.Nodes[i%4].ClientURL}
		carriedOut(ctx, t, ops, beginMove(ctx, t, ops, r, from, to))
	}
	took := time.Since(began)
	planned := u.finish(t, termsByRange(t, c))
	t.Logf("%d moves, %d of leaders, in %v, %d writes; dense: %v", moves, handed, took, len(u.w.revs), planned)
	noOrphans(t, c)
	moveErrors(ctx, t, c)
}

// beginMove begins a move as soon as its target is within reach: on a busy machine a node may not have been heard of for a moment.
func beginMove(ctx context.Context, t *testing.T, ops harness.Ops, r rangeInfo, from, to string) (op harness.Op) {
	t.Helper()
	eventually(t, limit(20*time.Second), fmt.Sprintf("r%d from %s to %s", r.ID, from, to), func() (err error) {
		if op, err = ops.BeginMove(ctx, r.ID, from, to, "test"); err != nil && !strings.Contains(err.Error(), "out of reach") {
			t.Fatalf("r%d from %s to %s: %v", r.ID, from, to, err)
		}
		return err
	})
	return op
}

// noOrphans: each node has the files of its replicas, and of no other.
func noOrphans(t *testing.T, c *harness.Cluster) {
	t.Helper()
	eventually(t, limit(20*time.Second), "what was given up is deleted", func() error {
		want := map[string]bool{}
		for _, r := range ranges(t, c.Nodes[0]) {
			for _, on := range r.Replicas {
				want[fmt.Sprintf("%s/r%d", on.Name, r.ID)] = true
			}
		}
		for _, n := range c.Nodes {
			ents, err := os.ReadDir(filepath.Join(n.DataDir, "ranges"))
			if err != nil {
				return err
			}
			for _, e := range ents {
				name := n.Name + "/" + e.Name()
				if !want[name] {
					return fmt.Errorf("%s is still there", name)
				}
				delete(want, name)
			}
		}
		if len(want) > 0 {
			return fmt.Errorf("missing: %v", want)
		}
		return nil
	})
}

// moveErrors: who asks for what cannot be is told why, and nothing changes.
func moveErrors(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	r, from, to := aMove(c, ranges(t, c.Nodes[0]))
	for _, m := range []struct {
		id       uint64
		from, to string
	}{{r.ID, to, from}, {r.ID, from, from}, {r.ID, to, to}, {r.ID, from, "n9"}, {r.ID, "", ""}, {999, from, to}, {r.ID, to, ""}} {
		op, err := harness.Ops{ClientURL: c.Nodes[0].ClientURL}.BeginMove(ctx, m.id, m.from, m.to, "test")
		refused(t, fmt.Sprintf("move %+v", m), op, err)
	}
	if _, err := (harness.Ops{ClientURL: c.Nodes[0].ClientURL}).AllOver(ctx); err != nil {
		t.Error(err)
	}
}

// TestMoveKill kills everything at random moments of moves and splits, again and again: what was acknowledged is there, every op comes to
// its end, all nodes hold the same, and no node has files of what it has given up.
func TestMoveKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	o := newOrdealOf(t, onFour())
	rounds, pause := 6, 300*time.Millisecond
	if env.long {
		rounds, pause = 200, time.Second
	}
	splits := 0
	begun := o.killDuring(rounds, pause, func(ctx context.Context, ops harness.Ops, i int) error {
		rs, err := rangesAt(ctx, ops.ClientURL)
		if err != nil {
			return err
		}
		if i%8 == 0 && len(rs) < 60 {
			prefix := loadPrefixes()[rand.IntN(len(loadPrefixes()))]
			_, err := ops.BeginSplit(ctx, fmt.Sprintf("%s/load/%02d/%d", prefix, rand.IntN(6), i), "test")
			if err == nil {
				splits++
			}
			return err
		}
		r, from, to := aMove(o.c, rs)
		_, err = ops.BeginMove(ctx, r.ID, from, to, "test")
		return err
	})
	t.Logf("%d ops begun, %d of them splits", begun, splits)
	o.verify()
	noOrphans(t, o.c)
}
