package shard

import "testing"

// TestDisplaced: a range is no more if the map does not have it and has others in its place that are newer. One that the map has not heard of yet is not.
func TestDisplaced(t *testing.T) {
	m, err := NewMap(1, []Descriptor{
		{ID: 2, Generation: 6, Span: Span{End: []byte("m")}, Replicas: []Replica{{ID: 1, Node: 1}}},
		{ID: 3, Generation: 2, Span: Span{Start: []byte("m")}, Replicas: []Replica{{ID: 1, Node: 1}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		d    Descriptor
		want bool
	}{
		{"one that was merged", Descriptor{ID: 9, Generation: 5, Span: Span{Start: []byte("c")}}, true},
		{"one that has just been cut off", Descriptor{ID: 9, Generation: 7, Span: Span{Start: []byte("c")}}, false},
		{"one as old", Descriptor{ID: 9, Generation: 6, Span: Span{Start: []byte("c")}}, false},
		{"one cut off another", Descriptor{ID: 9, Generation: 3, Span: Span{Start: []byte("p")}}, false},
		{"one that has given some of it away", Descriptor{ID: 2, Generation: 1}, false},
	} {
		if got := m.Displaced(c.d); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
