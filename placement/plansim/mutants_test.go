package plansim

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

var mutantFlag = flag.String("mutant", "", "the rule to take out; needs the build tag mutate")

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutantFlag)
	os.Exit(m.Run())
}

// TestMutants: each rule of the planner that is taken out is noticed by one of the tests here.
func TestMutants(t *testing.T) {
	if !mutate.Built || *mutantFlag != "" {
		t.Skip("needs the build tag mutate, and starts the others: make mutants")
	}
	for _, name := range mutate.PlanNames() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.short", "-test.failfast", "-mutant="+name)
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil {
			t.Errorf("%-34s SURVIVED", name)
			continue
		}
		t.Logf("%-34s %s", name, verdict(string(out)))
	}
}

// verdict finds the test that has noticed a mutant, and what it says.
func verdict(out string) string {
	_, rest, found := strings.Cut(out, "--- FAIL: ")
	if !found {
		return "the process died: " + out[max(0, len(out)-200):]
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
