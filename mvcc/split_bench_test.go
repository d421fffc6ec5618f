package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pontoon/shard"
)

const splitBenchVersions, splitBenchBudget = 1_000_000, 2000

// BenchmarkSplit cuts a store of a million versions of 256 bytes in the middle, as a node does: in steps, with 4 MiB
// written between the copy and the cut. Run it with -benchtime=1x.
func BenchmarkSplit(b *testing.B) {
	for range b.N {
		s := loadForSplit(b)
		index, rev := s.Position().Index, s.LastRevision()
		put := func(i int) error {
			index, rev = index+1, rev+1
			m := Mutation{Key: fmt.Appendf(nil, "%08d", i), Value: make([]byte, 256), Rev: Rev{rev, 0}}
			_, err := s.Apply(Change{Pos: Position{index, 6}, Muts: []Mutation{m}})
			return err
		}
		at := fmt.Appendf(nil, "%08d", splitBenchVersions/2)
		path := filepath.Join(b.TempDir(), "child")
		sp, err := BeginSplit(s, at, 8, path+".new")
		if err != nil {
			b.Fatal(err)
		}
		copied := stopwatch(b, "copy", func() (bool, error) { return sp.Step(splitBenchBudget, true) })
		for i := splitBenchVersions / 2; err == nil && sp.Left() < copyRest-1000; i += 7 {
			err = put(i)
		}
		finished := stopwatch(b, "finish", func() (bool, error) {
			return false, errors.Join(err, sp.Finish(path, Position{11, 5}, []StateUpdate{{"desc", []byte("right")}}))
		})
		cut := &Cut{Span: shard.Span{End: at}, Keys: sp.Keys()}
		flushed := stopwatch(b, "flush", func() (bool, error) {
			_, err := s.Apply(Change{Pos: Position{index + 1, 6}, State: []StateUpdate{{"desc", []byte("left")}}, Cut: cut})
			return false, errors.Join(err, s.Maintenance().Flush())
		})
		trimmed := stopwatch(b, "trim", func() (bool, error) { return s.Maintenance().Maintain(splitBenchBudget) })
		if s.Maintenance().TrimPending() {
			b.Fatal("not trimmed")
		}
		child, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		st := s.Stats()
		b.Logf("file %d MiB, in use after %d; child %d MiB; %v; %v; %v; %v",
			st.FileBytes>>20, st.InUseBytes>>20, child.Size()>>20, copied, finished, flushed, trimmed)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// stopwatch calls step until there is no more, and tells what that took.
func stopwatch(b *testing.B, name string, step func() (more bool, err error)) string {
	began, cpu, longest, steps := time.Now(), cpuTime(), time.Duration(0), 0
	for more := true; more; steps++ {
		var err error
		at := time.Now()
		if more, err = step(); err != nil {
			b.Fatal(err)
		}
		longest = max(longest, time.Since(at))
	}
	took := time.Since(began)
	b.ReportMetric(took.Seconds(), name+"-s")
	b.ReportMetric(longest.Seconds()*1000, name+"-step-ms")
	return fmt.Sprintf("%s %v, %v of a processor, %d steps, longest %v", name, took.Round(time.Millisecond), (cpuTime() - cpu).Round(time.Millisecond), steps, longest.Round(time.Millisecond))
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loadForSplit makes a store with a version for each key, settled and compacted but for the last of them.
func loadForSplit(b *testing.B) *Store {
	o := Options{Path: filepath.Join(b.TempDir(), "db"), RangeID: 7, NoSync: true}
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte("v"), 256)
	c := Change{Pos: Position{Term: 6}}
	for i, key := range rand.New(rand.NewPCG(1, 2)).Perm(splitBenchVersions) {
		c.Muts = append(c.Muts, Mutation{Key: fmt.Appendf(nil, "%08d", key), Value: value, Rev: Rev{int64(i + 1), 0}})
		if i%20_000 != 19_999 {
			continue
		}
		if c.Pos.Index, c.CompactTo = uint64(i+1), max(0, int64(i)-50_000); err == nil {
			_, err = s.Apply(c)
			c.Muts = nil
			err = errors.Join(err, s.SettleNow())
		}
	}
	if err := errors.Join(err, s.Close()); err != nil {
		b.Fatal(err)
	}
	o.NoSync = false
	if s, err = Open(o); err != nil {
		b.Fatal(err)
	}
	for more := true; more && err == nil; {
		more, err = s.Maintenance().Scrub()
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}
