package watchfanout

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"pontoon/shard"
)

// textOf renders an event for scenarios: put k 5, del k 5, with the number within the revision
// if it is not the first.
func textOf(e *shard.Event) string {
	verb := "put"
	if e.Delete {
		verb = "del"
	}
	s := fmt.Sprintf("%s %s %d", verb, e.KV.Key, e.Rev())
	if e.Sub > 0 {
		s += fmt.Sprintf(".%d", e.Sub)
	}
	return s
}

func textsOf(evs []*shard.Event) (out []string) {
	for _, e := range evs {
		out = append(out, textOf(e))
	}
	return out
}

func rev(r int64) string {
	if r == unknown {
		return "unknown"
	}
	return strconv.FormatInt(r, 10)
}

func parseRev(t testing.TB, s string) int64 {
	switch s {
	case "":
		return 0
	case "unknown":
		return unknown
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// parseEvents reads lines "put KEY REV [SUB]" and "del KEY REV [SUB]".
func parseEvents(t testing.TB, in string) []*shard.Event {
	var evs []*shard.Event
	for _, line := range strings.Split(strings.TrimSpace(in), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 3 {
			t.Fatalf("event %q", line)
		}
		e := shard.NewEvents(1)[0]
		e.Delete, e.KV = f[0] == "del", shard.KeyValue{Key: []byte(f[1]), ModRevision: parseRev(t, f[2])}
		if len(f) > 3 {
			e.Sub = parseRev(t, f[3])
		}
		evs = append(evs, e)
	}
	return evs
}

// parseSpan reads "k" (one key), "a-c", "a-" (from a on) and "-" (everything).
func parseSpan(s string) shard.Span {
	start, end, ok := strings.Cut(s, "-")
	if !ok {
		return shard.Point([]byte(s))
	}
	return shard.Span{Start: []byte(start), End: []byte(end)}
}
