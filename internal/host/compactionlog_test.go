package host

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// A compaction that reaches some ranges later than others is told of when the last has done it, though no step of maintenance follows: a range with nothing
// to delete does none.
func TestACompactionIsToldOfOnceTheLastRangeHasIt(t *testing.T) {
	var out bytes.Buffer
	c := newCompactionLog(slog.New(slog.NewTextHandler(&out, nil)))
	var pauses []time.Duration
	var due func()
	c.after = func(d time.Duration, f func()) { pauses, due = append(pauses, d), f }
	run := func() {
		f := due
		due = nil
		f()
	}
	revs, pending := []int64{5, 0}, false
	all := func(visit func(int64, bool)) {
		for _, rev := range revs {
			visit(rev, pending)
		}
	}
	c.stepped(all)
	c.stepped(all) // the look that is due will do
	if len(pauses) != 1 {
		t.Fatalf("%d looks after two steps", len(pauses))
	}
	run()
	run()
	if out.Len() > 0 || due == nil {
		t.Fatalf("told %q, and the next look is due: %v, while a range has not heard of it", out.String(), due != nil)
	}
	revs, pending = []int64{5, 5}, true
	run()
	if out.Len() > 0 || due == nil {
		t.Fatalf("told %q, and the next look is due: %v, while something is still in a file", out.String(), due != nil)
	}
	pending = false
	run()
	if !strings.Contains(out.String(), "compact-revision=5") || due != nil {
		t.Fatalf("told %q, and the next look is due: %v, after its end", out.String(), due != nil)
	}
	if want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}; !slices.Equal(pauses, want) {
		t.Fatalf("pauses %v, not %v", pauses, want)
	}
}
