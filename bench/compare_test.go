package bench

import (
	"strings"
	"testing"
)

func single(name string, rates ...float64) *File {
	f := &File{Name: name, Good: true}
	for i, r := range rates {
		f.Runs = append(f.Runs, goodRun("pontoon", i, r))
	}
	return f
}

func paired(name string, rates ...float64) *File {
	f := &File{Name: name, Good: true}
	for i := 0; i < len(rates); i += 2 {
		f.Runs = append(f.Runs, goodRun("pontoon", i/2, rates[i]), goodRun("etcd", i/2, rates[i+1]))
	}
	f.Ratios = Ratios(f.Runs)
	return f
}

func regressions(t *testing.T, old, now []*File, absolute bool) []string {
	t.Helper()
	c, err := Compare(old, now, absolute)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, ch := range c.Regressions(0.1) {
		out = append(out, ch.Of+" "+ch.Figure)
	}
	return out
}

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		old, now *File
		absolute bool
		want     string
	}{
		"slower":                          {single("x", 1000), single("x", 800), false, "pontoon ops/s"},
		"a little slower":                 {single("x", 1000), single("x", 950), false, ""},
		"faster":                          {single("x", 1000), single("x", 2000), false, ""},
		"within the spread":               {single("x", 1000, 700), single("x", 750, 690), false, ""},
		"beyond the spread":               {single("x", 1000, 900), single("x", 750, 690), false, "pontoon ops/s"},
		"the machine is slower":           {paired("x", 1000, 500), paired("x", 500, 250), false, ""},
		"the machine, absolutely":         {paired("x", 1000, 500), paired("x", 500, 250), true, "pontoon ops/s, etcd ops/s"},
		"slower than the other":           {paired("x", 1000, 500), paired("x", 700, 500), false, "pontoon/etcd ops/s"},
		"ratios on one side only":         {paired("x", 1000, 500), single("x", 500), false, "pontoon ops/s"},
		"ratios, one pair was not so bad": {paired("x", 1000, 500, 900, 500), paired("x", 950, 500, 700, 500), false, ""},
	} {
		if got := strings.Join(regressions(t, []*File{c.old}, []*File{c.now}, c.absolute), ", "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestCompareNamesWhatIsMissing(t *testing.T) {
	bad := single("y", 5)
	bad.Good, bad.Runs[0].Good = false, false
	c, err := Compare([]*File{single("x", 1), single("y", 1), single("z", 1)}, []*File{single("x", 1), bad}, false)
	if err != nil || len(c.Missing) != 1 || c.Missing[0] != "z" || len(c.NotGood) != 1 || c.NotGood[0] != "y" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, ch := range c.Changes {
		if ch.Name == "y" {
			t.Errorf("the figures of a bad run were compared: %+v", ch)
		}
	}
	if _, err := Compare([]*File{single("x", 1)}, []*File{single("z", 1)}, false); err == nil {
		t.Error("compared what has nothing in common")
	}
	more := single("x", 1)
	more.Runs[0].System.Ranges = 64
	if _, err := Compare([]*File{single("x", 1)}, []*File{more}, false); err == nil {
		t.Error("compared other numbers of ranges")
	}
}

// Figures that say little about the servers are shown, and fail nothing.
func TestCompareDoesNotCountEverything(t *testing.T) {
	old, now := single("x", 1000), single("x", 1000)
	now.Runs[0].Latency.P999 *= 10
	c, err := Compare([]*File{old}, []*File{now}, false)
	if err != nil || len(c.Regressions(0.1)) != 0 {
		t.Errorf("%+v, %v", c.Regressions(0.1), err)
	}
	now.Runs[0].Latency.P99 *= 10
	if got := regressions(t, []*File{old}, []*File{now}, false); len(got) != 1 || got[0] != "pontoon p99-µs" {
		t.Errorf("%q", got)
	}
}

func TestNamesOfSystems(t *testing.T) {
	for want, s := range map[string]SystemInfo{
		"x": {}, "x/server-cpus=0.5": {CPUs: 0.5}, "x/server-writes=9/tls/permissions=3": {Writes: 9, TLS: true, Permissions: 3},
	} {
		if got := (&File{Name: "x", Runs: []Run{{System: s}}}).id(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
