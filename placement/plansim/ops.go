package plansim

import (
	"encoding/binary"
	"math"

	"pontoon/placement"
	"pontoon/shard"
)

// running is an op under way. Positions change with cuts: ranges are known by their ids here.
type running struct {
	id     uint64
	op     placement.Op
	began  placement.Seconds
	ends   float64
	fails  bool
	giveUp bool
}

func at(n shard.NodeID) int16 { return int16(n) - 1 }

// begin starts what a plan says. An op that takes no time to begin is over in a later second.
func (w *world) begin(op placement.Op) {
	w.stats.ops[op.Rule]++
	switch op.Kind {
	case placement.KindGiveUp:
		w.stats.giveUps++
		if k, ok := w.index[op.Running]; ok {
			w.ops[k].giveUp = true
		}
		return
	case placement.KindBackOff:
		w.backOff(op)
		return
	}
	w.stats.lastOp = w.now
	w.stats.recent = append(w.stats.recent, w.now)
	w.next++
	r := running{id: w.next, op: op, began: w.now, ends: float64(w.now) + w.seconds(op), fails: w.rnd.Float64() < w.cfg.Fault.OpFails}
	w.index[r.id] = len(w.ops)
	w.ops = append(w.ops, r)
}

// seconds draws how long an op takes: measured means, with a long end.
func (w *world) seconds(op placement.Op) float64 {
	size := float64(w.view.Ranges.Bytes[w.pos[op.Range]])
	slow := math.Exp(math.Abs(w.rnd.NormFloat64()) / 2)
	switch op.Kind {
	case placement.KindTransfer:
		return 0.05 * slow
	case placement.KindMove:
		return (w.cfg.MoveSeconds + size/(32<<20)) * slow
	}
	return (0.2 + 1.4*size/(344<<20)) * slow
}

// proceed ends ops whose time is over.
func (w *world) proceed() {
	kept := w.ops[:0]
	for _, r := range w.ops {
		switch {
		case r.giveUp:
			w.fail(r.op)
			continue
		case float64(w.now) < r.ends:
		case !w.possible(&r):
			r.ends = float64(w.now) + 5
		case r.fails:
			w.stats.failed++
			w.fail(r.op)
			continue
		case r.op.Kind == placement.KindSplit || r.op.Kind == placement.KindMerge:
			w.cuts = append(w.cuts, r) // stays under way until then
		default:
			w.apply(r.op)
			continue
		}
		kept = append(kept, r)
	}
	clear(w.ops[len(kept):])
	w.ops = kept
	if len(w.cuts) > 0 && int(w.now)%w.cfg.CutEvery == 0 {
		cutter{w}.cut()
	}
	w.cuts = w.cuts[:0]
	clear(w.index)
	for k := range w.ops {
		w.index[w.ops[k].id] = k
	}
}

// fail ends an op without effect; when that was counts as when it was done.
func (w *world) fail(op placement.Op) {
	i := w.pos[op.Range]
	switch op.Kind {
	case placement.KindMove:
		w.view.Ranges.At.Moved[i] = w.now
	case placement.KindTransfer:
		w.view.Ranges.At.Led[i] = w.now
	case placement.KindSplit, placement.KindMerge:
		w.view.Ranges.At.Cut[i] = w.now
	}
}

// possible tells whether an op can end now: a majority is needed, and a node that is to get something.
func (w *world) possible(r *running) bool {
	if r.op.To != 0 && !w.up(at(r.op.To)) {
		return false
	}
	if r.op.Kind == placement.KindMerge {
		right := w.pos[r.op.Right]
		for _, n := range w.view.Ranges.Row(int(right)) {
			if n >= 0 && !w.up(n) {
				return false
			}
		}
	}
	return w.quorate(w.pos[r.op.Range])
}

// apply does what a move or a transfer does.
func (w *world) apply(op placement.Op) {
	r, i := &w.view.Ranges, int(w.pos[op.Range])
	row := r.Row(i)
	leader := int16(placement.None)
	if l := r.Leaders[i]; l >= 0 {
		leader = row[l]
	}
	was := leader
	if op.Kind == placement.KindTransfer {
		if leader == at(op.From) {
			leader = at(op.To)
		}
		r.At.Led[i] = w.now
	} else {
		w.replace(row, op, float64(r.Bytes[i]))
		r.Generations[i]++
		r.At.Moved[i] = w.now
		r.Flags[i] &^= placement.MovedToAlign
		if op.Rule == placement.RuleAlign {
			r.Flags[i] |= placement.MovedToAlign
		}
		if op.From != 0 && leader == at(op.From) {
			leader = at(op.Leader)
		}
	}
	r.Leaders[i] = placement.None
	for k, n := range row {
		if n >= 0 && n == leader {
			r.Leaders[i] = int8(k)
		}
	}
	if leader != was {
		r.Flags[i] |= placement.LoadUnknown
	}
	if op.To != 0 && leader == at(op.To) && op.Kind == placement.KindMove { // a new replica: the others had counted all along
		w.truth.since[i] = w.now
		r.Flags[i] |= placement.LoadShort
	}
	if r.Leaders[i] < 0 {
		w.elect(i)
	}
}

// replace changes a row as a move does.
func (w *world) replace(row []int16, op placement.Op, bytes float64) {
	if op.From != 0 {
		w.nodes[at(op.From)].held -= bytes
	}
	if op.To != 0 {
		w.nodes[at(op.To)].held += bytes
	}
	k := 0
	for _, n := range row {
		if n >= 0 && (op.From == 0 || n != at(op.From)) {
			row[k] = n
			k++
		}
	}
	if op.To != 0 {
		row[k] = at(op.To)
		k++
	}
	for ; k < len(row); k++ {
		row[k] = placement.None
	}
}

// elect gives a range without a leader one, if it has a majority.
func (w *world) elect(i int) {
	r := &w.view.Ranges
	row := r.Row(i)
	r.Leaders[i] = placement.None
	if !w.quorate(int32(i)) {
		return
	}
	from := w.rnd.IntN(len(row))
	for k := range row {
		k = (k + from) % len(row)
		if row[k] >= 0 && w.up(row[k]) {
			r.Leaders[i] = int8(k)
			r.Flags[i] |= placement.LoadUnknown
			return
		}
	}
}

func (w *world) backOff(op placement.Op) {
	i := w.pos[op.Range]
	for k := range w.view.Backoffs {
		if b := &w.view.Backoffs[k]; b.Range == i {
			b.Until, b.For = op.Until, op.For
			return
		}
	}
	b := placement.Backoff{Range: i, Until: op.Until, For: op.For}
	k := 0
	for k < len(w.view.Backoffs) && w.view.Backoffs[k].Range < i {
		k++
	}
	w.view.Backoffs = append(w.view.Backoffs, placement.Backoff{})
	copy(w.view.Backoffs[k+1:], w.view.Backoffs[k:])
	w.view.Backoffs[k] = b
}

// present tells the planner what is under way.
func (w *world) present() {
	w.view.Running = w.view.Running[:0]
	for k := range w.ops {
		r := &w.ops[k]
		v := placement.Running{ID: r.id, Kind: r.op.Kind, Rule: r.op.Rule, Range: w.pos[r.op.Range], Right: placement.None, From: placement.None,
			To: placement.None, Leader: placement.None, Begun: w.now-r.began >= 2}
		if r.op.Right != 0 {
			v.Right = w.pos[r.op.Right]
		}
		if r.op.From != 0 {
			v.From = at(r.op.From)
		}
		if r.op.To != 0 {
			v.To = at(r.op.To)
		}
		if r.op.Leader != 0 {
			v.Leader = at(r.op.Leader)
		}
		w.view.Running = append(w.view.Running, v)
	}
}

// key is a number as a key of this world.
func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
