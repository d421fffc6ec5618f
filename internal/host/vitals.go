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

	mu    sync.Mutex
	meter *processors.Meter
	last  time.Time // zero: nobody has looked
	busy  float64
}

func newVitals(dir string) *vitals {
	v := &vitals{dir: dir, now: bootClock, meter: processors.Machine()}
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
		busy := v.meter.Busy()
		if v.last.IsZero() {
			v.busy = busy
		}
		v.busy += vitalsNew * (busy - v.busy)
		v.last = now
	}
	resp.CpuPermille = uint32(math.Round(v.busy * 1000))
	resp.CoresMilli = uint32(math.Round(float64(runtime.GOMAXPROCS(0)) * 1000))
}
