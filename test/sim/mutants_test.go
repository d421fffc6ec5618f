package sim

import (
	"flag"
	"strings"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

var budgetFlag = flag.Duration("budget", 4*time.Minute, "how long seeds are tried on one mutant")

// TestMutant tries seeds on one mutant until a check fails, and says which.
func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	began := time.Now()
	for seed := uint64(1); time.Since(began) < *budgetFlag; seed++ {
		if _, err := simulate(t, Config{Seed: seed, Steps: 800, Multi: true}); err != nil {
			t.Fatalf("caught by seed %d after %.1fs: %v", seed, time.Since(began).Seconds(), err)
		}
	}
	t.Log("survived")
}

// TestMutants: each rule that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.Names(), *budgetFlag+time.Minute, verdict, "-test.run=^TestMutant$", "-test.v", "-budget="+budgetFlag.String())
}

// verdict finds the line that says what has noticed a mutant.
func verdict(out string) string {
	for line := range strings.Lines(out) {
		for _, mark := range []string{"caught by ", "panic: "} {
			if i := strings.Index(line, mark); i >= 0 {
				return strings.TrimSpace(line[i:])[:min(220, len(strings.TrimSpace(line[i:])))]
			}
		}
	}
	return mutatetest.Died(out)
}
