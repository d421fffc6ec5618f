package replica

import (
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// What a request costs beside a write of a few bytes, which is 1: an estimate, because nobody looks at a clock for each of them.
const (
	unitsPerRead     = 0.25
	unitsPerByte     = 1.0 / (16 << 10)
	unitsPerCrossing = 2.0
	// followerShare is what a follower spends for what its leader does.
	followerShare = 0.25
)

const (
	// LoadWindow is how many seconds a window has. Whoever looks at loads does so that often.
	LoadWindow = 10
	// loadNew is the weight of a new window: about two minutes count.
	loadNew = 0.15
	// peakWindows are those of which one peak is kept, and peaksKept the peaks: ten minutes.
	peakWindows, peaksKept = 6, 10
	// lowWindows are those of which the lowest is told.
	lowWindows = 3
)

// load is what a replica's range does, for whoever plans where ranges lie and where they are cut. Requests are counted where they pass, and
// looked at once a window. Followers count too: they know the load, but for reads, before they lead.
type load struct {
	counted counters
	keys    sampler

	mu      sync.Mutex
	pending amounts // of the window that is being looked at
	watched
	tail   float64
	points []*pb.LoadPoint
	end    []byte // the highest key of the sample
}

// watched is what the windows so far have shown.
type watched struct {
	known  int // windows
	smooth rates
	peaks  [peaksKept]rates // the first is being made
	lows   [lowWindows]rates
}

// counters count since the last look.
type counters struct {
	writes, reads, bytes, crossings atomic.Uint64
}

// amounts are what was counted.
type amounts struct{ writes, reads, bytes, crossings float64 }

// rates are amounts a second, and processor time.
type rates struct {
	cpu float64 // ns a second at the leader
	amounts
}

// applied counts an entry of the log.
func (l *load) applied(bytes int, d *apply.Decision) {
	n := 0
	switch {
	case d.Entry == nil || d.Refused != nil:
		return
	case d.Entry.Batch != nil:
		n = len(d.Entry.Batch.Requests)
		l.keys.batch(d.Entry.Batch.Requests)
	case d.Prepare != nil:
		n = 1
		l.counted.crossings.Add(1)
	}
	l.counted.writes.Add(uint64(n))
	l.counted.bytes.Add(uint64(bytes))
}

// read counts a read of a span.
func (l *load) read(span *pb.Span) {
	if n := l.counted.reads.Add(1); n%readsPerSample == 0 {
		l.keys.read(span)
	}
}

func (a *amounts) units() float64 {
	return a.writes + a.reads*unitsPerRead + a.bytes*unitsPerByte + a.crossings*unitsPerCrossing
}

// LoadUnits ends a window, and tells how much this replica has done in it, in the unit of a write. LoadSeen follows.
func (r *Replica) LoadUnits() float64 {
	r.load.mu.Lock()
	a := r.load.counted.take()
	r.load.pending = a
	r.load.mu.Unlock()
	if _, leads := r.Leading(); !leads && !mutate.On(mutate.LoadFollowers) {
		a.writes, a.bytes, a.crossings = a.writes*followerShare, a.bytes*followerShare, a.crossings*followerShare
	}
	return a.units()
}

// LoadSeen says how long the window was, in seconds, what a unit has cost in it, in ns of processor time, and how much of a processor the node has, at
// most 1.
func (r *Replica) LoadSeen(seconds, unit, processor float64) {
	l := &r.load
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.pending
	now := rates{a.units() * unit / seconds, amounts{a.writes / seconds, a.reads / seconds, a.bytes / seconds, a.crossings / seconds}}
	l.window(now)
	start := r.desc.Load().Span.Start
	l.tail, l.points, l.end = l.keys.window(now.cpu >= sampledCPU*processor || now.writes >= sampledWrites, start)
}

// window takes in a window's rates.
func (l *load) window(now rates) {
	weight := loadNew
	if float64(l.known) < 1/loadNew { // at first all windows count alike
		weight = 1 / float64(l.known+1)
	}
	l.smooth.toward(&now, weight)
	if l.known%peakWindows == 0 {
		copy(l.peaks[1:], l.peaks[:peaksKept-1])
		l.peaks[0] = rates{}
	}
	l.peaks[0].cpu, l.peaks[0].writes = max(l.peaks[0].cpu, now.cpu), max(l.peaks[0].writes, now.writes)
	copy(l.lows[1:], l.lows[:lowWindows-1])
	l.lows[0] = now
	l.known++
}

func (r *rates) toward(o *rates, weight float64) {
	r.cpu += weight * (o.cpu - r.cpu)
	r.writes += weight * (o.writes - r.writes)
	r.reads += weight * (o.reads - r.reads)
	r.bytes += weight * (o.bytes - r.bytes)
	r.crossings += weight * (o.crossings - r.crossings)
}

// tell renders it.
func (l *load) tell() *pb.RangeLoad {
	l.mu.Lock()
	defer l.mu.Unlock()
	milli := func(v float64) uint64 { return uint64(v * 1000) }
	out := &pb.RangeLoad{CpuNs: uint64(l.smooth.cpu), WritesMilli: milli(l.smooth.writes), ReadsMilli: milli(l.smooth.reads),
		CrossingsMilli: milli(l.smooth.crossings), Bytes: uint64(l.smooth.bytes), KnownS: uint32(l.known * LoadWindow),
		TailPermille: uint32(milli(l.tail)), Points: l.points, End: l.end}
	for i := range l.peaks {
		out.PeakCpuNs, out.PeakWritesMilli = max(out.PeakCpuNs, uint64(l.peaks[i].cpu)), max(out.PeakWritesMilli, milli(l.peaks[i].writes))
	}
	if l.known >= lowWindows {
		low := l.lows[0]
		for _, w := range l.lows[1:] {
			low.cpu, low.writes = min(low.cpu, w.cpu), min(low.writes, w.writes)
		}
		out.LowCpuNs, out.LowWritesMilli = uint64(low.cpu), milli(low.writes)
	}
	return out
}

// LoadPart is what a replica knows of the load of a part of its range, for the replica of the range that the part becomes. nil: nothing.
type LoadPart struct {
	rest amounts // of the window under way
	watched
	tail   float64
	sample samples
}

// cut is told that the keys from at on are no part of the range any more, and with them some of its load: as much as of the sample lay there. It
// returns that. Where there is no sample, nobody knows how much, and nothing is known of either part.
//
// So a range that is far too busy is cut more than once without having been watched again in between, which takes half a minute each time.
func (l *load) cut(at []byte) *LoadPart {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mutate.On(mutate.LoadStays) {
		return nil
	}
	left, right, share, known := l.keys.cut(at)
	rest := l.counted.take()
	if !known {
		l.pending, l.watched, l.tail, l.points, l.end = amounts{}, watched{}, 0, nil, nil
		return nil
	}
	beyond := 1 - share
	part := &LoadPart{rest: rest.part(beyond), watched: l.watched.part(beyond), tail: min(l.tail/max(beyond, 1e-3), 1), sample: right}
	l.counted.give(rest.part(share))
	l.pending, l.watched, l.tail, l.points, l.end = l.pending.part(share), l.watched.part(share), 0, left.points(nil), left.end
	return part
}

// Inherit takes over what was known of the load of the keys that have become this replica's range, before it serves.
func (r *Replica) Inherit(p *LoadPart) {
	if p == nil {
		return
	}
	l := &r.load
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counted.give(p.rest)
	l.watched, l.tail, l.points, l.end = p.watched, p.tail, p.sample.points(r.desc.Load().Span.Start), p.sample.end
	l.keys.inherit(p.sample)
}

// take ends what is being counted.
func (c *counters) take() amounts {
	return amounts{float64(c.writes.Swap(0)), float64(c.reads.Swap(0)), float64(c.bytes.Swap(0)), float64(c.crossings.Swap(0))}
}

// give counts so much more.
func (c *counters) give(a amounts) {
	c.writes.Add(uint64(a.writes))
	c.reads.Add(uint64(a.reads))
	c.bytes.Add(uint64(a.bytes))
	c.crossings.Add(uint64(a.crossings))
}

func (a amounts) part(share float64) amounts {
	return amounts{a.writes * share, a.reads * share, a.bytes * share, a.crossings * share}
}

func (w watched) part(share float64) watched {
	w.smooth = w.smooth.part(share)
	for i := range w.peaks {
		w.peaks[i] = w.peaks[i].part(share)
	}
	for i := range w.lows {
		w.lows[i] = w.lows[i].part(share)
	}
	return w
}

func (r rates) part(share float64) rates { return rates{r.cpu * share, r.amounts.part(share)} }

// keyOf is a key without what a sample may not keep.
func keyOf(key []byte) []byte {
	if len(key) > shard.BorderBytesMax {
		return nil
	}
	return append(make([]byte, 0, len(key)), key...)
}
