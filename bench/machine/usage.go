package machine

import (
	"context"
	"os"
	"sync"
	"time"
)

// clockTicks is the unit of CPU time in /proc, the same on every Linux that Go runs on.
const clockTicks = 100

// Usage is what processes have used since they began, and the memory they hold. Memory is a sum
// over processes, peaks too, though they need not have had them at the same moment.
type Usage struct {
	CPU      time.Duration
	Written  int64 // bytes that they caused to be written to disk
	Resident int64
	PeakRSS  int64
	Anon     int64 // resident pages that no file backs
}

// Add returns the sum of two usages.
func (u Usage) Add(v Usage) Usage {
	return Usage{u.CPU + v.CPU, u.Written + v.Written, u.Resident + v.Resident, u.PeakRSS + v.PeakRSS, u.Anon + v.Anon}
}

// Processes adds up what some processes have used.
func Processes(pids []int) (Usage, error) {
	var sum Usage
	for _, pid := range pids {
		u, err := process(os.DirFS("/proc"), pid)
		if err != nil {
			return Usage{}, err
		}
		sum = sum.Add(u)
	}
	return sum, nil
}

// Self is what this process has used.
func Self() (Usage, error) { return Processes([]int{os.Getpid()}) }

// Busy is how long this machine's processors have not been idle since it began, all of them together.
// What a host took from a virtual machine counts, too.
func Busy() (time.Duration, error) { return busy(os.DirFS("/proc")) }

// Sampler follows the memory of processes, because the kernel remembers no peak of anonymous pages.
type Sampler struct {
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	anon int64
	all  []Sample
}

// Sample is the memory at one moment.
type Sample struct {
	Second   float64 `json:"s"`
	Resident int64   `json:"rss_bytes"`
	Anon     int64   `json:"anon_bytes"`
}

// samplesMax bounds what a sampler keeps: then it keeps every second one and samples half as often.
const samplesMax = 2000

// Follow samples until Stop. pids tells the processes, which may change.
func Follow(pids func() []int, every time.Duration) *Sampler {
	ctx, stop := context.WithCancel(context.Background())
	s := &Sampler{stop: stop, done: make(chan struct{})}
	go s.run(ctx, pids, every)
	return s
}

func (s *Sampler) run(ctx context.Context, pids func() []int, every time.Duration) {
	defer close(s.done)
	began := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		// A process that has gone has no memory; its end is noticed by those who talk to it.
		if u, err := Processes(pids()); err == nil {
			if s.note(Sample{time.Since(began).Round(time.Millisecond).Seconds(), u.Resident, u.Anon}) {
				every *= 2
				tick.Reset(every)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Sampler) note(x Sample) (thinned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anon = max(s.anon, x.Anon)
	s.all = append(s.all, x)
	if len(s.all) < samplesMax {
		return false
	}
	half := s.all[:0]
	for i := 0; i < len(s.all); i += 2 {
		half = append(half, s.all[i])
	}
	s.all = half
	return true
}

// Stop ends sampling and returns the peak of anonymous memory and the samples.
func (s *Sampler) Stop() (peakAnon int64, samples []Sample) {
	s.stop()
	<-s.done
	return s.anon, s.all
}
