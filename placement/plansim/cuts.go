package plansim

import (
	"encoding/binary"

	"pontoon/placement"
)

// cutter lets cuts take effect.
type cutter struct{ *world }

// cut lets all splits and merges take effect whose time is over, in one pass: to put one range into columns
// costs as much as to put in many.
func (w cutter) cut() {
	split, left, right := map[int32]placement.Op{}, map[int32]bool{}, map[int32]bool{}
	done := map[uint64]bool{}
	more := 0
	for _, r := range w.cuts {
		done[r.id] = true
		if i := w.pos[r.op.Range]; r.op.Kind == placement.KindSplit {
			split[i] = r.op
			more++
		} else {
			left[i], right[w.pos[r.op.Right]] = true, true
			more--
		}
	}
	kept := w.ops[:0]
	for _, r := range w.ops {
		if !done[r.id] {
			kept = append(kept, r)
		}
	}
	w.ops = kept
	from, truth, backoffs := w.view.Ranges, w.truth, w.view.Backoffs
	w.resize(from.Len() + more)
	r := &w.view.Ranges
	r.Keys = make([]byte, 0, len(from.Keys)+8*max(more, 0))
	moved := make([]int32, from.Len())
	k := -1
	for i := range from.IDs {
		if right[int32(i)] {
			w.absorb(k, &from, &truth, i)
			moved[i] = -1
			continue
		}
		k++
		moved[i] = int32(k)
		w.copyRange(k, &from, &truth, i)
		if left[int32(i)] {
			r.Flags[k] |= placement.CutByMerge
			r.Generations[k]++
			r.At.Cut[k] = w.now
		}
		if op, ok := split[int32(i)]; ok {
			k++
			w.copyRange(k, &from, &truth, i)
			w.part(k-1, k, &from, i, op)
		}
	}
	w.locate()
	w.view.Backoffs = w.view.Backoffs[:0]
	for _, b := range backoffs {
		if m := moved[b.Range]; m >= 0 {
			b.Range = m
			w.view.Backoffs = append(w.view.Backoffs, b)
		}
	}
	meter{w.world}.samples(false)
}

// copyRange puts range i of the old columns at place k of the new ones.
func (w cutter) copyRange(k int, from *placement.Ranges, old *truth, i int) {
	r, t := &w.view.Ranges, &w.truth
	r.IDs[k], r.Generations[k] = from.IDs[i], from.Generations[i]
	r.Keys = append(r.Keys, from.Start(i)...)
	r.KeyEnds[k] = uint32(len(r.Keys))
	copy(r.Row(k), from.Row(i))
	r.Leaders[k], r.Flags[k], r.Bytes[k], r.CPU[k] = from.Leaders[i], from.Flags[i], from.Bytes[i], from.CPU[i]
	r.Peak.CPU[k], r.Peak.Writes[k] = from.Peak.CPU[i], from.Peak.Writes[i]
	r.At.Moved[k], r.At.Led[k], r.At.Cut[k], r.At.Sticky[k] = from.At.Moved[i], from.At.Led[i], from.At.Cut[i], from.At.Sticky[i]
	t.rate[k], t.nature[k], t.peak[0][k], t.peak[1][k], t.since[k] = old.rate[i], old.nature[i], old.peak[0][i], old.peak[1][i], old.since[i]
}

// absorb makes range i of the old columns a part of the one at place k.
func (w cutter) absorb(k int, from *placement.Ranges, old *truth, i int) {
	r, t := &w.view.Ranges, &w.truth
	r.Bytes[k] += from.Bytes[i]
	r.CPU[k] += from.CPU[i]
	r.Generations[k] = max(r.Generations[k], from.Generations[i])
	r.Peak.CPU[k] += from.Peak.CPU[i]
	r.Peak.Writes[k] += from.Peak.Writes[i]
	t.rate[k] += old.rate[i]
	t.nature[k] = max(t.nature[k], old.nature[i])
	for p := range t.peak {
		t.peak[p][k] += old.peak[p][i]
	}
}

// part divides what the range at two neighbouring places was into both.
func (w cutter) part(k, c int, from *placement.Ranges, i int, op placement.Op) {
	r, t := &w.view.Ranges, &w.truth
	lo, hi := w.spanOf(from, i)
	border, bytes, load := lo+(hi-lo)/2, 0.5, 0.5
	switch {
	case op.At == placement.CutAtEnd:
		bytes, load = 1, 0.05
	case op.At == placement.CutAtKey:
		border = binary.BigEndian.Uint64(op.Key)
		bytes = float64(border-lo) / float64(hi-lo)
		load = bytes
	}
	switch t.nature[k] {
	case oneKey:
		t.nature[c], load = spread, 0.98
	case atEnd:
		t.nature[k], load = spread, 0.05
	}
	r.IDs[c] = w.free
	w.free++
	r.Generations[k]++
	r.Generations[c] = r.Generations[k]
	r.Keys = append(r.Keys[:r.KeyEnds[k]], key(border)...)
	r.KeyEnds[c] = uint32(len(r.Keys))
	r.Bytes[k], r.Bytes[c] = r.Bytes[k]*float32(bytes), r.Bytes[c]*float32(1-bytes)
	for _, col := range [][]float32{t.rate, t.peak[0], t.peak[1], r.CPU, r.Peak.CPU, r.Peak.Writes} {
		col[k], col[c] = col[k]*float32(load), col[c]*float32(1-load)
	}
	for _, p := range []int{k, c} {
		r.Flags[p] &^= placement.CutByMerge | placement.MovedToAlign
		r.At.Cut[p], t.since[p] = w.now, w.now
	}
	r.At.Moved[c], r.At.Led[c] = 0, 0
	r.Flags[c] |= placement.Untrimmed
	if op.Until != 0 {
		r.At.Sticky[c] = op.Until
	}
}

// spanOf is what a range holds, as numbers.
func (w *world) spanOf(r *placement.Ranges, i int) (lo, hi uint64) {
	hi = 1<<64 - 1
	if s := r.Start(i); len(s) == 8 {
		lo = binary.BigEndian.Uint64(s)
	}
	if i+1 < r.Len() {
		hi = binary.BigEndian.Uint64(r.Start(i + 1))
	}
	return lo, hi
}
