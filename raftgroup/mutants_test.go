package raftgroup_test

import (
	"flag"
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
	mutatetest.Each(t, mutate.GroupNames(), 4*time.Minute, mutatetest.NoticedBy, "-test.run=^(TestScenarios|TestChanges)$")
}
