package link

import (
	"flag"
	"os"
	"testing"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	os.Exit(m.Run())
}
