package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"pontoon/shard"
)

// million makes nodes in five zones and ranges on them at random, with sizes and loads that differ as they do in the wild.
func million(nodes, ranges int, seed uint64) *Snapshot {
	rnd := rand.New(rand.NewPCG(seed, 1))
	s := &Snapshot{ReplicationFactor: 3, Round: 1}
	for i := range nodes {
		s.Nodes = append(s.Nodes, Node{ID: shard.NodeID(i + 1), Locality: fmt.Sprintf("region=r,zone=z%d", i%5), DiskUsed: 3e11, DiskFree: 2e12, CPU: 0.3, Cores: 8})
	}
	s.Ranges = Ranges{
		IDs: make([]shard.RangeID, ranges), Generations: make([]shard.Generation, ranges), KeyEnds: make([]uint32, ranges),
		Width: 3, Replicas: make([]int16, 3*ranges), Leaders: make([]int8, ranges), Flags: make([]Flags, ranges),
		Bytes: make([]float32, ranges), CPU: make([]float32, ranges),
		Peak: Peaks{CPU: make([]float32, ranges), Writes: make([]float32, ranges)},
		At:   History{Moved: make([]Seconds, ranges), Led: make([]Seconds, ranges), Cut: make([]Seconds, ranges), Sticky: make([]Seconds, ranges)},
	}
	r := &s.Ranges
	for i := range ranges {
		r.IDs[i], r.Generations[i] = shard.FirstRangeID+shard.RangeID(i), 1
		if i > 0 {
			r.Keys = fmt.Appendf(r.Keys, "/registry/pods/namespace-%07d/pod", i)
		}
		r.KeyEnds[i] = uint32(len(r.Keys))
		zones := rnd.Perm(5)
		for k := range 3 {
			r.Replicas[3*i+k] = int16(zones[k] + 5*rnd.IntN(nodes/5))
		}
		r.Leaders[i] = int8(rnd.IntN(3))
		r.Bytes[i] = float32(80e6 * math.Exp(rnd.NormFloat64()/3))
		r.CPU[i] = float32(2e6 * math.Exp(rnd.NormFloat64()))
		r.Peak.CPU[i], r.Peak.Writes[i] = 2*r.CPU[i], r.CPU[i]/1e5
	}
	return s
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPlan is a round for a million ranges on a thousand nodes, on which every rule but the joins of neighbours has something to do.
func BenchmarkPlan(b *testing.B) {
	s := million(1000, 1_000_000, 1)
	s.Nodes[7].Liveness, s.Nodes[7].Since = Dead, 1
	s.Nodes[9].Draining = true
	r := &s.Ranges
	l := DefaultLimits()
	b.ReportAllocs()
	began, rounds := processorTime(b), 0
	for b.Loop() {
		s.Round++
		Plan(s, l, 10_000)
		rounds++
	}
	b.ReportMetric(float64(len(r.Replicas)*2+len(r.Leaders)+len(r.Flags)+4*len(r.Bytes)+4*len(r.CPU))/(1<<20), "MiB-walked")
	b.ReportMetric((processorTime(b)-began).Seconds()*1e3/float64(rounds), "cpu-ms/round") // whatever else the machine does
}
