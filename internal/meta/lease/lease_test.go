package lease

import (
	"bytes"
	"testing"

	"pontoon/shard"
)

func TestUniteAgainstKeys(t *testing.T) {
	ends := []string{"", "a", "b", "c", "d", "e"}
	var spans []shard.Span
	added := []shard.Span{}
	rnd := uint64(1)
	draw := func() string {
		rnd = rnd*6364136223846793005 + 1442695040888963407
		return ends[rnd>>33%uint64(len(ends))]
	}
	for i := range 2000 {
		if i%20 == 0 {
			spans, added = nil, added[:0]
		}
		s := shard.Span{Start: []byte(draw()), End: []byte(draw())}
		spans, added = unite(spans, s), append(added, s)
		for i := 1; i < len(spans); i++ {
			if a, b := spans[i-1], spans[i]; a.Unbounded() || bytes.Compare(a.End, b.Start) >= 0 {
				t.Fatalf("%v touches %v", a, b)
			}
		}
		for _, k := range []string{"", "0", "a", "aa", "b", "bb", "c", "cc", "d", "dd", "e", "ee"} {
			want, got := false, false
			for _, s := range added {
				want = want || s.Contains([]byte(k))
			}
			for _, s := range spans {
				got = got || s.Contains([]byte(k))
			}
			if want != got {
				t.Fatalf("%v united are %v: %q", added, spans, k)
			}
		}
	}
}
