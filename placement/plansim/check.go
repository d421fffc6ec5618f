package plansim

import (
	"fmt"

	"pontoon/placement"
	"pontoon/shard"
)

// checker holds ops and the state of the world against rules, without asking the planner.
type checker struct {
	w       *world
	moved   map[shard.RangeID]placement.Seconds // for any reason
	led     map[shard.RangeID]placement.Seconds
	cut     map[shard.RangeID]placement.Seconds
	merged  map[shard.RangeID]placement.Seconds
	backs   map[shard.RangeID]placement.Seconds // until when a range is to be left alone
	missing []placement.Seconds                 // by range id: since when a replica is on no living node
	near    []placement.Seconds                 // by range id: since when two replicas are in one zone
	left    map[place]placement.Seconds         // when a replica was taken away for balance
	undone  int                                 // moves for balance that brought one back within an hour
}

// place is a range on a node.
type place struct {
	id shard.RangeID
	on shard.NodeID
}

func newChecker(w *world) *checker {
	type times = map[shard.RangeID]placement.Seconds
	return &checker{w: w, moved: times{}, led: times{}, cut: times{}, merged: times{}, backs: times{}, left: make(map[place]placement.Seconds)}
}

// plan holds a plan against the rules for ops; those under way are in the world.
func (c *checker) plan(ops []placement.Op) error {
	taken := make(map[shard.RangeID]bool)
	busy, byes := make([]int, len(c.w.nodes)), make([]int, len(c.w.nodes))
	all := 0
	enter := func(op *placement.Op) error {
		all++
		for _, id := range []shard.RangeID{op.Range, op.Right} {
			if id != 0 && taken[id] {
				return fmt.Errorf("%v takes part in another op", id)
			}
			if id != 0 {
				taken[id] = true
			}
		}
		of := busy
		if op.Rule == placement.RuleDrainLead {
			of = byes
		}
		for _, n := range c.workers(op) {
			of[n]++
		}
		return nil
	}
	for k := range c.w.ops {
		if err := enter(&c.w.ops[k].op); err != nil {
			return err
		}
	}
	pace := &c.w.cfg.Limits.Pace
	for k := range ops {
		op := &ops[k]
		if op.Why == "" {
			return fmt.Errorf("%v: no reason", op)
		}
		if !op.Due() || op.Kind == placement.KindGiveUp {
			continue
		}
		err := c.op(op)
		if err == nil && op.Kind != placement.KindBackOff {
			err = enter(op)
		}
		if err == nil && all > pace.Ops {
			err = fmt.Errorf("%d ops at a time", all)
		}
		for _, n := range c.workers(op) {
			if err == nil && (busy[n] > pace.OpsPerNode || byes[n] > pace.Farewells) && c.w.up(n) {
				err = fmt.Errorf("node %d takes part in %d ops and %d transfers for a drain", n+1, busy[n], byes[n])
			}
		}
		if err != nil {
			return fmt.Errorf("%v: %w", op, err)
		}
		c.remember(op)
	}
	return nil
}

// workers are the nodes that an op keeps busy.
func (c *checker) workers(op *placement.Op) []int16 {
	i := c.w.pos[op.Range]
	if i < 0 {
		return nil
	}
	var out []int16
	switch op.Kind {
	case placement.KindMove, placement.KindTransfer:
		for _, n := range []shard.NodeID{op.From, op.To} {
			if n != 0 {
				out = append(out, at(n))
			}
		}
	case placement.KindSplit, placement.KindMerge:
		for _, n := range c.w.view.Ranges.Row(int(i)) {
			if n >= 0 {
				out = append(out, n)
			}
		}
	}
	return out
}

// op holds one op that is to begin against the rules.
func (c *checker) op(op *placement.Op) error {
	w := c.w
	i := w.pos[op.Range]
	if i < 0 || op.Generation != w.view.Ranges.Generations[i] {
		return fmt.Errorf("a range that is not there, or another generation")
	}
	if op.Kind != placement.KindBackOff && op.Kind != placement.KindTransfer && !w.quorate(i) && !c.unseen(i) {
		return fmt.Errorf("the range has no majority")
	}
	switch op.Kind {
	case placement.KindMove:
		return c.move(op, i)
	case placement.KindTransfer:
		return c.transfer(op, i)
	case placement.KindSplit, placement.KindBackOff:
		return c.splits(op, i)
	case placement.KindMerge:
		return c.merges(op, i)
	}
	return fmt.Errorf("an op of no kind")
}

// unseen tells whether a node of a range has become silent without anybody having noticed: nobody is to blame then.
func (c *checker) unseen(i int32) bool {
	for _, n := range c.w.view.Ranges.Row(int(i)) {
		if n >= 0 && !c.w.up(n) && c.w.view.Nodes[n].Liveness == placement.Up {
			return true
		}
	}
	return false
}

func (c *checker) move(op *placement.Op, i int32) error {
	w, l := c.w, &c.w.cfg.Limits.Move
	row := w.view.Ranges.Row(int(i))
	held := 0
	for _, n := range row {
		if n >= 0 {
			held++
		}
		if n >= 0 && op.To != 0 && n == at(op.To) {
			return fmt.Errorf("it is there already")
		}
	}
	if op.From == 0 && held >= w.cfg.ReplicationFactor || op.To == 0 && held <= w.members() && held <= w.cfg.ReplicationFactor {
		return fmt.Errorf("%d replicas are as many as there should be", held)
	}
	if op.To != 0 {
		n := at(op.To)
		v := &w.view.Nodes[n]
		if v.Liveness != placement.Up || v.Draining || v.Removed || v.Learner {
			return fmt.Errorf("its target does not serve")
		}
		if left := v.DiskFree - float64(w.view.Ranges.Bytes[i]); left < l.DiskFull*w.cfg.DiskBytes {
			return fmt.Errorf("its target has no disk for it")
		}
	}
	before, after := c.crowd(row, -1, -1), c.crowd(row, at(op.From), at(op.To))
	if (op.Rule == placement.RuleBalance || op.Rule == placement.RuleTail || op.Rule == placement.RuleDomain) && after > before ||
		op.Rule == placement.RuleDomain && after == before {
		return fmt.Errorf("replicas stand nearer to each other than before: %d, %d", before, after)
	}
	if since := w.now - c.moved[op.Range]; op.Rule == placement.RuleBalance && c.moved[op.Range] != 0 && since < l.Cooldown {
		return fmt.Errorf("it was moved %d s ago", since)
	}
	return nil
}

// members counts the nodes that count as places for replicas.
func (w *world) members() int {
	n := 0
	for _, v := range w.view.Nodes {
		if !v.Removed && !v.Learner {
			n++
		}
	}
	return n
}

// crowd counts the replicas of a row that share a zone with another one, after a move.
func (c *checker) crowd(row []int16, from, to int16) int {
	zones := make(map[string]int)
	for _, n := range append(append([]int16(nil), row...), to) {
		if n >= 0 && n != from && !c.absent(n) {
			zones[c.w.view.Nodes[n].Locality]++
		}
	}
	many := 0
	for _, k := range zones {
		many += k - 1
	}
	return many
}

// absent tells whether what a node holds counts as missing.
func (c *checker) absent(n int16) bool {
	v := &c.w.view.Nodes[n]
	return v.Draining || v.Removed || v.Liveness == placement.Dead && c.w.now-v.Since >= c.w.cfg.Limits.Pace.DeadAfter
}

// lost tells whether what a node holds is gone for good as far as anybody knows.
func (c *checker) lost(n int16) bool {
	return c.absent(n) && c.w.view.Nodes[n].Liveness == placement.Dead
}

func (c *checker) transfer(op *placement.Op, i int32) error {
	w := c.w
	v := &w.view.Nodes[at(op.To)]
	if v.Liveness != placement.Up || v.Draining || v.Removed {
		return fmt.Errorf("who is to lead does not serve")
	}
	found := false
	for _, n := range w.view.Ranges.Row(int(i)) {
		found = found || n == at(op.To)
	}
	if !found {
		return fmt.Errorf("who is to lead is no replica")
	}
	if since := w.now - c.led[op.Range]; op.Rule != placement.RuleDrainLead && c.led[op.Range] != 0 && since < w.cfg.Limits.Move.LeadCooldown {
		return fmt.Errorf("its lead was transferred %d s ago", since)
	}
	return nil
}

func (c *checker) splits(op *placement.Op, i int32) error {
	w := c.w
	r, l := &w.view.Ranges, &w.cfg.Limits.Split
	if op.Rule == placement.RuleLoad && w.now < c.backs[op.Range] {
		return fmt.Errorf("it was found to be unsplittable, and is to be left alone")
	}
	if op.Kind == placement.KindBackOff {
		if w.truth.nature[i] == spread {
			return fmt.Errorf("its load lies evenly over its keys")
		}
		return nil
	}
	if op.Rule == placement.RuleLoad && w.truth.nature[i] != spread {
		return fmt.Errorf("a cut does not part its load")
	}
	if r.Flags[i]&placement.Untrimmed != 0 && op.At == placement.CutAtMiddle {
		return fmt.Errorf("its file is not trimmed")
	}
	if at, ok := c.merged[op.Range]; ok && w.now-at < l.CutCooldown && r.Bytes[i] < l.HardBytes && op.Rule != placement.RuleHand {
		return fmt.Errorf("it came of a merge %d s ago", w.now-at)
	}
	return nil
}

func (c *checker) merges(op *placement.Op, i int32) error {
	w := c.w
	r, l := &w.view.Ranges, &w.cfg.Limits
	if int(i)+1 >= r.Len() || r.IDs[i+1] != op.Right {
		return fmt.Errorf("they are no neighbours")
	}
	if r.Len() <= l.Merge.RangesMin {
		return fmt.Errorf("more ranges were asked for")
	}
	if c.w.truth.rate[i]+c.w.truth.rate[i+1] > 1.5*l.Merge.Load*l.Split.CPU {
		return fmt.Errorf("they are busy")
	}
	if r.At.Sticky[i+1] > w.now {
		return fmt.Errorf("somebody has asked for the border between them")
	}
	for _, id := range []shard.RangeID{op.Range, op.Right} {
		for _, m := range []map[shard.RangeID]placement.Seconds{c.cut, c.merged, c.led} {
			if at, ok := m[id]; ok && w.now-at < l.Merge.Cooldown {
				return fmt.Errorf("something was done to %v %d s ago", id, w.now-at)
			}
		}
	}
	for _, n := range r.Row(int(i)) {
		same := false
		for _, m := range r.Row(int(i + 1)) {
			same = same || m == n
		}
		if !same {
			return fmt.Errorf("they lie on different nodes")
		}
	}
	return nil
}

func (c *checker) remember(op *placement.Op) {
	now := c.w.now
	switch op.Kind {
	case placement.KindMove:
		c.moved[op.Range] = now
		if op.Rule == placement.RuleBalance {
			if at, ok := c.left[place{op.Range, op.To}]; ok && now-at < 3600 {
				c.undone++
			}
			c.left[place{op.Range, op.From}] = now
		}
	case placement.KindTransfer:
		c.led[op.Range] = now
	case placement.KindSplit:
		c.cut[op.Range] = now
	case placement.KindMerge:
		c.merged[op.Range] = now
	case placement.KindBackOff:
		c.backs[op.Range] = op.Until
	}
}

// state walks all ranges for what has been wrong for too long.
func (c *checker) state() error {
	w := c.w
	r := &w.view.Ranges
	for len(c.missing) < len(w.pos) {
		c.missing, c.near = append(c.missing, 0), append(c.near, 0)
	}
	bound, wanted := placement.Seconds(w.cfg.RepairSeconds), min(w.cfg.ReplicationFactor, w.members())
	for i, id := range r.IDs {
		missing, held := false, 0
		for _, n := range r.Row(i) {
			if n >= 0 {
				held++
				missing = missing || c.lost(n)
			}
		}
		missing = missing || held < wanted
		near := c.apart(r.Row(i))
		for _, x := range []struct {
			bad   bool
			since *placement.Seconds
			what  string
		}{{missing, &c.missing[id], "has a replica missing"}, {near, &c.near[id], "has two replicas in one zone"}} {
			switch {
			case !x.bad:
				*x.since = 0
			case *x.since == 0:
				*x.since = w.now
			default:
				w.stats.longest = max(w.stats.longest, w.now-*x.since)
				if w.now-*x.since > bound {
					return fmt.Errorf("%v %s for %d s, on %v", id, x.what, w.now-*x.since, r.Row(i))
				}
			}
		}
	}
	return nil
}

// apart tells whether two replicas share a zone although there are enough zones for all.
func (c *checker) apart(row []int16) bool {
	if c.w.cfg.Zones < c.w.cfg.ReplicationFactor {
		return false
	}
	for k, n := range row {
		for _, m := range row[:k] {
			if n >= 0 && m >= 0 && c.w.view.Nodes[n].Locality == c.w.view.Nodes[m].Locality && !c.absent(n) && !c.absent(m) {
				return true
			}
		}
	}
	return false
}
