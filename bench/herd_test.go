package bench

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"pontoon/bench/machine"
)

func smallHerd(change func(*Spec)) Spec {
	return small("list-herd", func(s *Spec) {
		s.Clients, s.Conns, s.Rounds, s.Timeout = 6, 3, 4, 5*time.Second
		change(s)
	})
}

func TestAHerdOfAGoodServer(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Spec)
		rounds int64
	}{
		"rounds":   {func(*Spec) {}, 4},
		"total":    {func(s *Spec) { s.Rounds, s.Operations = 0, 13 }, 3}, // whole rounds
		"warm":     {func(s *Spec) { s.WarmUp = 20 * time.Millisecond }, 4},
		"duration": {func(s *Spec) { s.Duration = time.Nanosecond }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, problems := play(t, newServer(), smallHerd(c.change))
			if c.rounds == 0 {
				if r.Operations != 0 || len(problems) != 1 {
					t.Errorf("%d operations in no time, %q", r.Operations, problems)
				}
				return
			}
			if len(problems) > 0 || r.Operations != 6*c.rounds || r.Latency.Count != 6*c.rounds {
				t.Fatalf("%d operations, %d latencies, %q", r.Operations, r.Latency.Count, problems)
			}
			if size := r.Figures["list-B"]; size < 200*32 || size > 200*100 || r.Figures["all-listed-µs"] <= 0 {
				t.Errorf("%v", r.Figures)
			}
		})
	}
}

func TestAHerdNoticesABadServer(t *testing.T) {
	for fault, want := range map[string]string{
		losesWrite: "",
		cutsList:   "asked for key",
		miscounts:  "says that there are 201",
		staleList:  "was acknowledged",
		oldHeader:  "a list at revision",
		swapsKeys:  "asked for key",
	} {
		t.Run(fault, func(t *testing.T) {
			s := newServer()
			s.fault = fault
			r, problems := play(t, s, smallHerd(func(*Spec) {}))
			if all := strings.Join(problems, "\n"); len(problems) == 0 || !strings.Contains(all, want) {
				t.Errorf("want %q, got %q", want, problems)
			}
			if fault != losesWrite && (r.Operations != 0 || r.Failed != 6) {
				t.Errorf("after a round that failed there were more: %d good, %d failed", r.Operations, r.Failed)
			}
		})
	}
}

func TestAnAnswerThatIsMalformed(t *testing.T) {
	d, _ := Lookup("list-herd")
	w := d.open(&env{spec: smallHerd(func(*Spec) {})}).(*herd)
	for _, b := range []string{"\x0a", "\x0a\x05\x08", "\x12\x02\x0a\x05", "\x12\x01\x0a", "\x2a\x01x", "\x1d\x00\x00\x00\x00", "\xff"} {
		if err := (&herdList{w: w}).read(whole{strings.NewReader(b)}); err == nil {
			t.Errorf("%q was taken", b)
		}
	}
}

func TestAHerdMustComeFromMemory(t *testing.T) {
	if n, args := herdGateways(smallHerd(func(s *Spec) { s.Gateways = 2 })); n != 2 || !reflect.DeepEqual(args, []string{"--mirror-auto-size=0"}) {
		t.Errorf("%d, %q", n, args)
	}
	spec := smallHerd(func(s *Spec) { s.Gateways, s.Mirrored, s.KeySpace, s.ValueSize = 1, true, 1_000_000, 4096 })
	n, args := herdGateways(spec)
	if n != 1 || !reflect.DeepEqual(args, []string{"--mirror-prefixes=herd/", "--mirror-size=8394000000"}) {
		t.Errorf("%d, %q", n, args)
	}
	d, _ := Lookup("list-herd")
	c := Config{Spec: spec}
	if s := c.setupFor(d, TargetPontoon); s.gateways != 1 || !reflect.DeepEqual(s.gatewayArgs, args) {
		t.Errorf("%+v", s)
	}
	if s := c.setupFor(d, TargetEtcd); s.gateways != 0 {
		t.Errorf("etcd has gateways: %+v", s)
	}
	for want, change := range map[string]func(*Spec){
		"--mirrored needs":     func(s *Spec) { s.Mirrored = true },
		"--gateways must be":   func(s *Spec) { s.Gateways = 16 },
		"--prefix must not be": func(s *Spec) { s.Gateways, s.Mirrored, s.Prefix = 1, true, "" },
		"--rate must be 0":     func(s *Spec) { s.Rate = 1 },
		"--rounds must not":    func(s *Spec) { s.Rounds = -1 },
	} {
		if err := smallHerd(change).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

func TestFindMetric(t *testing.T) {
	text := "# HELP a_total x\n# TYPE a_total counter\na_total_more 7\na_total 1.5e+06\nb{x=\"y\"} 3\n"
	if v, err := findMetric(strings.NewReader(text), "a_total"); err != nil || v != 1.5e6 {
		t.Errorf("%v, %v", v, err)
	}
	for _, none := range []string{"a", "b", "c"} {
		if _, err := findMetric(strings.NewReader(text), none); err == nil {
			t.Errorf("%s was found", none)
		}
	}
}

func TestNodesAndGatewaysApart(t *testing.T) {
	own := func() []int { return []int{os.Getpid()} }
	used := func() (machine.Usage, error) { return machine.Processes(own()) }
	a := apart{{name: "nodes", pids: own, used: used}, {name: "gateways", pids: own, used: used}}
	for i := range a {
		a[i].memory = machine.Follow(a[i].pids, time.Millisecond)
	}
	var r Run
	if err := a.report(&r, 10); err != nil || r.Figures["nodes-cpu-µs/op"] <= 0 || r.Figures["gateways-peak-anon-B"] <= 0 || r.Figures["gateways-peak-rss-B"] <= 0 {
		t.Errorf("%v, %v", r.Figures, err)
	}
}

// whole is a message in one piece.
type whole struct{ *strings.Reader }

func (w whole) Remaining() int { return w.Len() }
