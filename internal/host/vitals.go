package host

import (
	"math"
	"runtime"
	"sync"
	"time"

	"pontoon/internal/durable"
	"pontoon/internal/pb"
	"pontoon/internal/tuning/processors"
)

const (
	// vitalsEvery is how often the processors are looked at, at most: whoever asks more often gets the same answer.
	vitalsEvery = 5 * time.Second
	// vitalsNew is the weight of a new look.
	vitalsNew = 0.5
)

// vitals are what a node tells of its machine.
type vitals struct {
	dir string // whose disk counts
	now func() time.Time

	used func() time.Duration // processor time of this process

	mu       sync.Mutex
	meter    *processors.Meter
	last     time.Time // zero: nobody has looked
	lastUsed time.Duration
	busy     float64 // share of cores
	cores    float64
}

func newVitals(dir string) *vitals {
	v := &vitals{dir: dir, now: bootClock, used: processors.Used, meter: processors.Machine()}
	v.meter.Busy() // counts from now on
	return v
}

// tell adds them to an answer. What the system does not say is 0.
func (v *vitals) tell(resp *pb.NodeStatusResponse) {
	if free, used, err := durable.Space(v.dir); err == nil {
		resp.DiskFree, resp.DiskUsed = free, used
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := v.now(); v.last.IsZero() || now.Sub(v.last) >= vitalsEvery {
		v.look(now)
	}
	resp.CpuPermille = uint32(math.Round(v.busy * 1000))
	resp.CoresMilli = uint32(math.Round(v.cores * 1000))
}

// look takes the processors in. A limit counts instead of the machine: who has used it up is busy, however idle that is, and has no more to give.
func (v *vitals) look(now time.Time) {
	busy, used := v.meter.Busy(), v.used()
	limit := v.meter.Limit()
	if v.cores = coresOf(limit); limit > 0 {
		busy = 0
		if !v.last.IsZero() {
			busy = processors.Share(used-v.lastUsed, now.Sub(v.last), limit)
		}
	}
	if v.last.IsZero() {
		v.busy = busy
	}
	v.busy += vitalsNew * (busy - v.busy)
	v.last, v.lastUsed = now, used
}

// coresOf is how many processors' time the process has, by its limit; 0: there is none.
func coresOf(limit float64) float64 {
	if all := float64(runtime.GOMAXPROCS(0)); limit <= 0 || limit > all {
		return all
	}
	return limit
}
