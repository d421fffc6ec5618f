package linger

import (
	"bytes"
	"math"
	"os"
	"runtime/metrics"
	"strconv"
	"time"
)

// meter measures the load between two calls of read.
type meter struct {
	sample [1]metrics.Sample
	counts []uint64 // of the histogram, at the last call
	ticks  ticks    // of the processors, at the last call
}

func (m *meter) read() Load {
	wait := m.wait()
	now, err := readTicks()
	if err != nil { // a system that does not say: it counts as idle
		return Load{Wait: wait}
	}
	was := m.ticks
	m.ticks = now
	if was.all == 0 || now.all <= was.all {
		return Load{Wait: wait}
	}
	return Load{Wait: wait, Busy: 1 - float64(now.idle-was.idle)/float64(now.all-was.all)}
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

// ticks is the time of all processors since the machine started.
type ticks struct{ all, idle uint64 }

// readTicks reads it as Linux shows it (proc_stat(5)).
func readTicks() (ticks, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return ticks{}, err
	}
	return parseTicks(data)
}

// parseTicks takes the first line: "cpu", then user, nice, system, idle, iowait, irq, softirq, steal and, counted
// in user and nice already, guest and guest_nice.
func parseTicks(stat []byte) (t ticks, err error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	for i, field := range bytes.Fields(line) {
		if i == 0 || i > 8 {
			continue
		}
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return ticks{}, err
		}
		t.all += n
		if i == 4 || i == 5 {
			t.idle += n
		}
	}
	return t, nil
}
