package watchfanout

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"pontoon/shard"
)

// TestMergerScenarios drives the merger by text: "new" gives the feeds as closed[/whole],
// "item" adds to one and releases, "release" hands out in small portions.
func TestMergerScenarios(t *testing.T) {
	datadriven.RunTest(t, "testdata/merger", (&mergerEnv{}).run)
}

type mergerEnv struct{ m *merger }

func (e *mergerEnv) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "new":
		var feeds []mergerFeed
		for _, a := range d.CmdArgs {
			if a.Key == "seen" {
				continue
			}
			var f mergerFeed
			closed, whole, _ := strings.Cut(a.Key, "/")
			f.closed, f.whole = parseRev(t, closed), parseRev(t, whole)
			feeds = append(feeds, f)
		}
		var seen int64
		d.MaybeScanArgs(t, "seen", &seen)
		e.m = newMerger(feeds, seen)
		return e.state(nil)
	case "item":
		var feed, closed int
		d.ScanArgs(t, "feed", &feed)
		d.MaybeScanArgs(t, "closed", &closed)
		e.m.add(feed, parseEvents(t, d.Input))
		e.m.advance(feed, int64(closed))
	case "whole":
		var feed int
		var rev string
		d.ScanArgs(t, "feed", &feed)
		d.ScanArgs(t, "rev", &rev)
		e.m.setWhole(feed, parseRev(t, rev))
	case "lose":
		var rev int64
		d.ScanArgs(t, "rev", &rev)
		e.m.lose(rev)
	case "drop":
		e.m.drop()
	}
	limit := 100
	d.MaybeScanArgs(t, "limit", &limit)
	var out []*shard.Event
	for more := true; more; {
		var evs []*shard.Event
		evs, more = e.m.release(limit)
		out = append(out, evs...)
		if more {
			out = append(out, nil) // the cut between two portions
		}
	}
	e.m.shrink()
	return e.state(out)
}

func (e *mergerEnv) state(out []*shard.Event) string {
	var b strings.Builder
	for _, ev := range out {
		if ev == nil {
			b.WriteString("-\n")
			continue
		}
		fmt.Fprintf(&b, "%s\n", textOf(ev))
	}
	n, _, last := e.m.held()
	fmt.Fprintf(&b, "released=%s horizon=%s", rev(e.m.released), rev(e.m.horizon))
	if n > 0 {
		fmt.Fprintf(&b, " holds %d up to %d", n, last)
	}
	return b.String() + "\n"
}
