package router

import (
	"testing"

	"pgregory.net/rapid"

	"pontoon/shard"
)

// TestCompactedSpans holds the spans that have said that they are compacted against single keys.
func TestCompactedSpans(t *testing.T) {
	var keys [][]byte
	for _, a := range []byte("abcd") {
		keys = append(keys, []byte{a}, []byte{a, 'm'})
	}
	spanOf := func(t *rapid.T, name string) shard.Span {
		from := rapid.IntRange(0, len(keys)-1).Draw(t, name)
		to := rapid.IntRange(from+1, len(keys)).Draw(t, name+" end")
		s := shard.Span{Start: keys[from]}
		if from == 0 {
			s.Start = nil
		}
		if to < len(keys) {
			s.End = keys[to]
		}
		return s
	}
	rapid.Check(t, func(t *rapid.T) {
		var c compacted
		said := make([]bool, len(keys))
		for range rapid.IntRange(0, 8).Draw(t, "spans") {
			s := spanOf(t, "said")
			c.add(s)
			for i, k := range keys {
				said[i] = said[i] || s.Contains(k)
			}
		}
		asked := spanOf(t, "asked")
		want := true
		for i, k := range keys {
			want = want && (said[i] || !asked.Contains(k))
		}
		if got := c.holds(asked); got != want {
			t.Fatalf("of %v, %v holds: %v", c.spans, asked, got)
		}
		for i := 1; i < len(c.spans); i++ {
			if a, b := c.spans[i-1], c.spans[i]; a.Unbounded() || string(a.End) >= string(b.Start) {
				t.Fatalf("%v and %v are not apart", a, b)
			}
		}
	})
}
