package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pontoon/bench"
	"pontoon/bench/load"
)

// call runs the program as its user would.
func call(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{out: &o, err: &e}
	code = a.run(t.Context(), args)
	return code, o.String(), e.String()
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"sleep"},
		{"put", "x"},
		{"put", "--no-such-flag"},
		{"put", "--clients", "0"},
		{"put", "--read-share", "1"}, // a flag of another workload
		{"put", "--nodes", "0"},
		{"put", "--nodes", "16"},
		{"put", "--server-writes", "-2"},
		{"put", "--server-writes", "5", "--target", "endpoints=127.0.0.1:1"},
		{"put", "--tls", "--target", "endpoints=127.0.0.1:1"},
		{"put", "--permissions", "5", "--target", "endpoints=127.0.0.1:1"},
		{"put", "--permissions", "-1", "--pontoon-binary", "true"},
		{"put", "--permissions", "10001", "--pontoon-binary", "true"},
		{"put", "--permissions", "5", "--client", "shim", "--pontoon-binary", "true"},
		{"slow-disk", "--readers", "72", "--target", "endpoints=127.0.0.1:1"},
		{"scale-out", "--over", "3"},
		{"scale-out", "--over", "9,3"},
		{"scale-out", "--out", "x.json"},
		{"scale-out", "--only", "nothing"},
		{"put", "--ranges", "0"},
		{"put", "--ranges", "1,0"},
		{"put", "--ranges", "1,2", "--out", "x.json", "--target", "endpoints=127.0.0.1:1"},
		{"put", "--client", "curl"},
		{"put", "--target", "zookeeper"},
		{"put", "--vs", "zookeeper"},
		{"put", "--pontoon-binary", "/nowhere/node"},
		{"put", "--target", "pontoon=/nowhere/node"},
		{"put", "--target", "pontoon="},
		{"put", "--server-cpus", "-1"},
		{"put", "--server-cpus", "0.001"},
		{"put", "--server-cpus", "0.5", "--target", "endpoints=127.0.0.1:1"},
		{"range", "--consistency", "x", "--target", "endpoints=127.0.0.1:1"},
		{"list", "--way", "x", "--target", "endpoints=127.0.0.1:1"},
		{"standard", "sleep"},
		{"report"},
		{"programs", "/nowhere/old", "/nowhere/new"},
		{"programs", "one"},
		{"programs", "a", "b", "--out", "x.json"},
		{"programs", "a", "b", "--only", "lease"},
		{"list-herd", "--gateways", "1", "--target", "endpoints=http://127.0.0.1:1"},
		{"list-herd", "--mirrored", "--target", "endpoints=http://127.0.0.1:1"},
		{"list-herd", "--gateways", "1", "--server-cpus", "0.5"},
		{"report", "/nowhere.json"},
		{"compare", "one"},
		{"compare", "a", "b", "--threshold", "-1"},
	} {
		if code, _, err := call(t, args...); code != exitUsage || !strings.HasPrefix(err, "Error: ") {
			t.Errorf("%q: exit code %d, %s", args, code, err)
		}
	}
}

func TestHelpNamesEveryWorkload(t *testing.T) {
	code, out, _ := call(t, "help")
	for _, d := range bench.Workloads() {
		if !strings.Contains(out, "  "+d.Name+" ") {
			t.Errorf("%s is missing", d.Name)
		}
		c, text, _ := call(t, d.Name, "--help")
		for _, o := range d.Options {
			if c != 0 || !strings.Contains(text, "--"+o.Name+" ") && !strings.Contains(text, "--"+o.Name+"\n") {
				t.Errorf("the help of %s does not name --%s", d.Name, o.Name)
			}
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestStandardSetIsSound(t *testing.T) {
	specs, err := standardSet(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range specs {
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", s.Name(), err)
		}
		path := (&flags{client: clientPlain, ranges: []int{rangesUsual}}).stableName(s)
		if seen[path] || len(path) > 200 || strings.ContainsAny(path, "/ ") {
			t.Errorf("%s is the file of another result, too, or no good name", path)
		}
		seen[path] = true
	}
	shim := &flags{client: clientShim, ranges: []int{1000}}
	if path := shim.stableName(specs[0]); seen[path] || !strings.HasSuffix(path, "_client=shim_ranges=1000.json") {
		t.Errorf("%s is the file of the usual result", path)
	}
	if short, _ := standardSet([]string{"put"}, time.Second); len(short) < 3 || short[0].Duration != time.Second {
		t.Errorf("%d specs", len(short))
	}
}

func save(t *testing.T, dir, name string, rate float64, good bool) string {
	t.Helper()
	d, _ := bench.Lookup("put")
	f := &bench.File{
		Format: bench.Format, Name: d.Defaults.Name(), Spec: d.Defaults, Good: good, Made: time.Now(),
		Runs: []bench.Run{{
			Target: "pontoon", System: bench.SystemInfo{Kind: "pontoon"}, Operations: 100, Rate: rate, Good: good, Elapsed: time.Second,
			Latency: load.Summary{Count: 100, P50: 10, P99: 20, P999: 30},
		}},
	}
	if !good {
		f.Runs[0].Problems = []string{"a put was lost"}
	}
	path := filepath.Join(dir, name)
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, "a.json", 1000, true)
	page := filepath.Join(dir, "x.html")
	if code, _, err := call(t, "report", "-o", page, dir); code != 0 || !strings.Contains(err, page) {
		t.Errorf("exit code %d, %s", code, err)
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.HasPrefix(b, []byte("<!DOCTYPE html>")) {
		t.Errorf("%.50s, %v", b, err)
	}
	if code, out, _ := call(t, "report", "-o", "-", dir); code != 0 || !strings.HasPrefix(out, "<!DOCTYPE html>") {
		t.Errorf("exit code %d, %.50s", code, out)
	}
	if code, _, _ := call(t, "report", "-o", page, t.TempDir()); code != exitFailed {
		t.Errorf("a report of an empty directory: exit code %d", code)
	}
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	old := save(t, dir, "old.json", 1000, true)
	slower := save(t, dir, "slower.json", 500, true)
	bad := save(t, dir, "bad.json", 5000, false)
	for _, c := range []struct {
		now  string
		args []string
		code int
		want string
	}{
		{old, nil, 0, "0 got worse"},
		{old, []string{"--all"}, 0, "the same"},
		{slower, nil, exitWorse, "WORSE by 100 %"},
		{slower, []string{"--threshold", "150"}, 0, "0 got worse by more than 150 %"},
		{bad, nil, exitNotGood, "not good in the new results: Put"},
	} {
		code, out, err := call(t, append([]string{"compare", old, c.now}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s %q: exit code %d, %s%s", filepath.Base(c.now), c.args, code, out, err)
		}
	}
}

func TestAnUnreachableTargetIsAnError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var o, e bytes.Buffer
	a := &app{out: &o, err: &e}
	code := a.run(ctx, []string{"put", "--target", "endpoints=127.0.0.1:1", "--out", t.TempDir(), "-q"})
	if code != exitFailed || !strings.Contains(e.String(), "does not serve") {
		t.Errorf("exit code %d, %s", code, e.String())
	}
}

func TestPrintingABadRunShowsNoFigures(t *testing.T) {
	f, err := bench.Load(save(t, t.TempDir(), "bad.json", 123456, false))
	if err != nil {
		t.Fatal(err)
	}
	var o bytes.Buffer
	a := &app{out: &o}
	if err := a.print(f); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(o.String(), "NOT GOOD") || !strings.Contains(o.String(), "a put was lost") || strings.Contains(o.String(), "123456") {
		t.Error(o.String())
	}
}

func TestProgressLines(t *testing.T) {
	var o bytes.Buffer
	p := newProgress(&o, false)
	p.show(bench.Progress{Target: "etcd", Phase: "measuring"})
	for i := range 11 {
		p.show(bench.Progress{Target: "etcd", Point: &load.Point{Second: float64(i), Rate: 5, P50: 1, P99: 2, Failed: 3}, Of: 10 * time.Second})
	}
	p.end()
	if n := strings.Count(o.String(), "\n"); n != 3 || !strings.Contains(o.String(), "FAILED: 3") {
		t.Errorf("%d lines: %s", n, o.String())
	}
	o.Reset()
	p = newProgress(&o, true)
	p.show(bench.Progress{Target: "etcd", Phase: "measuring"})
	p.show(bench.Progress{Target: "etcd", Point: &load.Point{Second: 1}})
	p.end()
	if strings.Contains(o.String(), "\n") || strings.Count(o.String(), "\r\x1b[K") != 3 {
		t.Errorf("%q", o.String())
	}
}
