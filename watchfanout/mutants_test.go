package watchfanout

import (
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

// TestMutants: each rule of what a hub does where ranges change that is taken out is noticed, by a scenario or by the
// random test.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.HubNames(), 4*time.Minute, mutatetest.NoticedBy, "-test.run=^(TestHubScenarios|TestRandom|TestCountedOnce|TestDeliveryIsBounded|TestWhoIsFurthestBehind|TestConnectionIsBounded|TestMarkerOfWhatWasGivenUp|TestGivenUpUntilTheReaderComes)$")
}
