package bench

import (
	"fmt"
	"io"
	"strings"
)

// WriteGo writes a result in Go's benchmark format, for benchstat: the system is a line of
// configuration (benchstat -col target), so that the names of both are the same. Runs that are not
// good are no benchmark lines.
func (f *File) WriteGo(w io.Writer) error {
	out := &sticky{w: w}
	out.printf("goos: %s\ngoarch: %s\npkg: pontoon/bench\n", f.Machine.OS, f.Machine.Arch)
	if f.Machine.CPU != "" {
		out.printf("cpu: %s\n", f.Machine.CPU)
	}
	for _, r := range f.Runs {
		name := "Benchmark" + f.Name
		if !r.Good {
			out.printf("--- FAIL: %s target=%s: %s\n", name, r.System.Who(), strings.Join(r.Problems, "; "))
			continue
		}
		out.printf("target: %s\nversion: %s\n", r.System.Who(), r.System.Version)
		if r.System.Nodes > 0 {
			out.printf("nodes: %d\n", r.System.Nodes)
		}
		if r.System.Ranges > 0 {
			out.printf("ranges: %d\n", r.System.Ranges)
		} else {
			out.printf("ranges:\n") // unset again
		}
		if r.System.CPUs > 0 {
			out.printf("server-cpus: %g\n", r.System.CPUs)
		}
		if r.System.Writes > 0 {
			out.printf("server-writes: %d\n", r.System.Writes)
		}
		if r.System.TLS {
			out.printf("tls: true\n")
		}
		if r.System.Permissions > 0 {
			out.printf("permissions: %d\n", r.System.Permissions)
		}
		out.printf("%s-%d\t%d\t%.0f ns/op", name, max(f.Machine.Cores, 1), r.Operations, float64(r.Elapsed)/float64(r.Operations))
		for _, fig := range r.All() {
			out.printf("\t%s %s", number(fig.Value), strings.ReplaceAll(fig.Name, " ", "-"))
		}
		out.printf("\n")
	}
	return out.err
}

// number writes a figure with the digits that mean something.
func number(v float64) string {
	switch {
	case v >= 1000 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.4g", v)
}

// sticky writes until an error and keeps that.
type sticky struct {
	w   io.Writer
	err error
}

func (s *sticky) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, args...)
	}
}
