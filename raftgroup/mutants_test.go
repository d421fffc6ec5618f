package raftgroup_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pontoon/internal/mutate"
)

var mutantFlag = flag.String("mutant", "", "the rule to take out; needs the build tag mutate")

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutantFlag)
	goleak.VerifyTestMain(m)
}

// TestMutants: each rule of changes of configurations that is taken out is noticed, by a scenario or by the
// simulation of changes. Each mutant runs in a process of its own.
func TestMutants(t *testing.T) {
	if !mutate.Built || *mutantFlag != "" {
		t.Skip("needs the build tag mutate: make mutants")
	}
	for _, name := range mutate.GroupNames() {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^(TestScenarios|TestChanges)$", "-mutant="+name)
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil {
			t.Errorf("%-44s SURVIVED", name)
			continue
		}
		t.Logf("%-44s %s", name, noticedBy(string(out)))
	}
}

// noticedBy names the tests that have failed.
func noticedBy(out string) string {
	var failed []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "); ok {
			failed = append(failed, strings.Fields(name)[0])
		}
	}
	if len(failed) == 0 {
		return "the process died: " + out[max(0, len(out)-200):]
	}
	return strings.Join(failed, " ")
}
