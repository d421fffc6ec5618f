package pontoon

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// tunes tells whether a package may look at processors and load: internal/tuning, and what measures from outside.
func tunes(pkg string) bool {
	return strings.HasPrefix(pkg+"/", "internal/tuning/") || strings.HasPrefix(pkg+"/", "bench/") || strings.HasPrefix(pkg+"/", "test/")
}

// Whoever looks at the machine elsewhere overlooks a container's limit. runtime.GOMAXPROCS follows that, and may size
// a pool of workers anywhere.
func TestProcessorsAndLoadAreReadInOnePlace(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || tunes(s.pkg) {
			continue
		}
		if slices.Contains(s.imports(), "runtime/metrics") {
			t.Errorf("%s imports runtime/metrics: the load is read below internal/tuning alone", s.name)
		}
		for _, at := range s.calls("runtime", "NumCPU") {
			t.Errorf("%s: runtime.NumCPU is the machine's, whatever the node may use of it", at)
		}
		for _, file := range []string{"/proc/stat", "/proc/loadavg", "/sys/fs/cgroup"} {
			if bytes.Contains(s.text, []byte(`"`+file)) {
				t.Errorf("%s reads %s: the load is read below internal/tuning alone", s.name, file)
			}
		}
	}
}

// A process that puts another in its place surprises whoever supervises it: the operator's flag for that is all.
func TestOnlyTuningExecutes(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.pkg == "internal/tuning" {
			continue
		}
		for _, pkg := range []string{"syscall", "unix"} {
			for _, at := range s.calls(pkg, "Exec") {
				t.Errorf("%s: %s.Exec", at, pkg)
			}
		}
	}
}
