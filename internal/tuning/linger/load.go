package linger

import (
	"math"
	"runtime/metrics"
	"time"

	"pontoon/internal/tuning/processors"
)

// meter measures the load between two calls of read.
type meter struct {
	processors *processors.Meter
	sample     [1]metrics.Sample
	counts     []uint64      // of the histogram, at the last call
	used       time.Duration // of the processors, at the last call, which was at
	at         time.Time
}

func newMeter() *meter { return &meter{processors: processors.Machine()} }

// read tells how busy the machine is and, under a limit, how much of that the process has used, whichever is more: processor time is short either way
// (docs/decisions/0021 has the figures).
func (m *meter) read() Load {
	load := Load{Wait: m.wait(), Busy: m.processors.Busy()}
	if limit := m.processors.Limit(); limit > 0 {
		used, now := processors.Used(), time.Now()
		load.Limited, load.Busy = true, max(load.Busy, processors.Share(used-m.used, now.Sub(m.at), limit))
		m.used, m.at = used, now
	}
	return load
}

// wait is the average of the time that goroutines were runnable before they ran, as the runtime has counted
// it. Where other processes have the processors, their time shows in it too: a thread that waits for a
// processor lets its goroutines wait.
func (m *meter) wait() time.Duration {
	m.sample[0].Name = "/sched/latencies:seconds"
	metrics.Read(m.sample[:])
	if m.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // a runtime without it
	}
	h := m.sample[0].Value.Float64Histogram()
	if m.counts == nil {
		m.counts = make([]uint64, len(h.Counts))
	}
	return average(h.Counts, h.Buckets, m.counts)
}

// average is the mean of what a histogram has counted beyond last, which it brings up to date: 0 for nothing.
func average(counts []uint64, buckets []float64, last []uint64) time.Duration {
	var sum float64
	var n uint64
	for i, count := range counts {
		if more := count - last[i]; more > 0 {
			n += more
			sum += float64(more) * middle(buckets[i], buckets[i+1])
			last[i] = count
		}
	}
	if n == 0 {
		return 0
	}
	return time.Duration(math.Round(sum / float64(n) * float64(time.Second)))
}

// middle of a bucket; those at the ends are open.
func middle(low, high float64) float64 {
	switch {
	case math.IsInf(low, -1):
		return high
	case math.IsInf(high, 1):
		return low
	}
	return (low + high) / 2
}
