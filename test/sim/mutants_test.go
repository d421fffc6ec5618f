package sim

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pontoon/internal/mutate"
)

var (
	mutantFlag = flag.String("mutant", "", "the rule to take out; needs the build tag mutate")
	budgetFlag = flag.Duration("budget", 4*time.Minute, "how long seeds are tried on one mutant")
)

// TestMutant tries seeds on one mutant until a check fails, and says which.
func TestMutant(t *testing.T) {
	if *mutantFlag == "" {
		t.Skip("started by TestMutants")
	}
	mutate.Set(*mutantFlag)
	began := time.Now()
	for seed := uint64(1); time.Since(began) < *budgetFlag; seed++ {
		if _, err := simulate(t, Config{Seed: seed, Steps: 800, Multi: true}); err != nil {
			t.Fatalf("caught by seed %d after %.1fs: %v", seed, time.Since(began).Seconds(), err)
		}
	}
	t.Log("survived")
}

// TestMutants: each rule that is taken out is noticed. Each mutant runs in a process of its own, because
// what notices it may be an assertion of the product.
func TestMutants(t *testing.T) {
	if !mutate.Built {
		t.Skip("needs the build tag mutate: make mutants")
	}
	for _, name := range mutate.Names() {
		ctx, cancel := context.WithTimeout(t.Context(), *budgetFlag+time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestMutant$", "-test.v", "-mutant="+name, "-budget="+budgetFlag.String())
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil {
			t.Errorf("%-34s SURVIVED", name)
			continue
		}
		t.Logf("%-34s %s", name, verdict(string(out)))
	}
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
	return "the process died: " + out[max(0, len(out)-200):]
}
