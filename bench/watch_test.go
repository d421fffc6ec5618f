package bench

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// play runs a workload against a server as a run would, and returns everything that went wrong.
func play(t *testing.T, s *server, spec Spec) (*Run, []string) {
	t.Helper()
	return playWith(t, s, spec, func(workload) {})
}

// playWith does so with a workload that was changed first.
func playWith(t *testing.T, s *server, spec Spec, change func(workload)) (*Run, []string) {
	t.Helper()
	if err := spec.Validate(); err != nil {
		t.Fatal(err)
	}
	d, _ := Lookup(spec.Workload)
	m := &measurement{Config: Config{Spec: spec}, run: &Run{}, sys: &system{target: Target{Kind: TargetEndpoints}}}
	m.work = d.open(s.serve(t, spec))
	change(m.work)
	defer func() {
		if err := m.work.close(); err != nil {
			t.Error(err)
		}
		s.stopTimers()
	}()
	if err := m.measure(t.Context()); err != nil {
		return m.run, append(m.run.Problems, err.Error())
	}
	if m.run.Good != (len(m.run.Problems) == 0) {
		t.Errorf("good is %v with problems %q", m.run.Good, m.run.Problems)
	}
	return m.run, m.run.Problems
}

func smallWatch(workload string, change func(*Spec)) Spec {
	return small(workload, func(s *Spec) {
		s.Clients, s.Conns, s.Watchers, s.Streams, s.Operations, s.Timeout = 4, 2, 20, 3, 300, 5*time.Second
		change(s)
	})
}

var watchSpecs = map[string]Spec{
	"watch-fanout": smallWatch("watch-fanout", func(*Spec) {}),
	"watch-conns":  smallWatch("watch-conns", func(s *Spec) { s.Reconnects, s.Settle = 2, 10*time.Millisecond }),
	"watch-many":   smallWatch("watch-many", func(*Spec) {}),
	"watch-slow":   smallWatch("watch-slow", func(*Spec) {}),
}

func TestWatchesOfAGoodServer(t *testing.T) {
	for name, spec := range watchSpecs {
		t.Run(name, func(t *testing.T) {
			r, problems := play(t, newServer(), spec)
			if len(problems) > 0 || r.Operations != 300 {
				t.Fatalf("%d operations, %q", r.Operations, problems)
			}
			if r.Figures["events/s"] <= 0 || r.Figures["watchers-set-up/s"] <= 0 {
				t.Errorf("%v", r.Figures)
			}
			if name == "watch-conns" && r.Figures["reconnected/s"] <= 0 {
				t.Errorf("%v", r.Figures)
			}
			if name == "watch-slow" && (r.Kinds["alone"].Count < 150 || r.Kinds["beside"].Count == 0 || r.Figures["p99-beside-to-alone"] <= 0) {
				t.Errorf("%v, %v", r.Kinds["alone"].Count, r.Figures)
			}
		})
	}
}

func TestWatchesNoticeABadServer(t *testing.T) {
	for fault, want := range map[string]string{
		dropsEvent:   "",
		repeatsEvent: "after one of revision",
		swapsEvents:  "after one of revision",
		changesValue: "bytes that were not written",
		cancels:      "on a whim",
		losesWrite:   "",
	} {
		for name, spec := range watchSpecs {
			spec.Timeout = time.Second
			if name == "watch-many" {
				spec.Watchers, spec.Streams = 2, 2 // so that each gets events enough
			}
			t.Run(fault+"/"+name, func(t *testing.T) {
				t.Parallel() // they wait for what does not come
				s := newServer()
				s.fault = fault
				_, problems := play(t, s, spec)
				if all := strings.Join(problems, "\n"); len(problems) == 0 || !strings.Contains(all, want) {
					t.Errorf("want %q, got %q", want, problems)
				}
			})
		}
	}
}

// A watcher that misses the very last events, or gets one more, is noticed when tallies are compared.
func TestTally(t *testing.T) {
	var all, less, other tally
	for op := range uint64(10) {
		all.add(int64(op)+2, op)
		other.add(int64(op)+2, op^1)
		if op < 9 {
			less.add(int64(op)+2, op)
		}
	}
	if err := all.compare(all); err != nil {
		t.Error(err)
	}
	for _, bad := range []tally{less, other, {}} {
		if bad.compare(all) == nil {
			t.Errorf("%+v passed for %+v", bad, all)
		}
	}
}

func TestSlowAlternates(t *testing.T) {
	w := &slow{watching: &watching{base: base{env: &env{spec: smallWatch("watch-slow", func(s *Spec) { s.Blocks = 4 })}}}, measuring: true}
	w.first = 100
	for seq, want := range map[int64]int{100: 0, 174: 0, 175: 1, 250: 2, 399: 3, 500: 3} {
		if got := w.part(seq); got != want {
			t.Errorf("operation %d is in part %d, want %d", seq, got, want)
		}
	}
	w.measuring = false
	if got := w.part(399); got != 0 {
		t.Errorf("the warm-up has a part %d", got)
	}
}

// Why a stream ended that was not closed here is known.
func TestAStreamTellsWhyItEnded(t *testing.T) {
	s := newServer()
	s.fault = endsStream
	e := s.serve(t, smallWatch("watch-fanout", func(*Spec) {}))
	told := watchFuncs{created: func(int64) error { return nil }}
	for _, closes := range []bool{false, true} {
		stream, err := openStream(t.Context(), e.clients[0].ActiveConnection(), told)
		if err != nil {
			t.Fatal(err)
		}
		if closes {
			if err := stream.close(); err != nil {
				t.Errorf("closed here: %v", err)
			}
			continue
		}
		if err := stream.askProgress(); err != nil {
			t.Fatal(err)
		}
		if <-stream.ended; status.Code(stream.err) != codes.Unavailable || stream.close() == nil {
			t.Errorf("%v", stream.err)
		}
	}
}
