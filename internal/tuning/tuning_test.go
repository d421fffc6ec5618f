package tuning

import (
	"log/slog"
	"os"
	"runtime/debug"
	"testing"
)

// percent is the garbage collector's.
func percent() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}

func TestOnlyWhatIsWantedIsAskedFor(t *testing.T) {
	t.Setenv("GOGC", "") // restored in the end
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	lg := slog.New(slog.DiscardHandler)

	Apply(Config{}, lg)()
	if got := percent(); got != 100 {
		t.Errorf("%d %% without being asked", got)
	}
	undo := Apply(Config{Heap: true}, lg)
	if got := percent(); got == 100 {
		t.Error("the heap grows as before")
	}
	undo()
	if got := percent(); got != 100 {
		t.Errorf("%d %% in the end", got)
	}
}
