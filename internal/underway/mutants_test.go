package underway

import (
	"flag"
	"os"
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

// TestMutants: each rule by which lists are let in that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.ListsNames(), time.Minute, mutatetest.NoticedBy, "-test.run=^TestLists")
}
