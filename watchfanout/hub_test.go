package watchfanout

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	goleak.VerifyTestMain(m)
}

// world is a hub without goroutines over ranges that are lists of events, and a clock that
// stands still: the test says when tasks and timers run.
type world struct {
	t       testing.TB
	hub     *Hub
	rmap    *shard.Map
	stored  map[string][]*shard.Event // by key: what History knows
	floor   map[shard.RangeID]int64
	broken  map[shard.RangeID]bool
	compact int64 // as History knows
	decided int64 // as the oracle knows
	current int64
	noOra   bool
	hold    bool // reads of history wait
	timers  []func()
	streams map[string]*Stream
	log     []string
}

func newWorld(t testing.TB, tune func(*Config)) *world {
	w := &world{
		t: t, stored: map[string][]*shard.Event{}, streams: map[string]*Stream{},
		floor: map[shard.RangeID]int64{}, broken: map[shard.RangeID]bool{},
	}
	w.rmap = mapOf(t, 1, "r2", "-")
	cfg := Config{
		History: w, Closer: w, Map: func() *shard.Map { return w.rmap },
		Current: func(context.Context) (shard.Now, error) {
			if w.noOra {
				return shard.Now{}, errors.New("no oracle")
			}
			return shard.Now{Revision: w.current, CompactRevision: max(w.compact, w.decided)}, nil
		},
		AfterFunc:   func(_ time.Duration, f func()) { w.timers = append(w.timers, f) },
		Dispatchers: 1,
	}
	if tune != nil {
		tune(&cfg)
	}
	w.hub = newHub(cfg)
	w.hub.readers, w.hub.clerk = newPool(0), newPool(0)
	return w
}

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// AskClose implements Closer.
func (w *world) AskClose(rev int64, ranges []shard.RangeID) {
	w.note("asks for closed %d of %v", rev, ranges)
}

// Read implements History: about maxBytes/eventOverheadBytes events at once.
func (w *world) Read(_ context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	w.note("reads %v %s from %d to %d", id, joinSpans(spans), from, to)
	if w.broken[id] {
		return nil, 0, shard.ErrUnavailable
	}
	if from < w.compact {
		return nil, 0, fmt.Errorf("read: %w", &shard.CompactedError{Revision: w.compact})
	}
	if f, ok := w.floor[id]; ok {
		to = min(to, f)
	}
	var evs []*shard.Event
	for key, all := range w.stored {
		for _, s := range spans {
			if !s.Contains([]byte(key)) {
				continue
			}
			for _, e := range all {
				if e.Rev() >= from && e.Rev() <= to {
					evs = append(evs, e)
				}
			}
		}
	}
	slices.SortFunc(evs, (*shard.Event).Compare)
	limit := max(1, maxBytes/eventOverheadBytes)
	for n := limit; n < len(evs); n++ {
		if evs[n].Rev() != evs[n-1].Rev() {
			return evs[:n], evs[n].Rev(), nil
		}
	}
	return evs, max(from, to+1), nil
}

func (w *world) store(evs []*shard.Event) {
	for _, e := range evs {
		k := string(e.KV.Key)
		copied := &shard.Event{KV: e.KV, Prev: e.Prev, Delete: e.Delete, Sub: e.Sub}
		w.stored[k] = append(w.stored[k], copied)
		w.current = max(w.current, e.Rev())
	}
}

// settle runs everything that can run without a timer.
func (w *world) settle() {
	for again := true; again; {
		again = false
		for _, d := range w.hub.dispatchers {
			for d.round() {
				again = true
			}
		}
		again = w.hub.clerk.runOne() || again
		again = !w.hold && w.hub.readers.runOne() || again
	}
}

// fire runs the timers that stand.
func (w *world) fire() {
	ts := w.timers
	w.timers = nil
	for _, f := range ts {
		f()
	}
}

func mapOf(t testing.TB, version uint64, idSpans ...string) *shard.Map {
	var ds []shard.Descriptor
	for i := 0; i < len(idSpans); i += 2 {
		var id, gen uint64 = 0, 1
		if _, err := fmt.Sscanf(strings.Replace(idSpans[i], "@", " ", 1), "r%d %d", &id, &gen); err != nil && id == 0 {
			t.Fatal(err)
		}
		ds = append(ds, shard.Descriptor{ID: shard.RangeID(id), Generation: shard.Generation(gen), Span: parseSpan(idSpans[i+1])})
	}
	m, err := shard.NewMap(version, ds)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func joinSpans(spans []shard.Span) string {
	var parts []string
	for _, s := range spans {
		if s.IsPoint() {
			parts = append(parts, string(s.Start))
		} else {
			parts = append(parts, fmt.Sprintf("%s-%s", s.Start, s.End))
		}
	}
	return strings.Join(parts, "+")
}

// TestHubScenarios drives a whole hub by text, one file per theme.
func TestHubScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/hub", runScenario)
}

// TestHazard59: the closed revision of the left does not count for the keys that a merge brings it: what a watch lacks of them is read from the history.
func TestHazard59(t *testing.T) { runScenario(t, "testdata/hub/merge") }

func runScenario(t *testing.T, path string) {
	var w *world
	datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd == "world" {
			w = scenarioWorld(t, d)
			return ""
		}
		w.t, w.log = t, nil
		out := w.command(t, d)
		if !d.HasArg("busy") { // the dispatcher has something else to do
			w.settle()
		}
		return strings.Join(append(w.log, out), "\n")
	})
}

func scenarioWorld(t *testing.T, d *datadriven.TestData) *world {
	var w *world
	w = newWorld(t, func(c *Config) {
		d.MaybeScanArgs(t, "pending", &c.PendingEvents)
		d.MaybeScanArgs(t, "inbox", &c.InboxEvents)
		d.MaybeScanArgs(t, "recent", &c.RecentEvents)
		if d.HasArg("read") {
			d.ScanArgs(t, "read", &c.ReadBytes)
			c.ReadBytes *= eventOverheadBytes
		}
		if d.HasArg("hooks") {
			c.Subscribe = func(id shard.RangeID) { w.note("subscribes %v", id) }
			c.Unsubscribe = func(id shard.RangeID) { w.note("unsubscribes %v", id) }
		}
		if d.HasArg("asksmap") {
			c.AskMap = func() { w.note("asks for a map") }
		}
	})
	if lines := strings.Fields(d.Input); len(lines) > 0 {
		w.rmap = mapOf(t, 2, lines...)
		w.hub.MapChanged()
	}
	return w
}

func (w *world) command(t *testing.T, d *datadriven.TestData) string {
	num := func(key string) (n int64) {
		d.MaybeScanArgs(t, key, &n)
		return n
	}
	switch d.Cmd {
	case "item": // item r2 closed=N [gap] [gen=N] [border=(key,r3,N)] [unstored]
		evs := parseEvents(t, d.Input)
		if !d.HasArg("unstored") {
			w.store(evs)
		}
		w.hub.Publish(rangeArg(t, d), shard.FeedItem{
			Events: evs, Closed: num("closed"), Gap: d.HasArg("gap"), Generation: shard.Generation(num("gen")), Border: borderArg(t, d),
		})
	case "stored": // in history, but not in a feed
		w.store(parseEvents(t, d.Input))
	case "watch":
		return w.watch(t, d)
	case "cancel":
		w.stream(d).Cancel(num("id"))
	case "close":
		w.stream(d).Close()
	case "poll":
		return w.poll(t, d)
	case "progress":
		if d.HasArg("id") {
			w.stream(d).RequestWatcherProgress(num("id"), num("rev"))
		} else {
			w.stream(d).RequestProgress(num("rev"))
		}
	case "at":
		w.settle()
		rev, synced := w.stream(d).Progress()
		return fmt.Sprintf("%d synced=%v", rev, synced)
	case "set":
		return w.set(t, d)
	case "map":
		w.rmap = mapOf(t, w.rmap.Version()+1, strings.Fields(d.Input)...)
		w.hub.MapChanged()
	case "timers":
		w.fire()
	case "stats":
		w.settle()
		s := w.hub.Stats()
		return fmt.Sprintf("watchers=%d slow=%d lanes=%d pending=%d events=%d demoted=%d late=%d",
			s.Watchers, s.SlowWatchers, s.Lanes, s.PendingEvents, s.EventsTotal, s.DemotedTotal, s.LateTotal)
	case "reads":
		w.settle()
		s := w.hub.Stats()
		return fmt.Sprintf("%d reads, %d lanes of %d were cut in place", s.ReadsTotal, s.CutTotal, s.Lanes)
	case "settle":
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	return ""
}

func borderArg(t *testing.T, d *datadriven.TestData) *shard.Border {
	if !d.HasArg("border") {
		return nil
	}
	var at, child string
	var gen int64
	d.ScanArgs(t, "border", &at, &child, &gen)
	id, err := strconv.Atoi(child[1:])
	if err != nil {
		t.Fatal(err)
	}
	return &shard.Border{At: []byte(at), Child: shard.RangeID(id), Generation: shard.Generation(gen)}
}

func rangeArg(t *testing.T, d *datadriven.TestData) shard.RangeID {
	var id uint64
	if _, err := fmt.Sscanf(d.CmdArgs[0].Key, "r%d", &id); err != nil {
		t.Fatal(err)
	}
	return shard.RangeID(id)
}

func (w *world) set(t *testing.T, d *datadriven.TestData) string {
	d.MaybeScanArgs(t, "current", &w.current)
	d.MaybeScanArgs(t, "compact", &w.compact)
	d.MaybeScanArgs(t, "decided", &w.decided)
	if d.HasArg("floor") {
		var f int64
		d.ScanArgs(t, "floor", &f)
		w.floor[rangeArg(t, d)] = f
	}
	if d.HasArg("broken") {
		var is bool
		d.ScanArgs(t, "broken", &is)
		w.broken[rangeArg(t, d)] = is
	}
	d.MaybeScanArgs(t, "hold", &w.hold)
	d.MaybeScanArgs(t, "nooracle", &w.noOra)
	return ""
}

// stream returns the stream named s=..., made if need be; its bounds are those of its maker.
func (w *world) stream(d *datadriven.TestData) *Stream {
	name := "s"
	d.MaybeScanArgs(w.t.(*testing.T), "s", &name)
	if w.streams[name] == nil {
		var o StreamOptions
		d.MaybeScanArgs(w.t.(*testing.T), "queue", &o.WatcherEvents)
		w.streams[name] = w.hub.NewStream(o)
	}
	return w.streams[name]
}

func (w *world) watch(t *testing.T, d *datadriven.TestData) string {
	var r WatchRequest
	var span string
	d.ScanArgs(t, "id", &r.ID)
	d.ScanArgs(t, "span", &span)
	d.ScanArgs(t, "start", &r.Start)
	r.Span = parseSpan(span)
	r.FromNow = d.HasArg("fromnow")
	r.NoPut, r.NoDelete, r.PrevKV = d.HasArg("noput"), d.HasArg("nodelete"), d.HasArg("prev")
	if err := w.stream(d).Watch(r); err != nil {
		return err.Error()
	}
	return ""
}

func (w *world) poll(t *testing.T, d *datadriven.TestData) string {
	limit := 100
	d.MaybeScanArgs(t, "limit", &limit)
	w.settle()
	var lines []string
	for _, x := range w.stream(d).Poll(nil, limit) {
		lines = append(lines, x.String())
	}
	if len(lines) == 0 {
		return "nothing"
	}
	return strings.Join(lines, "\n")
}

func (x Delivery) String() string {
	who := fmt.Sprintf("#%d", x.ID)
	if x.ID == StreamWide {
		who = "all"
	}
	switch {
	case x.CompactRevision > 0:
		return fmt.Sprintf("%s: compacted at %d", who, x.CompactRevision)
	case len(x.Events) == 0:
		return fmt.Sprintf("%s: progress %d", who, x.Revision)
	}
	var evs []string
	for _, e := range x.Events {
		evs = append(evs, textOf(e))
	}
	return fmt.Sprintf("%s: %s (to %d)", who, strings.Join(evs, ", "), x.Revision)
}
