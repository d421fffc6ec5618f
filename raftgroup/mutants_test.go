package raftgroup_test

import (
	"flag"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	goleak.VerifyTestMain(m)
}

// TestMutants: each rule of changes of configurations that is taken out is noticed, by a scenario or by the
// simulation of changes.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.GroupNames(), 4*time.Minute, noticedBy, "-test.run=^(TestScenarios|TestChanges)$")
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
		return mutatetest.Died(out)
	}
	return strings.Join(failed, " ")
}
