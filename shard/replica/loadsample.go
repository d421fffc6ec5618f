package replica

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard/replica/eval"
)

const (
	// sampledMax is how many requests a window's sample has.
	sampledMax = 512
	// readsPerSample is how many reads there are for one that may get into it.
	readsPerSample = 16
	// sampledCPU and sampledWrites, ns of processor time a second of a node that has a whole processor, and writes a second, are from when on a
	// range is sampled: half of the least that it may be cut for.
	sampledCPU, sampledWrites = 62e6, 1000
	// pointsMax is how many keys are told at which the range could be cut: those that part its load best.
	pointsMax = 16
	// pointsMin is how many requests a sample needs for that.
	pointsMin = 32
)

// sampler keeps which keys requests have touched, of a busy range: a window's reservoir, in which each has the same chance to be.
type sampler struct {
	on atomic.Bool

	mu   sync.Mutex
	dice uint64
	samples
}

// samples are those of two windows.
type samples struct {
	seen uint64 // that could have got into now
	now  []sampled
	last []sampled // of the window before, in key order; nil: it had none, or too few to say anything
	end  []byte    // the highest key of the sample before; nil: there was none
}

// sampled is one request: the lowest and the highest key that it has touched.
type sampled struct {
	lo, hi []byte
	weight float64 // in the unit of a write
	write  bool
}

// batch is told of writes that apply.
func (s *sampler) batch(ops []*pb.Op) {
	if !s.on.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		at, in := s.draw()
		if !in {
			continue
		}
		var f eval.Footprint
		f.Collect(op)
		if one, ok := sampleOf(&f); ok {
			s.put(at, one)
		}
	}
}

// sampleOf is what of a footprint is kept; false: none of it fits.
func sampleOf(f *eval.Footprint) (sampled, bool) {
	var lo, hi []byte
	write := false
	for i := range f.Acc {
		a := &f.Acc[i]
		first, last := a.Key, a.Key
		if a.Key == nil {
			if first, last = a.Span.Start, a.Span.End; len(last) == 0 {
				last = bytes.Repeat([]byte{0xff}, 16)
			}
		}
		if lo == nil || bytes.Compare(first, lo) < 0 {
			lo = first
		}
		if hi == nil || bytes.Compare(last, hi) > 0 {
			hi = last
		}
		write = write || a.Write
	}
	one := sampled{lo: keyOf(lo), hi: keyOf(hi), weight: 1, write: write}
	return one, one.lo != nil && one.hi != nil
}

// read is told of one read of several.
func (s *sampler) read(span *pb.Span) {
	if !s.on.Load() {
		return
	}
	var f eval.Footprint
	f.AddSpans([]*pb.Span{span}, false)
	one, ok := sampleOf(&f)
	if !ok {
		return
	}
	one.weight = unitsPerRead * readsPerSample
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, in := s.draw(); in {
		s.put(at, one)
	}
}

// draw decides whether another request gets into the sample, and in whose place.
func (s *sampler) draw() (at int, in bool) {
	s.seen++
	if len(s.now) < sampledMax {
		return len(s.now), true
	}
	s.dice = s.dice*6364136223846793005 + 1442695040888963407
	n := (s.dice >> 33) % s.seen
	return int(n), n < sampledMax
}

func (s *sampler) put(at int, one sampled) {
	if at >= len(s.now) {
		s.now = append(s.now, one)
		return
	}
	s.now[at] = one
}

// window ends a window: it tells which share of its writes lies beyond the keys of the one before, and where the range could be cut, which
// begins at start, and the highest key. on: there is to be another sample.
func (s *sampler) window(on bool, start []byte) (tail float64, points []*pb.LoadPoint, end []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on.Store(on)
	s.last = nil
	if len(s.now) >= pointsMin {
		tail, s.last = tailOf(s.now, s.end), s.now
		slices.SortFunc(s.last, func(a, b sampled) int { return bytes.Compare(a.lo, b.lo) })
	}
	s.end = highest(s.last)
	s.seen, s.now = 0, nil
	if on {
		s.now = make([]sampled, 0, sampledMax)
	}
	return tail, s.points(start), s.end
}

// points are the keys at which a range that begins at start could be cut.
func (s *samples) points(start []byte) []*pb.LoadPoint {
	if len(s.last) < pointsMin {
		return nil
	}
	return pointsOf(s.last, start)
}

// cut parts the samples at a key, and tells what share of the load lay before it; false: nobody knows, and nothing is left.
func (s *sampler) cut(at []byte) (left, right samples, share float64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.last) < pointsMin {
		s.samples = samples{}
		return samples{}, samples{}, 0, false
	}
	share = weightOf(s.last, at) / weightOf(s.last, nil)
	left.now, right.now = cutSample(s.now, at)
	left.last, right.last = cutSample(s.last, at)
	left.end, right.end = highest(left.last), s.end
	left.seen, right.seen = uint64(float64(s.seen)*share), uint64(float64(s.seen)*(1-share))
	s.samples = left
	return left, right, share, true
}

// inherit goes on with samples that another replica has made.
func (s *sampler) inherit(from samples) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples = from
	s.on.Store(true)
}

// weightOf sums what lies before a key; nil: all.
func weightOf(all []sampled, before []byte) (sum float64) {
	for i := range all {
		if before == nil || bytes.Compare(all[i].lo, before) < 0 {
			sum += all[i].weight
		}
	}
	return sum
}

// cutSample parts a sample: a request that reaches both parts is in both from now on.
func cutSample(all []sampled, at []byte) (left, right []sampled) {
	for _, one := range all {
		if bytes.Compare(one.lo, at) < 0 {
			left = append(left, one)
			if bytes.Compare(one.hi, at) < 0 {
				continue
			}
			one.lo = at
		}
		right = append(right, one)
	}
	slices.SortStableFunc(right, func(a, b sampled) int { return bytes.Compare(a.lo, b.lo) })
	return left, right
}

// highest is the highest key that was written.
func highest(all []sampled) (end []byte) {
	for i := range all {
		if all[i].write && bytes.Compare(all[i].lo, end) > 0 {
			end = all[i].lo
		}
	}
	return end
}

// tailOf is the share of writes beyond a key.
func tailOf(all []sampled, end []byte) float64 {
	if end == nil || mutate.On(mutate.LoadNoTail) {
		return 0
	}
	writes, beyond := 0, 0
	for i := range all {
		if !all[i].write {
			continue
		}
		writes++
		if bytes.Compare(all[i].lo, end) > 0 {
			beyond++
		}
	}
	return float64(beyond) / math.Max(float64(writes), 1)
}

// pointsOf are the keys that part a sample best, in their order, which is the sample's.
func pointsOf(all []sampled, start []byte) []*pb.LoadPoint {
	total, writes := 0.0, 0.0
	for i := range all {
		total += all[i].weight
		if all[i].write {
			writes++
		}
	}
	var out []*pb.LoadPoint
	left := 0.0
	for i := range all {
		key := all[i].lo
		if i > 0 && !bytes.Equal(key, all[i-1].lo) && bytes.Compare(key, start) > 0 {
			out = append(out, &pb.LoadPoint{Key: key, Left: permille(left / total), Cross: permille(crossing(all[:i], key) / max(writes, 1))})
		}
		left += all[i].weight
	}
	if len(out) > pointsMax {
		slices.SortStableFunc(out, func(a, b *pb.LoadPoint) int { return cmp.Compare(score(a), score(b)) })
		out = out[:pointsMax]
		slices.SortFunc(out, func(a, b *pb.LoadPoint) int { return bytes.Compare(a.Key, b.Key) })
	}
	return out
}

// crossing counts the writes that begin before a key and reach it. What only reads can be read in two parts.
func crossing(before []sampled, key []byte) (n float64) {
	for i := range before {
		if before[i].write && !mutate.On(mutate.LoadNoCross) && bytes.Compare(before[i].hi, key) >= 0 {
			n++
		}
	}
	return n
}

func score(p *pb.LoadPoint) float64 { return math.Abs(float64(p.Left)-500) + float64(p.Cross) }

func permille(share float64) uint32 { return uint32(math.Round(min(max(share, 0), 1) * 1000)) }
