package load

import (
	"math"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Histograms hold microseconds, three digits exact, up to latencyMax; what took longer is put
// there, so that it is never lost.
const (
	latencyMax    = 10 * time.Minute
	digits        = 3
	stripes       = 8
	errorKindsMax = 16
)

// Summary is a distribution of latencies, in microseconds.
type Summary struct {
	Count int64   `json:"count"`
	Min   int64   `json:"min_us"`
	Mean  float64 `json:"mean_us"`
	P50   int64   `json:"p50_us"`
	P90   int64   `json:"p90_us"`
	P95   int64   `json:"p95_us"`
	P99   int64   `json:"p99_us"`
	P999  int64   `json:"p999_us"`
	Max   int64   `json:"max_us"`
	// Curve is the latency at percentiles that get closer and closer to 100.
	Curve []Percentile `json:"curve,omitempty"`
}

// Percentile is a point of a distribution.
type Percentile struct {
	At float64 `json:"at"` // 0…100
	Us int64   `json:"us"`
}

// Point is what happened in one interval of a run.
type Point struct {
	Second float64 `json:"s"`     // its end, since the run began
	Rate   float64 `json:"ops_s"` // successes per second
	P50    int64   `json:"p50_us"`
	P99    int64   `json:"p99_us"`
	Failed int64   `json:"failed"` // since the run began
}

// recorder collects latencies from many workers. Workers share a few stripes: a histogram per
// worker would cost hundreds of kilobytes each.
type recorder struct {
	stripes [stripes]stripe
}

type stripe struct {
	mu     sync.Mutex
	kinds  []*hdrhistogram.Histogram
	window *hdrhistogram.Histogram // since the last cut
	errors map[string]int64
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), digits)
}

func newRecorder(kinds int) *recorder {
	r := &recorder{}
	for i := range r.stripes {
		s := &r.stripes[i]
		s.window, s.errors = newHistogram(), map[string]int64{}
		for range kinds {
			s.kinds = append(s.kinds, newHistogram())
		}
	}
	return r
}

func (r *recorder) record(worker, kind int, took time.Duration) {
	us := min(max(took.Microseconds(), 1), latencyMax.Microseconds())
	s := &r.stripes[worker%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	// The value is in range, so recording cannot fail.
	_ = s.kinds[kind].RecordValue(us)
	_ = s.window.RecordValue(us)
}

func (r *recorder) fail(worker int, err error) {
	s := &r.stripes[worker%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	msg := err.Error()
	if _, known := s.errors[msg]; !known && len(s.errors) >= errorKindsMax {
		msg = "others"
	}
	s.errors[msg]++
}

func (r *recorder) errorCounts() map[string]int64 {
	all := map[string]int64{}
	for i := range r.stripes {
		s := &r.stripes[i]
		s.mu.Lock()
		for msg, n := range s.errors {
			if _, known := all[msg]; !known && len(all) >= errorKindsMax {
				msg = "others"
			}
			all[msg] += n
		}
		s.mu.Unlock()
	}
	return all
}

// merged adds up the histograms of one kind, or of all if kind is negative.
func (r *recorder) merged(kind int) *hdrhistogram.Histogram {
	sum := newHistogram()
	for i := range r.stripes {
		s := &r.stripes[i]
		s.mu.Lock()
		for k, h := range s.kinds {
			if kind < 0 || k == kind {
				sum.Merge(h)
			}
		}
		s.mu.Unlock()
	}
	return sum
}

func (r *recorder) summary() Summary           { return summarize(r.merged(-1)) }
func (r *recorder) summaryOf(kind int) Summary { return summarize(r.merged(kind)) }

// cut ends an interval.
func (r *recorder) cut(at, length time.Duration) Point {
	sum := newHistogram()
	for i := range r.stripes {
		s := &r.stripes[i]
		s.mu.Lock()
		sum.Merge(s.window)
		s.window.Reset()
		s.mu.Unlock()
	}
	return Point{
		Second: at.Round(time.Millisecond).Seconds(), Rate: math.Round(float64(sum.TotalCount())/length.Seconds()*10) / 10,
		P50: sum.ValueAtPercentile(50), P99: sum.ValueAtPercentile(99),
	}
}

func summarize(h *hdrhistogram.Histogram) Summary {
	if h.TotalCount() == 0 {
		return Summary{}
	}
	s := Summary{
		Count: h.TotalCount(), Min: h.Min(), Mean: h.Mean(), Max: h.Max(),
		P50: h.ValueAtPercentile(50), P90: h.ValueAtPercentile(90), P95: h.ValueAtPercentile(95),
		P99: h.ValueAtPercentile(99), P999: h.ValueAtPercentile(99.9),
	}
	for _, b := range h.CumulativeDistribution() {
		s.Curve = append(s.Curve, Percentile{At: b.Quantile, Us: b.ValueAt})
	}
	return s
}

// Stopwatch collects durations outside of a run, such as those of single steps. It may be used by
// many goroutines.
type Stopwatch struct {
	once sync.Once
	rec  *recorder
}

// Add notes one duration.
func (s *Stopwatch) Add(took time.Duration) {
	s.once.Do(func() { s.rec = newRecorder(1) })
	s.rec.record(0, 0, took)
}

// Summary is the distribution of what was noted.
func (s *Stopwatch) Summary() Summary {
	s.once.Do(func() { s.rec = newRecorder(1) })
	return s.rec.summary()
}
