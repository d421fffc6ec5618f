// Package mutatetest shows that tests notice the rules that package mutate takes out.
package mutatetest

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

// Mutant is the rule that this process does without; empty: none. Take takes it out, or whoever runs a mutant hands it to mutate.Set.
var Mutant = flag.String("mutant", "", "the rule to take out; needs the build tag mutate")

// Take takes the rule out that this process does without. In every other process it skips.
func Take(t *testing.T) {
	t.Helper()
	if *Mutant == "" {
		t.Skip("started by TestMutants")
	}
	mutate.Set(*Mutant)
}

// Each runs the test binary once for each name, without that rule and with args, and fails for every one that passes.
// A process of its own is needed, because what notices a mutant may be an assertion of the product. It has patience to
// do so. verdict finds in its output what is to be logged. Without the build tag, and in such a process, it skips.
func Each(t *testing.T, names []string, patience time.Duration, verdict func(out string) string, args ...string) {
	t.Helper()
	if !mutate.Built || *Mutant != "" {
		t.Skip("needs the build tag mutate: make mutants")
	}
	for _, name := range names {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		out, err := exec.CommandContext(ctx, os.Args[0], append([]string{"-mutant=" + name}, args...)...).CombinedOutput()
		cancel()
		if err == nil {
			t.Errorf("%-44s SURVIVED", name)
			continue
		}
		t.Logf("%-44s %s", name, verdict(string(out)))
	}
}

// Died is the verdict on a process that says nothing of its own: how its output ends.
func Died(out string) string { return "the process died: " + out[max(0, len(out)-200):] }

// NoticedBy is the verdict that names the tests that have failed.
func NoticedBy(out string) string {
	var failed []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "); ok {
			failed = append(failed, strings.Fields(name)[0])
		}
	}
	if len(failed) == 0 {
		return Died(out)
	}
	return strings.Join(failed, " ")
}
