package sim

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the seed to begin with; 0: a random one, which is printed")
	stepsFlag = flag.Int("steps", 400, "operations of clients while there are faults")
	seedsFlag = flag.Int("seeds", 1, "how many seeds, one after another")
	duration  = flag.Duration("duration", 0, "go on with further seeds for so long (real time)")
	multiFlag = flag.Bool("multi", true, "transactions and deletions over several ranges")
	calmFlag  = flag.Bool("calm", false, "no faults")
	nodesFlag = flag.Int("nodes", 0, "nodes; 0: by the seed")
	traceFlag = flag.String("trace", "", "write the events of the run to this file")
)

// scratch is where the files of a run go: in memory, if there is such a place.
func scratch(t *testing.T) string {
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "pontoon-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// simulate runs one seed in a bubble of its own.
func simulate(t *testing.T, cfg Config) (stats Stats, err error) {
	cfg.Dir = scratch(t)
	t.Run(fmt.Sprint("seed=", cfg.Seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, cfg.Seed)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		synctest.Test(t, func(t *testing.T) { stats, err = Run(cfg) })
	})
	return stats, err
}

func command(cfg Config) string {
	return fmt.Sprintf("go test ./test/sim -count=1 -run '^TestSim$' -args -seed=%d -steps=%d -multi=%v -calm=%v -nodes=%d",
		cfg.Seed, cfg.Steps, cfg.Multi, cfg.Calm, *nodesFlag)
}

// TestSim runs the seed of the command line, and on as many as it says.
func TestSim(t *testing.T) {
	cfg := Config{Seed: *seedFlag, Steps: *stepsFlag, Multi: *multiFlag, Calm: *calmFlag, Nodes: *nodesFlag}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64N(1 << 32)
	}
	if *traceFlag != "" {
		f, err := os.Create(*traceFlag)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cfg.Trace = f
	}
	var sum Stats
	began, n, failures := time.Now(), 0, 0
	for ; n < *seedsFlag || time.Since(began) < *duration; n++ {
		stats, err := simulate(t, cfg)
		sum.Add(stats)
		if err != nil {
			failures++
			t.Errorf("seed %d: %v\nreplay: %s", cfg.Seed, err, command(cfg))
		}
		cfg.Seed++
	}
	t.Logf("%d seeds from %d, %d failed, %.1fs: %s", n, cfg.Seed-uint64(n), failures, time.Since(began).Seconds(), sum.String())
}

// batch runs some seeds and reports what broke.
func batch(t *testing.T, cfg Config, from, to uint64) {
	var sum Stats
	for cfg.Seed = from; cfg.Seed <= to; cfg.Seed++ {
		stats, err := simulate(t, cfg)
		sum.Add(stats)
		if err != nil {
			t.Errorf("seed %d: %v\nreplay: %s", cfg.Seed, err, command(cfg))
		}
	}
	t.Log(sum.String())
}

// TestCalm: without faults nothing is lost, and no revision is left out.
func TestCalm(t *testing.T) { batch(t, Config{Steps: 300, Multi: true, Calm: true}, 1, 8) }

// TestSeeds is the batch of every day; TestSim and `make sim-long` go on from there.
func TestSeeds(t *testing.T) {
	to := uint64(14)
	if !testing.Short() {
		to = 100
	}
	batch(t, Config{Steps: 500, Multi: true}, 1, to)
}

// TestSameSeedSameRun: a seed decides everything, down to the bytes of every message.
func TestSameSeedSameRun(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector mixes the order of goroutines")
	}
	for seed := range uint64(4) {
		cfg := Config{Seed: 20 + seed, Steps: 300, Multi: true}
		run := func() (Stats, string) {
			var trace bytes.Buffer
			cfg.Trace = &trace
			st, err := simulate(t, cfg)
			if err != nil {
				t.Fatal(err)
			}
			return st, trace.String()
		}
		first, one := run()
		second, two := run()
		if first == second {
			continue
		}
		// A call of the system that takes long lets another goroutine go first, which no seed decides: rarely, where others use the
		// processors. Then a third run is like one of the two.
		differ := fmt.Sprintf("seed %d: two runs differ:\n%v trace %x\n%v trace %x\n%s", cfg.Seed, first.String(), first.Trace, second.String(), second.Trace, parting(one, two))
		t.Log(differ)
		if third, _ := run(); third != first && third != second {
			t.Errorf("three do; %s", differ)
		}
	}
}

// TestMain begins again with a runtime that interrupts no goroutine that runs: in which order they go on no seed decides.
func TestMain(m *testing.M) {
	const off = "asyncpreemptoff=1"
	if set := os.Getenv("GODEBUG"); !strings.Contains(set, off) {
		if exe, err := os.Executable(); err == nil && os.Setenv("GODEBUG", strings.TrimPrefix(set+","+off, ",")) == nil {
			_ = syscall.Exec(exe, os.Args, os.Environ()) // where that is not possible, it goes without
		}
	}
	os.Exit(m.Run())
}

// parting is where two traces begin to differ, with what was before.
func parting(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return fmt.Sprintf("line %d:\n%s\nfirst:  %s\nsecond: %s", i+1, strings.Join(as[max(0, i-8):i], "\n"), as[i], bs[i])
		}
	}
	return "one is the beginning of the other"
}
