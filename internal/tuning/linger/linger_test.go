package linger

import (
	"math"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"pontoon/internal/tuning/processors"
)

// rig is a Linger with a clock and a load that the test sets.
type rig struct {
	*Linger
	now    time.Time
	load   Load
	took   time.Duration // each batch
	each   int           // requests of a batch
	timers []time.Time
	fires  []func()
	log    []string
}

func newRig(max time.Duration) *rig {
	r := &rig{now: time.Unix(1000, 0), took: time.Minute, each: 1}
	r.Linger = New(Config{
		Max:  max,
		Load: func() Load { return r.load },
		Now:  func() time.Time { return r.now },
		AfterFunc: func(d time.Duration, f func()) {
			if d == 0 {
				f()
				return
			}
			r.timers, r.fires = append(r.timers, r.now.Add(d)), append(r.fires, f)
		},
	})
	return r
}

func (r *rig) ask(name string) {
	r.Next(func() { r.log = append(r.log, name) })
	r.Took(r.took, r.each)
}

func (r *rig) advance(d time.Duration) {
	end := r.now.Add(d)
	for len(r.timers) > 0 && !r.timers[0].After(end) {
		r.now = r.timers[0]
		fire := r.fires[0]
		r.timers, r.fires = r.timers[1:], r.fires[1:]
		fire()
	}
	r.now = end
}

// under lets the pause come to what a load makes of it.
func (r *rig) under(l Load) {
	r.load = l
	for range 40 {
		r.advance(window)
		r.ask("x")
	}
	r.advance(window / 2)
	r.log = nil
}

// short is the load of a node that is short of processors.
var short = Load{Wait: time.Millisecond, Busy: 1}

func (r *rig) want(t *testing.T, log ...string) {
	t.Helper()
	if !slices.Equal(r.log, log) {
		t.Fatalf("called: %v, want %v", r.log, log)
	}
	r.log = nil
}

func TestNothingLingersWhereProcessorsAreIdle(t *testing.T) {
	for name, c := range map[string]struct {
		max  time.Duration
		load Load
	}{
		"they are":                       {15 * time.Millisecond, Load{Wait: time.Millisecond, Busy: rested}},
		"all but for lesser work":        {15 * time.Millisecond, Load{Wait: ease, Busy: 1}},
		"they are not, but it is wanted": {0, short},
	} {
		r := newRig(c.max)
		r.under(c.load)
		for i := range 3 {
			r.ask("a")
			if len(r.log) != i+1 {
				t.Fatalf("%s: waited for: %v", name, r.log)
			}
		}
		if r.Pause() != 0 || len(r.timers) != 0 {
			t.Fatalf("%s: pause %v, %d timers", name, r.Pause(), len(r.timers))
		}
	}
}

// Under a limit company is looked for where batches are thin: where they are not, the waits for the limit's next period bring it.
func TestUnderALimitThinBatchesLinger(t *testing.T) {
	used := short
	used.Limited = true
	for _, c := range []struct {
		each    int
		load    Load
		untimed bool
		lingers bool
	}{
		{1, used, false, true},
		{thick - 1, used, false, true},
		{thick, used, false, false},
		{100, used, false, false},
		{100, short, false, true},
		{1, used, true, false},
		{1, Load{Wait: time.Millisecond, Busy: rested, Limited: true}, false, false},
	} {
		r := newRig(15 * time.Millisecond)
		r.cfg.Untimed = c.untimed
		r.each = c.each
		if r.under(c.load); (r.Pause() > 0) != c.lingers {
			t.Errorf("%+v: pause %v", c, r.Pause())
		}
	}
	r := newRig(15 * time.Millisecond)
	r.under(used)
	r.each = thick // the pause has brought company
	r.under(used)
	if r.Pause() != 0 {
		t.Errorf("a pause of %v for batches that are thick", r.Pause())
	}
}

func TestOneBeatServesAll(t *testing.T) {
	r := newRig(15 * time.Millisecond)
	r.under(short)
	if got := r.Pause(); got != 15*time.Millisecond {
		t.Fatalf("pause %v", got)
	}
	r.ask("a") // the last beat is long past
	r.want(t, "a")
	r.advance(5 * time.Millisecond)
	r.ask("b")
	r.advance(5 * time.Millisecond)
	r.ask("c")
	r.want(t)
	if len(r.timers) != 1 {
		t.Fatalf("%d timers", len(r.timers))
	}
	r.advance(5 * time.Millisecond)
	r.want(t, "b", "c")
	r.ask("d")
	r.want(t)
	r.advance(15 * time.Millisecond)
	r.want(t, "d")
}

// Who is called at a beat may ask for the next one.
func TestAskingAtABeat(t *testing.T) {
	r := newRig(15 * time.Millisecond)
	r.under(short)
	r.ask("a")
	r.Next(func() { r.ask("again") })
	r.advance(15 * time.Millisecond)
	r.want(t, "a")
	r.advance(15 * time.Millisecond)
	r.want(t, "again")
}

// The pause grows until there is time to spare, stays, and goes when the processors are idle again, or when
// nobody has asked for long.
func TestThePauseFollowsTheLoad(t *testing.T) {
	r := newRig(15 * time.Millisecond)
	step := func(l Load) (was, is time.Duration) {
		was = r.Pause()
		r.load = l
		r.advance(window)
		r.ask("x")
		return was, r.Pause()
	}
	steps := func(n int, l Load) (was, is time.Duration) {
		was = r.Pause()
		for range n {
			_, is = step(l)
		}
		return was, is
	}
	steps(20, Load{Wait: time.Millisecond, Busy: 0.5})
	steps(5, short) // what was before is forgotten
	for range 3 {
		if was, is := step(short); is <= was {
			t.Fatalf("%v after %v under full load", is, was)
		}
	}
	if was, is := steps(1, Load{Wait: time.Millisecond, Busy: (busy + rested) / 2}); is < was {
		t.Fatalf("%v after %v", is, was)
	}
	steps(10, Load{Wait: time.Millisecond, Busy: (busy + rested) / 2})
	if was, is := steps(10, Load{Wait: time.Millisecond, Busy: (busy + rested) / 2}); is != was {
		t.Fatalf("%v after %v", is, was)
	}
	if was, is := steps(3, Load{Wait: time.Millisecond, Busy: 0.5}); is >= was {
		t.Fatalf("%v after %v with time to spare", is, was)
	}
	step(short)
	r.advance(stale + 1)
	if got := r.Pause(); got != 0 {
		t.Fatalf("%v while nobody asks", got)
	}
	r.load = Load{Wait: time.Millisecond, Busy: busy}
	r.ask("x")
	if r.Pause() != 0 {
		t.Fatalf("%v after a long rest", r.Pause())
	}
}

// While everybody who could write waits for a beat, nothing is done: so no pause is longer than a batch takes.
func TestNoPauseIsLongerThanABatchTakes(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		time.Minute:          15 * time.Millisecond,
		7 * time.Millisecond: 7 * time.Millisecond,
		pauseMin - 1:         0,
	} {
		r := newRig(15 * time.Millisecond)
		r.took = took
		r.under(short)
		if got := r.Pause(); got != want {
			t.Errorf("pause %v where batches take %v, want %v", got, took, want)
		}
	}
	r := newRig(15 * time.Millisecond)
	r.took = 7 * time.Millisecond
	r.under(short)
	r.advance(window)
	r.Next(func() {}) // the load is looked at while no batch has been answered
	r.Next(func() {})
	if got := r.Pause(); got != 7*time.Millisecond {
		t.Errorf("pause %v when nothing is new, want 7ms", got)
	}
}

func TestAverage(t *testing.T) {
	inf := math.Inf(1)
	buckets := []float64{math.Inf(-1), 0, 1e-6, 3e-6, inf}
	last := make([]uint64, 4)
	for _, c := range []struct {
		counts []uint64
		want   time.Duration
	}{
		{[]uint64{0, 0, 0, 0}, 0},
		{[]uint64{5, 0, 5, 0}, time.Microsecond},      // five at 0, five at 2 µs
		{[]uint64{5, 0, 8, 0}, 2 * time.Microsecond},  // three more
		{[]uint64{5, 0, 8, 1}, 3 * time.Microsecond},  // beyond what is told apart
		{[]uint64{5, 2, 8, 1}, 500 * time.Nanosecond}, // two of the second
		{[]uint64{5, 2, 8, 1}, 0},                     // nothing since
	} {
		if got := average(c.counts, buckets, last); got != c.want {
			t.Errorf("%v: %v, want %v", c.counts, got, c.want)
		}
	}
}

// A process under a limit that it has not used up is short of processor time, too, where the machine is busy with others.
func TestALimitOnABusyMachine(t *testing.T) {
	root := fstest.MapFS{
		"proc/self/mountinfo":       {Data: []byte("30 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")},
		"proc/self/cgroup":          {Data: []byte("0::/pod\n")},
		"sys/fs/cgroup/pod/cpu.max": {Data: []byte("max 100000\n")},
		"proc/stat":                 {Data: []byte("cpu 100 0 0 100 0 0 0 0\n")},
	}
	m := &meter{processors: processors.New(root)}
	for _, c := range []struct {
		limit, stat string
		want        Load
	}{
		{"max", "cpu 100 0 0 100 0 0 0 0\n", Load{}},
		{"max", "cpu 190 0 0 110 0 0 0 0\n", Load{Busy: 0.9}},
		{"100000000", "cpu 280 0 0 120 0 0 0 0\n", Load{Busy: 0.9, Limited: true}}, // of a thousand processors' time
		{"1", "cpu 280 0 0 220 0 0 0 0\n", Load{Busy: 1, Limited: true}},           // whatever the test has used is more
	} {
		root["sys/fs/cgroup/pod/cpu.max"].Data = []byte(c.limit + " 100000\n")
		root["proc/stat"].Data = []byte(c.stat)
		got := m.read()
		if got.Wait = 0; math.Abs(got.Busy-c.want.Busy) > 0.01 || got.Limited != c.want.Limited {
			t.Errorf("limit %s, %q: %+v, want %+v", c.limit, c.stat, got, c.want)
		}
	}
}

// The runtime has the histogram that we read: it has seen this test's goroutines. A share is a share.
func TestMeter(t *testing.T) {
	m := newMeter()
	m.read()
	done := make(chan int)
	for range 1000 {
		go func() { done <- 1 }()
	}
	for range 1000 {
		<-done
	}
	if l := m.read(); l.Busy < 0 || l.Busy > 1 {
		t.Errorf("busy %v", l.Busy)
	}
	if !slices.ContainsFunc(m.counts, func(n uint64) bool { return n > 0 }) {
		t.Errorf("no goroutine has waited: %v", m.counts)
	}
}
