package meta

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// largeEnv leads with a map of n ranges, whose keys have 40 bytes.
func largeEnv(t testing.TB, n int) *env {
	b := layout(1)
	b.ClusterId = 77
	first := b.Ranges[0]
	b.Ranges = make([]*pb.Descriptor, n)
	for i := range b.Ranges {
		d := &pb.Descriptor{RangeId: uint64(i + 2), Generation: 1, Replicas: first.Replicas, Span: &pb.Span{}}
		if i > 0 {
			d.Span.Start = rangeKey(i, 0)
		}
		if i < n-1 {
			d.Span.End = rangeKey(i+1, 0)
		}
		b.Ranges[i] = d
	}
	e := newEnv(t, func(c *Config) { c.Bootstrap = b })
	e.lead(6)
	return e
}

func rangeKey(i, in int) []byte {
	return fmt.Appendf(nil, "/registry/pods/namespace-1/%08d-%04d", i, in)
}

// cut applies the outcome of a split at a key of range i, as an entry would: under the lock. It returns how long the lock was held.
func (e *env) cut(i, in int, child shard.RangeID) time.Duration {
	at := rangeKey(i, in)
	e.m.mu.Lock()
	m := e.m.state.Map()
	e.m.mu.unlock()
	parent := m.Lookup(at)
	next, err := m.Split(parent.ID, at, child, parent.Replicas)
	if err != nil {
		e.t.Fatal(err)
	}
	left, _ := next.Get(parent.ID)
	right, _ := next.Get(child)
	e.m.mu.Lock()
	began := time.Now()
	err = e.m.state.ApplyRanges(left, right)
	took := time.Since(began)
	e.m.mu.unlock()
	if err != nil {
		e.t.Fatal(err)
	}
	return took
}

// askOracle asks all the time until stop, and returns how long each answer took.
func (e *env) askOracle(stop *atomic.Bool) (took []time.Duration) {
	for range time.Tick(100 * time.Microsecond) {
		if stop.Load() {
			break
		}
		began := time.Now()
		if _, ok := e.m.ServeLeased(6, shard.Ask{Count: 1}, false); ok {
			took = append(took, time.Since(began))
		} else {
			e.commit() // the limit rises
		}
	}
	return took
}

// quantile reports one of durations, which it sorts.
func quantile(b *testing.B, took []time.Duration, q float64, unit string) {
	slices.Sort(took)
	b.ReportMetric(float64(took[int(q*float64(len(took)-1))].Nanoseconds()), unit)
}

// BenchmarkChangeOfTheMap: how long the outcome of a split holds the lock that the oracle's answers need, and how long these take
// meanwhile, asked every 0.1 ms: while nothing changes, while outcomes apply and a node fetches the differences, and while all of the
// map is fetched every 100th time and the state written for a snapshot.
func BenchmarkChangeOfTheMap(b *testing.B) {
	for _, n := range []int{10, 1_000_000} {
		for _, load := range []string{"nothing", "differences", "everything"} {
			b.Run(fmt.Sprintf("ranges=%d/%s", n, load), func(b *testing.B) { benchmarkChange(b, n, load) })
		}
	}
}

func benchmarkChange(b *testing.B, n int, load string) {
	e := largeEnv(b, n)
	var stop atomic.Bool
	answered := make(chan []time.Duration)
	go func() { answered <- e.askOracle(&stop) }()
	var held []time.Duration
	answers := make(chan *pb.PeerResponse, 1)
	known, i := uint64(1), 0
	for b.Loop() {
		i++
		if load == "nothing" {
			<-time.After(time.Millisecond)
			continue
		}
		held = append(held, e.cut(i*7919%n, 1+i/n, shard.RangeID(n+2+i)))
		if load == "everything" && i%100 == 1 {
			known = 0
			if err := e.m.SnapshotTo(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
		e.m.Handle(context.Background(), 2, &pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{KnownVersion: known, Differences: true}},
			func(resp *pb.PeerResponse) { answers <- resp })
		known = (<-answers).Descriptors.Version
	}
	stop.Store(true)
	if took := <-answered; len(took) > 0 {
		quantile(b, took, 0.5, "ns-answer-p50")
		quantile(b, took, 0.999, "ns-answer-p99.9")
	}
	if len(held) > 0 {
		quantile(b, held, 0.5, "ns-locked-p50")
		quantile(b, held, 0.99, "ns-locked-p99")
	}
}
