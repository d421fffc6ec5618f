package watchfanout

import (
	"strings"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

// TestMutants: each rule of what a hub does where ranges change that is taken out is noticed, by a scenario or by the
// random test.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.HubNames(), 4*time.Minute, noticedBy, "-test.run=^(TestHubScenarios|TestRandom)$")
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
