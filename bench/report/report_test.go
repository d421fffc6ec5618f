package report

import (
	"encoding/xml"
	"io"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/bench"
	"pontoon/bench/load"
	"pontoon/bench/machine"
)

func run(kind string, pair int, rate float64) bench.Run {
	r := bench.Run{
		Target: kind, Pair: pair, System: bench.SystemInfo{Kind: kind, Version: "1.2", Nodes: 3, Client: "clientv3"},
		Elapsed: 5 * time.Second, Operations: 1000, Rate: rate, Good: true,
		Latency: load.Summary{Count: 1000, P50: 100, P99: 2000, P999: 3000, Curve: []load.Percentile{{At: 0, Us: 50}, {At: 50, Us: 100}, {At: 99, Us: 2000}, {At: 100, Us: 3000}}},
		Servers: &bench.Consumption{CPUSeconds: 1, CPUPerOp: 10, WrittenPerOp: 500, PeakResident: 1 << 20, PeakAnonymous: 1 << 19},
		Figures: map[string]float64{"events/cpu-s": rate * 7},
		Series:  []bench.Series{{Name: "memory over watchers", X: "watchers", Y: "B", Points: [][2]float64{{10, 1 << 20}, {1000, 1 << 24}}}},
	}
	for i := range 5 {
		r.Points = append(r.Points, load.Point{Second: float64(i + 1), Rate: rate})
		r.Memory = append(r.Memory, machine.Sample{Second: float64(i + 1), Anon: 1 << 20})
	}
	return r
}

func result(name string, runs ...bench.Run) *bench.File {
	f := &bench.File{
		Format: bench.Format, Made: time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC), Version: "v1", Name: name, Runs: runs, Good: true,
		Spec: bench.Spec{Workload: strings.ToLower(strings.Split(name, "/")[0]), Clients: 4, Conns: 2}, Ratios: bench.Ratios(runs),
		Machine: machine.Machine{OS: "linux", CPU: "Z80", Cores: 2, Memory: 1 << 30, FileSystem: "ext4"},
	}
	for _, r := range runs {
		f.Good = f.Good && r.Good
	}
	return f
}

func html(t *testing.T, files ...*bench.File) string {
	t.Helper()
	var b strings.Builder
	if err := HTML(&b, files); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// wellFormed fails if a tag is not closed or closes another.
func wellFormed(t *testing.T, page string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, []string{"meta"}, xml.HTMLEntity
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func pairs(name string) *bench.File {
	return result(name, run("pontoon", 0, 3000), run("etcd", 0, 1000), run("pontoon", 1, 2000), run("etcd", 1, 1000))
}

func TestPageStandsAlone(t *testing.T) {
	page := html(t, pairs("Put/clients=4"), pairs("Txn/clients=4"), pairs("Put/clients=9"))
	wellFormed(t, page)
	if regexp.MustCompile(`(?i)<script|<link|@import|src=|url\(|href="[^#]`).MatchString(page) {
		t.Error("the page needs something from elsewhere")
	}
	for _, want := range []string{
		"Pontoon beside etcd", "2 January 2026, 03:04 UTC", "Z80", "Latency by percentile", "Throughput over time", "memory over watchers",
		"put, 4 clients", "put, 9 clients", "2.45 ×", "events per CPU second",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(page, "txn, 4") {
		t.Error("a label tells what nothing else has otherwise")
	}
	if at := strings.Index(page, `>txn<`); at < strings.Index(page, "put, 9 clients") {
		t.Error("results of one workload do not stand together")
	}
	for _, id := range regexp.MustCompile(`href="#([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if !strings.Contains(page, `id="`+id[1]+`"`) {
			t.Errorf("a link to %s leads nowhere", id[1])
		}
	}
}

func TestWhatIsNotGoodIsNotShown(t *testing.T) {
	bad := run("pontoon", 0, 123456)
	bad.Good, bad.Problems = false, []string{`key "<b>" is gone`}
	for name, write := range map[string]func(io.Writer, []*bench.File) error{"html": HTML, "markdown": Markdown} {
		var b strings.Builder
		if err := write(&b, []*bench.File{result("Put/clients=4", bad, run("etcd", 0, 1000))}); err != nil {
			t.Fatal(err)
		}
		got := b.String()
		if strings.Contains(got, "123k") || strings.Contains(got, "123456") {
			t.Errorf("%s: the figure of a bad run is shown", name)
		}
		if !strings.Contains(got, "is gone") || !strings.Contains(got, "not good") || !strings.Contains(got, "1k") {
			t.Errorf("%s: it does not say what is wrong, or leaves out the good run", name)
		}
		if name == "html" {
			wellFormed(t, got)
			if strings.Contains(got, "<b>\"") || strings.Contains(got, `"<b>"`) {
				t.Error("a message was taken for markup")
			}
		}
	}
}

func TestADisturbedRunSaysSo(t *testing.T) {
	noisy := run("pontoon", 0, 1000)
	noisy.Others = 1.5
	for _, write := range []func(io.Writer, []*bench.File) error{HTML, Markdown} {
		var b strings.Builder
		if err := write(&b, []*bench.File{result("Put/clients=4", noisy), result("Txn/clients=4", run("pontoon", 0, 1))}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "1 of 2 results were disturbed") || !strings.Contains(b.String(), "up to 1.5 of 2 cores") {
			t.Error(b.String())
		}
	}
}

func TestOddResults(t *testing.T) {
	empty := result("List/clients=1")
	zero := run("endpoints", 0, 0)
	zero.Latency, zero.Points, zero.Servers, zero.Figures = load.Summary{}, nil, nil, nil
	zero.Series = []bench.Series{{Name: "nothing", X: "x", Y: "s"}, {Name: "one", X: "x", Y: "s", Points: [][2]float64{{0, 0}}}}
	for _, f := range []*bench.File{empty, result("Range/x=1", zero), result("unheard/of=1", run("pontoon", 0, 1))} {
		page := html(t, f)
		wellFormed(t, page)
		if regexp.MustCompile(`NaN|Inf\b`).MatchString(page) {
			t.Errorf("%s has no numbers where there should be some", f.Name)
		}
	}
	if HTML(io.Discard, nil) == nil || Markdown(io.Discard, nil) == nil {
		t.Error("a report of nothing")
	}
}

func TestScalingOverRanges(t *testing.T) {
	var files []*bench.File
	for _, n := range []int{1, 16, 256} {
		r := run("pontoon", 0, float64(n))
		r.System.Ranges = n
		files = append(files, result("Put/clients=4", r))
	}
	page := html(t, files...)
	wellFormed(t, page)
	if !strings.Contains(page, "Over the number of ranges") || !strings.Contains(page, "put, 256 ranges") {
		t.Error("no charts over ranges, or labels without them")
	}
	if len(scaling(files)) != 3 {
		t.Errorf("%d charts", len(scaling(files)))
	}
	if got := scaling(files[:1]); len(got) != 0 {
		t.Error("a line of one point")
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := Markdown(&b, []*bench.File{pairs("Put/clients=4")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Pontoon beside etcd", "| put | **2.45 ×** ↑ | 1 × |", "events per CPU second **2.45 ×** ↑", "| operations per second | 2.45k | 1k |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		higher      bool
		lo, mid, hi float64
		want        string
	}{
		{true, 1.2, 1.5, 1.6, "better"},
		{true, 0.9, 1.5, 1.6, "even"},
		{true, 1.01, 1.02, 1.03, "even"},
		{true, 0.5, 0.6, 0.9, "worse"},
		{false, 0.5, 0.6, 0.9, "better"},
		{false, 1.1, 1.2, 1.3, "worse"},
		{false, 0.9, 1.2, 1.3, "even"},
	} {
		if got := verdict(bench.Ratio{Pairs: []float64{c.lo, c.hi}, Higher: c.higher, Min: c.lo, Median: c.mid, Max: c.hi}); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestLabels(t *testing.T) {
	var files []*bench.File
	for _, name := range []string{
		"Put/clients=1/conns=1/val-size=256", "Put/clients=256/conns=16/val-size=256", "Put/clients=256/conns=16/rate=1000/val-size=256",
		"Put/clients=256/conns=16/val-size=8", "Put/clients=256/conns=64/val-size=256", "List/way=whole", "List/way=paged/page-size=500", "Txn/clients=2",
	} {
		files = append(files, result(name))
	}
	want := []string{
		"put, 1 client", "put clients=256 conns=16 val-size=256", "put, 256 clients, 1000/s due", "put, 256 clients, 8 B",
		"put clients=256 conns=64 val-size=256", "list, whole", "list, paged", "txn",
	}
	if got := labels(files); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestLabelsTellClientsApart(t *testing.T) {
	plain, shim := result("Put/clients=1", run("pontoon", 0, 1)), result("Put/clients=1", run("pontoon", 0, 1))
	shim.Runs[0].System.Client = "shim"
	if got := labels([]*bench.File{plain, shim}); !slices.Equal(got, []string{"put, by clientv3", "put, by shim"}) {
		t.Errorf("%q", got)
	}
	// All goroutines share one shim: its results have other names, too.
	plain, shim = result("Put/clients=256/conns=16", run("pontoon", 0, 1)), result("Put/clients=256/conns=1", run("pontoon", 0, 1))
	shim.Runs[0].System.Client = "shim"
	if got := labels([]*bench.File{plain, shim}); !slices.Equal(got, []string{"put, by clientv3", "put, by shim"}) {
		t.Errorf("%q", got)
	}
}

func TestWords(t *testing.T) {
	for figure, want := range map[string]string{
		"ops/s": "operations per second", "server-cpu-µs/op": "CPU of the servers per operation", "anon-B/watcher": "anonymous memory per watcher",
		"events/cpu-s": "events per CPU second", "most-nodes": "most nodes", "B/s": "bytes per second", "put-p99-µs": "put p99", "p999-µs": "p99.9",
	} {
		if got := words(figure); got != want {
			t.Errorf("%s: %q, want %q", figure, got, want)
		}
	}
}

func TestOnePairIsNoVerdict(t *testing.T) {
	if got := verdict(bench.Ratio{Pairs: []float64{9}, Higher: true, Min: 9, Median: 9, Max: 9}); got != "even" {
		t.Error(got)
	}
}

func TestMarksEncloseWhatIsShown(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		lo := math.Pow(10, rng.Float64()*14-4)
		hi := lo * (1 + math.Pow(10, rng.Float64()*8-4))
		for name, marks := range map[string][]float64{
			"linear": linearMarks(lo, hi, false), "binary": linearMarks(lo, hi, true), "log": logMarks(lo, hi), "from 0": linearMarks(0, hi, false),
		} {
			if !slices.IsSorted(marks) || len(marks) < 2 || len(marks) > 16 {
				t.Fatalf("%s marks of %g…%g: %v", name, lo, hi, marks)
			}
			if name != "from 0" && marks[0] > lo*(1+1e-6) || marks[len(marks)-1] < hi*(1-1e-6) {
				t.Fatalf("%s marks of %g…%g do not enclose them: %v", name, lo, hi, marks)
			}
		}
	}
	s := scale{log: true, min: 1, max: 100, from: 0, to: 10}
	if s.at(10) != 5 || s.at(1) != 0 || s.at(100) != 10 {
		t.Error("a logarithmic scale is not one")
	}
}

func TestLongLinesAreThinned(t *testing.T) {
	var pts [][2]float64
	for i := range 5000 {
		pts = append(pts, [2]float64{float64(i), 1})
	}
	got := thinned(pts)
	if len(got) != pointsMax || got[0] != pts[0] || got[len(got)-1] != pts[4999] {
		t.Errorf("%d points, %v … %v", len(got), got[0], got[len(got)-1])
	}
}
