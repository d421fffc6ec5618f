package plansim

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	os.Exit(m.Run())
}

// TestMutants: each rule of the planner that is taken out is noticed by one of the tests here.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.PlanNames(), 10*time.Minute, verdict, "-test.short", "-test.failfast")
}

// verdict finds the test that has noticed a mutant, and what it says.
func verdict(out string) string {
	_, rest, found := strings.Cut(out, "--- FAIL: ")
	if !found {
		return mutatetest.Died(out)
	}
	var line []string
	for l := range strings.Lines(rest) {
		if l = strings.TrimSpace(l); !strings.Contains(l, "rounds, ") || strings.Contains(l, "FAIL") {
			line = append(line, l)
		}
		if len(line) == 2 {
			break
		}
	}
	s := strings.Join(line, " ")
	return s[:min(len(s), 220)]
}
