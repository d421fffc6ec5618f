package shard

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestFromEtcd(t *testing.T) {
	for _, c := range []struct {
		key, end string
		want     string
		point    bool
		empty    bool
	}{
		{"a", "", `["a","a\x00")`, true, false},
		{"a", "\x00", `["a",+inf)`, false, false},
		{"\x00", "\x00", `["\x00",+inf)`, false, false},
		{"a", "b", `["a","b")`, false, false},
		{"b", "a", `["b","a")`, false, true},
		{"a", "a", `["a","a")`, false, true},
		{"a", "a\x00", `["a","a\x00")`, true, false},
		{"", "\x00", `["",+inf)`, false, false},
	} {
		s := FromEtcd([]byte(c.key), []byte(c.end))
		if s.String() != c.want || s.IsPoint() != c.point || s.Empty() != c.empty {
			t.Errorf("%q %q: %v, point %v, empty %v", c.key, c.end, s, s.IsPoint(), s.Empty())
		}
	}
}

// TestSpansAgainstKeys holds the span algebra against membership of single keys.
func TestSpansAgainstKeys(t *testing.T) {
	var keys [][]byte
	for _, a := range []byte("\x00ab") {
		for _, b := range []byte("\x00ab") {
			keys = append(keys, []byte{a}, []byte{a, b})
		}
	}
	bytesOf := rapid.SliceOfN(rapid.SampledFrom([]byte("\x00ab")), 0, 2)
	rapid.Check(t, func(t *rapid.T) {
		a := Span{bytesOf.Draw(t, "a"), bytesOf.Draw(t, "a end")}
		b := Span{bytesOf.Draw(t, "b"), bytesOf.Draw(t, "b end")}
		both := a.Intersect(b)
		overlap, inside := false, true
		for _, k := range keys {
			ia, ib := a.Contains(k), b.Contains(k)
			if both.Contains(k) != (ia && ib) {
				t.Fatalf("%v and %v intersect in %v: %q", a, b, both, k)
			}
			overlap = overlap || ia && ib
			inside = inside && (ia || !ib)
		}
		if overlap && !a.Overlaps(b) || a.Overlaps(b) != b.Overlaps(a) || a.Overlaps(b) == both.Empty() {
			t.Fatalf("%v overlaps %v: %v", a, b, a.Overlaps(b))
		}
		if a.ContainsSpan(b) && !inside {
			t.Fatalf("%v does not contain %v", a, b)
		}
		if !b.Empty() && a.ContainsSpan(b) != both.Equal(b) {
			t.Fatalf("%v contains %v: %v, but they intersect in %v", a, b, a.ContainsSpan(b), both)
		}
		if hull := a.Hull(b); !a.Empty() && !b.Empty() && (!hull.ContainsSpan(a) || !hull.ContainsSpan(b) ||
			!hull.Equal(b.Hull(a)) || a.ContainsSpan(b) && !hull.Equal(a)) {
			t.Fatalf("the hull of %v and %v is %v", a, b, hull)
		}
		k := bytesOf.Draw(t, "key")
		if p := Point(k); !p.IsPoint() || !p.Contains(k) || p.Contains(append(bytes.Clone(k), 0)) {
			t.Fatalf("point of %q is %v", k, p)
		}
	})
}

func TestCompareEnd(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "a", 1}, {"a", "", -1}, {"a", "b", -1}, {"b", "a", 1}, {"a", "a", 0}} {
		if got := CompareEnd([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("CompareEnd(%q,%q)=%d", c.a, c.b, got)
		}
	}
}

func TestRetryable(t *testing.T) {
	for err, want := range map[error]bool{
		&NotLeaderError{Range: 2}: true, &WrongRangeError{Range: 2}: true, ErrStaleEpoch: true, ErrUnavailable: true,
		ErrAmbiguous: false, ErrTimeout: false, ErrLeaseNotFound: false, &CompactedError{Revision: 3}: false,
		errors.New("else"): false,
	} {
		if got := Retryable(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v retryable: %v", err, got)
		}
	}
}

func TestDescriptorReplicas(t *testing.T) {
	d := Descriptor{ID: 2, Replicas: []Replica{{ID: 1, Node: 10}, {ID: 4, Node: 0x1f, Role: Learner}}}
	if r, ok := d.ReplicaOn(0x1f); !ok || r.ID != 4 {
		t.Errorf("replica on 1f: %v %v", r, ok)
	}
	if r, ok := d.Replica(1); !ok || r.Node != 10 {
		t.Errorf("replica 1: %v %v", r, ok)
	}
	if _, ok := d.ReplicaOn(11); ok {
		t.Error("node b has no replica")
	}
	if _, ok := d.Replica(9); ok {
		t.Error("there is no replica 9")
	}
	if got := d.ID.String() + " " + d.Replicas[1].Node.String(); got != "r2 1f" {
		t.Error(got)
	}
}

func TestDescriptorCut(t *testing.T) {
	whole := Descriptor{ID: 4, Generation: 3, Span: Span{Start: []byte("b"), End: []byte("y")}, Replicas: []Replica{{ID: 1, Node: 11}}}
	left, right := whole.Cut([]byte("m"), 9)
	wantLeft := Descriptor{ID: 4, Generation: 4, Span: Span{Start: []byte("b"), End: []byte("m")}, Replicas: whole.Replicas}
	wantRight := Descriptor{ID: 9, Generation: 4, Span: Span{Start: []byte("m"), End: []byte("y")}, Replicas: whole.Replicas}
	if !left.Equal(&wantLeft) || !right.Equal(&wantRight) || whole.Generation != 3 || string(whole.Span.End) != "y" {
		t.Errorf("%+v is cut into %+v and %+v", whole, left, right)
	}
	for key, parts := range map[string]bool{"": false, "a": false, "b": false, "b\x00": true, "x": true, "y": false, "z": false} {
		if got := whole.Span.PartedBy([]byte(key)); got != parts {
			t.Errorf("%q parts %v: %v", key, whole.Span, got)
		}
	}
	if All.PartedBy(nil) || !All.PartedBy([]byte{0}) {
		t.Error("the first key parts everything, or the second does not")
	}
}
