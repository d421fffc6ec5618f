package plansim

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"pontoon/placement"
	"pontoon/shard"
)

// nature is where a range's load lies.
type nature uint8

const (
	spread nature = iota // evenly over its keys
	oneKey               // at its first key
	atEnd                // behind its last key
)

// world is the cluster as it is; view is what the planner is told of it.
type world struct {
	cfg   Config
	rnd   *rand.Rand
	now   placement.Seconds
	view  placement.Snapshot
	nodes []machine
	truth truth
	ops   []running
	next  uint64 // op
	free  shard.RangeID
	pos   []int32 // by range id: its position, or -1
	loads loads
	check *checker
	stats stats
	cuts  []running // that take effect together
	index map[uint64]int
}

// machine is what is true of a node beside what the planner is told.
type machine struct {
	held     float64           // bytes of replicas
	foreign  float64           // bytes of something else
	cpu      float64           // ns a second
	back     placement.Seconds // when it comes back or is clean again; Forever: never
	isolated bool              // silent
	emptying bool              // drained; used again once it is empty
	gone     bool              // removed and empty
}

// truth has, by position, what the planner is not told, or told later.
type truth struct {
	rate   []float32 // ns a second at the leader
	nature []nature
	peak   [2][]float32        // of the present and the last five minutes
	since  []placement.Seconds // when its leader began to watch the load
}

// stats is what a run has seen.
type stats struct {
	ops       map[placement.Rule]int
	rounds    int
	lastOp    placement.Seconds
	recent    []placement.Seconds // ops that began in the last hour
	blocked   int
	giveUps   int
	failed    int
	longest   placement.Seconds // for which a replica was missing or too near to another
	events    int
	converged placement.Seconds
}

func newWorld(c Config) *world {
	w := &world{cfg: c, rnd: rand.New(rand.NewPCG(c.Seed, 0x706c616e)), now: 10_000, stats: stats{ops: make(map[placement.Rule]int)}, index: make(map[uint64]int)}
	w.view.ReplicationFactor = c.ReplicationFactor
	for range c.Nodes {
		w.join()
	}
	w.fill()
	w.loads.hot = make(map[shard.RangeID]*windows)
	w.check = newChecker(w)
	meter{w}.report(true)
	return w
}

// join brings a new node, and returns its position.
func (w *world) join() int16 {
	n := len(w.view.Nodes)
	w.view.Nodes = append(w.view.Nodes, placement.Node{
		ID: shard.NodeID(n + 1), Locality: fmt.Sprintf("region=r,zone=z%d", n%max(w.cfg.Zones, 1)), DiskFree: w.cfg.DiskBytes, Cores: float32(w.cfg.Cores),
	})
	w.nodes = append(w.nodes, machine{})
	return int16(n)
}

// joinAt brings a new node into the zone of another one that goes.
func (w *world) joinAt(n int16) {
	to := w.join()
	w.view.Nodes[to].Locality = w.view.Nodes[n].Locality
}

// fill lays out all ranges: at random, but for failure domains, over the nodes that have something at first.
func (w *world) fill() {
	c, r := w.cfg, &w.view.Ranges
	n := c.Ranges
	r.Width = c.ReplicationFactor
	w.resize(n)
	used := max(int(float64(c.Nodes)*c.Crowded), c.ReplicationFactor)
	ranks := w.rnd.Perm(n)
	sum := 0.0
	for i := range n {
		sum += math.Pow(float64(i+1), -c.Load.Exponent)
	}
	var row []int16
	for i := range n {
		r.IDs[i], r.Generations[i] = shard.FirstRangeID+shard.RangeID(i), 1
		if i > 0 {
			r.Keys = binary.BigEndian.AppendUint64(r.Keys, math.MaxUint64/uint64(n)*uint64(i))
		}
		r.KeyEnds[i] = uint32(len(r.Keys))
		row = w.place(row[:0], used)
		copy(r.Row(i), row)
		r.Leaders[i] = int8(w.rnd.IntN(len(row)))
		r.Bytes[i] = float32(c.MeanBytes * math.Exp(w.rnd.NormFloat64()/3-1.0/18))
		w.truth.rate[i] = float32(c.Load.Cores * 1e9 * math.Pow(float64(ranks[i]+1), -c.Load.Exponent) / sum)
		if w.rnd.Float64() < c.Load.HotKeys || c.Load.HotKeys > 0 && ranks[i] == 0 {
			w.truth.nature[i] = oneKey
		}
		for _, m := range row {
			w.nodes[m].held += float64(r.Bytes[i])
		}
	}
	if c.Load.Tail {
		w.truth.nature[n-1], w.truth.rate[n-1] = atEnd, 300e6
	}
	w.free = shard.FirstRangeID + shard.RangeID(n)
	w.locate()
}

// place draws nodes for a range out of the first used ones, of different zones as far as there are.
func (w *world) place(row []int16, used int) []int16 {
	zones := max(w.cfg.Zones, 1)
	for tries := 0; len(row) < w.cfg.ReplicationFactor; tries++ {
		n := int16(w.rnd.IntN(used))
		ok := true
		for _, m := range row {
			ok = ok && m != n && (tries > 100 || int(m)%zones != int(n)%zones)
		}
		if ok {
			row = append(row, n)
		}
	}
	return row
}

// resize makes all columns n long.
func (w *world) resize(n int) {
	r, t := &w.view.Ranges, &w.truth
	r.IDs, r.Generations, r.KeyEnds = make([]shard.RangeID, n), make([]shard.Generation, n), make([]uint32, n)
	r.Replicas, r.Leaders, r.Flags = make([]int16, n*r.Width), make([]int8, n), make([]placement.Flags, n)
	r.Bytes, r.CPU = make([]float32, n), make([]float32, n)
	r.Peak = placement.Peaks{CPU: make([]float32, n), Writes: make([]float32, n)}
	r.At = placement.History{Moved: make([]placement.Seconds, n), Led: make([]placement.Seconds, n), Cut: make([]placement.Seconds, n), Sticky: make([]placement.Seconds, n)}
	*t = truth{rate: make([]float32, n), nature: make([]nature, n), peak: [2][]float32{make([]float32, n), make([]float32, n)}, since: make([]placement.Seconds, n)}
}

// locate works out where each range is.
func (w *world) locate() {
	if len(w.pos) < int(w.free) {
		w.pos = append(w.pos, make([]int32, int(w.free)-len(w.pos)+1024)...)
	}
	for i := range w.pos {
		w.pos[i] = -1
	}
	for i, id := range w.view.Ranges.IDs {
		w.pos[id] = int32(i)
	}
}

// up tells whether a node answers, in truth.
func (w *world) up(n int16) bool { return !w.nodes[n].isolated && !w.nodes[n].gone }

// quorate tells whether a range can log anything.
func (w *world) quorate(i int32) bool {
	all, up := 0, 0
	for _, n := range w.view.Ranges.Row(int(i)) {
		if n >= 0 {
			all++
			if w.up(n) {
				up++
			}
		}
	}
	return up > all/2
}
