package bench

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"pontoon/bench/load"
	"pontoon/bench/machine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// attempt runs a workload against a fake: afterPrepare may break it.
func attempt(t *testing.T, s Spec, f *fake, afterPrepare func(*fake)) (out load.Outcome, problems []string) {
	t.Helper()
	d, _ := Lookup(s.Workload)
	w := d.open(&env{spec: s, kvs: []clientv3.KV{f}})
	if err := w.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if afterPrepare != nil {
		afterPrepare(f)
	}
	out = load.Run(t.Context(), load.Plan{Workers: 4, Operations: 500, Kinds: w.kinds()}, w.do)
	problems, err := w.verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out, problems
}

func small(workload string, change func(*Spec)) Spec {
	d, _ := Lookup(workload)
	s := d.Defaults
	s.KeySpace, s.ValueSize, s.Seed = 200, 32, 7
	change(&s)
	return s
}

var specs = map[string]Spec{
	"put":            small("put", func(*Spec) {}),
	"put one key":    small("put", func(s *Spec) { s.KeySpace = 1 }),
	"put in order":   small("put", func(s *Spec) { s.Sequential = true }),
	"range":          small("range", func(*Spec) {}),
	"range of 20":    small("range", func(s *Spec) { s.PerRange = 20 }),
	"mixed":          small("mixed", func(*Spec) {}),
	"txn":            small("txn", func(*Spec) {}),
	"txn on one key": small("txn", func(s *Spec) { s.KeySpace = 1 }),
	"list":           small("list", func(*Spec) {}),
	"list paged":     small("list", func(s *Spec) { s.Way = WayPaged; s.Page = 7 }),
	"list counted":   small("list", func(s *Spec) { s.Way = WayCount }),
	"list streamed":  small("list", func(s *Spec) { s.Way = WayStream }),
}

func TestWorkloadsOfAGoodStore(t *testing.T) {
	for name, s := range specs {
		t.Run(name, func(t *testing.T) {
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			out, problems := attempt(t, s, newFake(), nil)
			if out.Done != 500 || out.Failed != 0 || len(problems) > 0 {
				t.Errorf("%d done, errors %v, problems %v", out.Done, out.Errors, problems)
			}
		})
	}
}

// What a bad store does must be noticed: by an operation that fails, or afterwards.
func TestWorkloadsNoticeABadStore(t *testing.T) {
	faults := map[string]struct {
		set  func(*fake)
		want string
		on   []string
	}{
		"a put is lost":        {func(f *fake) { f.losesPut = true }, "", []string{"put", "put in order", "mixed", "txn"}},
		"a put happens twice":  {func(f *fake) { f.appliesTwice = true }, "has version", []string{"put", "put one key", "txn", "mixed"}},
		"a key is gone":        {func(f *fake) { f.forgetsKey = true }, "", []string{"put", "put in order", "mixed", "txn"}},
		"values are mixed up":  {func(f *fake) { f.mixesUpValues = true }, "", []string{"put", "mixed", "txn"}},
		"reads are stale":      {func(f *fake) { f.readsStale = true }, "was acknowledged", []string{"mixed"}},
		"an answer is cut":     {func(f *fake) { f.cutsAnswers = true }, "", []string{"range", "range of 20", "list", "list paged", "list counted", "list streamed"}},
		"answers out of order": {func(f *fake) { f.reorders = true }, "", []string{"range of 20", "list", "list paged", "list streamed"}},
	}
	for name, fault := range faults {
		for _, on := range fault.on {
			t.Run(name+"/"+on, func(t *testing.T) {
				out, problems := attempt(t, specs[on], newFake(), fault.set)
				if out.Failed == 0 && len(problems) == 0 {
					t.Fatal("nothing was noticed")
				}
				all := strings.Join(problems, "\n")
				for msg := range out.Errors {
					all += "\n" + msg
				}
				if !strings.Contains(all, fault.want) {
					t.Errorf("noticed, but not because %q: %s", fault.want, all)
				}
			})
		}
	}
}

func TestKeys(t *testing.T) {
	k := keysOf(small("put", func(s *Spec) { s.Prefix = "p/"; s.KeySize = 5 }))
	if k.at(42) != "p/00042" || k.end(42) != "p/00042\x00" {
		t.Errorf("%q, %q", k.at(42), k.end(42))
	}
	for i := range 200 {
		if got, ok := k.index([]byte(k.at(i))); !ok || got != i {
			t.Fatalf("index of %q is %d, %v", k.at(i), got, ok)
		}
	}
	for _, no := range []string{"", "p/", "p/00200", "p/0042", "q/00042", "p/-0042", "p/000042", "p/0004x"} {
		if i, ok := k.index([]byte(no)); ok {
			t.Errorf("%q has index %d", no, i)
		}
	}
	if got := k.splits(4); !reflect.DeepEqual(got, []string{"p/00050", "p/00100", "p/00150"}) {
		t.Errorf("%q", got)
	}
	if got := keysOf(small("put", func(s *Spec) { s.KeySpace = 1 })).splits(16); len(got) != 0 {
		t.Errorf("one key was cut at %q", got)
	}
	hits := map[int]int{}
	for seq := range int64(20_000) {
		i := k.pick(seq)
		if i != k.pick(seq) || i < 0 || i >= 200 {
			t.Fatalf("operation %d is about key %d", seq, i)
		}
		hits[i]++
	}
	for i := range 200 {
		if hits[i] < 50 || hits[i] > 200 {
			t.Errorf("key %d was drawn %d times of 20000", i, hits[i])
		}
	}
	other := k
	other.seed++
	same := 0
	for seq := range int64(1000) {
		if k.pick(seq) == other.pick(seq) {
			same++
		}
	}
	if same > 50 {
		t.Errorf("another seed draws the same key %d times of 1000", same)
	}
}

func TestValues(t *testing.T) {
	for _, size := range []int{8, 9, 256, 4096} {
		v := newValues(Spec{ValueSize: size, Seed: 3})
		for _, op := range []uint64{0, 1, 77, preparedBit | 5} {
			value := v.of(op)
			if got, err := v.writer([]byte(value)); len(value) != size || err != nil || got != op {
				t.Errorf("size %d: %d bytes, written by %d, %v", size, len(value), got, err)
			}
			broken := []byte(value)
			broken[size-1] ^= 1
			if got, err := v.writer(broken); err == nil && got == op {
				t.Errorf("size %d: a broken value was taken", size)
			}
		}
		if _, err := v.writer(make([]byte, size+1)); err == nil {
			t.Error("a longer value was taken")
		}
	}
}

func TestValidate(t *testing.T) {
	for _, d := range Workloads() {
		if err := d.Defaults.Validate(); err != nil {
			t.Errorf("the defaults of %s: %v", d.Name, err)
		}
		if len(d.Brief) == 0 {
			t.Errorf("--check leaves out %s", d.Name)
		}
		for _, s := range d.Brief {
			if err := s.Validate(); err != nil {
				t.Errorf("a short form of %s: %v", d.Name, err)
			}
		}
	}
	for want, change := range map[string]func(*Spec){
		"no workload":                  func(s *Spec) { s.Workload = "sleep" },
		"--clients":                    func(s *Spec) { s.Clients = 0 },
		"--conns must not exceed":      func(s *Spec) { s.Clients, s.Conns = 2, 3 },
		"--rate":                       func(s *Spec) { s.Rate = -1 },
		"--duration and --total":       func(s *Spec) { s.Operations = 0 },
		"200 keys need 3":              func(s *Spec) { s.KeySize = 2 },
		"--val-size":                   func(s *Spec) { s.ValueSize = 7 },
		"--key-space-size must be":     func(s *Spec) { s.KeySpace = 0 },
		"times must not be negative":   func(s *Spec) { s.WarmUp = -time.Second },
		"--total must not be negative": func(s *Spec) { s.Operations = -1 },
	} {
		s := small("put", change)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

func TestQuoted(t *testing.T) {
	if got := quoted([]string{"a/1", "b,\xff"}); got[0] != "a/1" || got[1] != `b\x2c\xff` {
		t.Errorf("%q", got)
	}
}

func goodRun(kind string, pair int, rate float64) Run {
	return Run{
		Target: kind, Pair: pair, System: SystemInfo{Kind: kind, Version: "1", Nodes: 3}, Elapsed: time.Second,
		Operations: int64(rate), Rate: rate, Good: true,
		Latency: load.Summary{Count: int64(rate), P50: 100, P99: 200, P999: 300},
		Servers: &Consumption{CPUSeconds: 1, CPUPerOp: 10, WrittenPerOp: 500, PeakResident: 1 << 20},
		Figures: map[string]float64{"objects/s": 5},
	}
}

func TestRatios(t *testing.T) {
	bad := goodRun("pontoon", 2, 9000)
	bad.Good = false
	runs := []Run{
		goodRun("pontoon", 0, 300), goodRun("etcd", 0, 100),
		goodRun("pontoon", 1, 200), goodRun("etcd", 1, 100),
		bad, goodRun("etcd", 2, 100),
		goodRun("pontoon", 3, 50), // without its other half
	}
	got := Ratios(runs)
	byName := map[string]Ratio{}
	for _, r := range got {
		byName[r.Figure] = r
	}
	ops := byName["ops/s"]
	if !reflect.DeepEqual(ops.Pairs, []float64{3, 2}) || ops.Min != 2 || ops.Max != 3 || ops.Median < 2.4 || ops.Median > 2.5 || !ops.Higher {
		t.Errorf("%+v", ops)
	}
	if r := byName["p99-µs"]; r.Median != 1 || r.Higher {
		t.Errorf("%+v", r)
	}
	if r := byName["objects/s"]; !r.Higher {
		t.Errorf("%+v", r)
	}
	if _, there := byName["peak-anon-B"]; there {
		t.Error("a figure that is zero has a ratio")
	}
	if m := Median([]float64{5, 1, 3}); m != 3 {
		t.Errorf("the median is %v", m)
	}
}

func TestFileRoundTrip(t *testing.T) {
	f := &File{
		Format: Format, Made: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: machine.Machine{OS: "linux", Cores: 2},
		Spec: small("put", func(*Spec) {}), Name: "x", Good: true, Runs: []Run{goodRun("pontoon", 0, 300), goodRun("etcd", 0, 100)},
	}
	f.Ratios = Ratios(f.Runs)
	path := filepath.Join(t.TempDir(), f.FileName())
	if filepath.Base(path) != "put-pontoon-vs-etcd-20260102-030405.000.json" {
		t.Error(path)
	}
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("%+v, %v, want %+v", got, err, f)
	}
	for name, content := range map[string]string{"no JSON": "hello", "another format": `{"format": 99}`} {
		p := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(p); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if err := f.Save(filepath.Join(t.TempDir(), "no", "dir")); err == nil {
		t.Error("saved where there is no directory")
	}
}

func TestGoFormat(t *testing.T) {
	bad := goodRun("etcd", 0, 100)
	bad.Good, bad.Problems = false, []string{"3 operations failed: boom"}
	ours := goodRun("pontoon", 0, 2000)
	ours.System.Ranges = 16
	f := &File{Machine: machine.Machine{OS: "linux", Arch: "amd64", CPU: "Z80", Cores: 2}, Spec: small("put", func(*Spec) {}), Runs: []Run{ours, bad}}
	f.Name = f.Spec.Name()
	var b strings.Builder
	if err := f.WriteGo(&b); err != nil {
		t.Fatal(err)
	}
	want := `goos: linux
goarch: amd64
pkg: pontoon/bench
cpu: Z80
target: pontoon
version: 1
nodes: 3
ranges: 16
BenchmarkPut/clients=1/conns=1/key-size=8/val-size=32/key-space-size=200-2	2000	500000 ns/op	2000 ops/s	100.0 p50-µs	200.0 p99-µs	300.0 p999-µs	10.0 server-cpu-µs/op	500.0 disk-B/op	1048576 peak-rss-B	0 peak-anon-B	5 objects/s
--- FAIL: BenchmarkPut/clients=1/conns=1/key-size=8/val-size=32/key-space-size=200 target=etcd: 3 operations failed: boom
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestARunThatWentWrongIsNotGood(t *testing.T) {
	d, _ := Lookup("put")
	for want, out := range map[string]load.Outcome{
		"2 operations failed: boom": {Done: 5, Failed: 2, Errors: map[string]int64{"boom": 2}, Elapsed: time.Second},
		"9 operations failed: b (4 times); a (2 times); c (2 times); and 1 more": {
			Done: 5, Failed: 9, Errors: map[string]int64{"a": 2, "b": 4, "c": 2, "d": 1}, Elapsed: time.Second,
		},
		"the rate was not held":  {Done: 5, Unstarted: 7, Elapsed: time.Second},
		"no operation succeeded": {Elapsed: time.Second},
	} {
		s := small("put", func(*Spec) {})
		m := &measurement{Config: Config{Spec: s}, run: &Run{}, work: d.open(&env{spec: s})}
		m.take(out)
		if len(m.run.Problems) == 0 || !strings.Contains(m.run.Problems[0], want) {
			t.Errorf("want %q, got %q", want, m.run.Problems)
		}
	}
}

// ramp is a workload whose measured part is two rows of operations.
type ramp struct {
	base
	rows int
}

func (*ramp) kinds() []string                             { return []string{"x"} }
func (*ramp) prepare(context.Context) error               { return nil }
func (*ramp) do(context.Context, int, int64) (int, error) { return 0, nil }
func (*ramp) verify(context.Context) ([]string, error)    { return nil, nil }

func (w *ramp) report(r *Run) {
	r.figure("most-rows", float64(w.rows))
	r.Series = append(r.Series, Series{Name: "rows", X: "s", Y: "1", Points: [][2]float64{{r.Elapsed.Seconds(), 2}}})
}

func (w *ramp) run(ctx context.Context, plan load.Plan) load.Outcome {
	for range 2 {
		plan.Operations = 10
		w.rows++
		load.Run(ctx, plan, w.do)
	}
	return load.Outcome{Done: 20, Elapsed: time.Second}
}

func TestAWorkloadMayRunItself(t *testing.T) {
	s := small("put", func(*Spec) {})
	w := &ramp{base: newBase(&env{spec: s})}
	m := &measurement{Config: Config{Spec: s, Setup: Setup{}}, run: &Run{}, work: w, sys: &system{target: Target{Kind: TargetEndpoints}}}
	if err := m.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := m.run; !r.Good || r.Operations != 20 || r.Figures["most-rows"] != 2 || len(r.Series) != 1 || r.Series[0].Points[0][0] != 1 {
		t.Errorf("%+v", r)
	}
	if !higherIsBetter("most-rows") || !higherIsBetter("events/s") || !higherIsBetter("events/cpu-s") || higherIsBetter("B/watcher") {
		t.Error("which way is better?")
	}
}

func TestSetupOfAWorkload(t *testing.T) {
	c := Config{Spec: small("put", func(*Spec) {}), Setup: Setup{Ranges: 2, Args: []string{"--x"}}}
	own := Definition{
		splits: func(_ Spec, n int) []string { return []string{strings.Repeat("s", n)} },
		args:   func(_ Spec, kind string) []string { return []string{"--for=" + kind} },
	}
	if s := c.setupFor(own, TargetPontoon); !reflect.DeepEqual(s.splits, []string{"ss"}) || !reflect.DeepEqual(s.Args, []string{"--for=pontoon", "--x"}) {
		t.Errorf("%+v", s)
	}
	if s := c.setupFor(own, TargetEtcd); s.splits != nil || !reflect.DeepEqual(s.Args, []string{"--for=etcd", "--x"}) {
		t.Errorf("%+v", s)
	}
	if s := c.setupFor(Definition{}, TargetPontoon); !reflect.DeepEqual(s.splits, []string{"00000100"}) || !reflect.DeepEqual(s.Args, c.Setup.Args) {
		t.Errorf("%+v", s)
	}
}
