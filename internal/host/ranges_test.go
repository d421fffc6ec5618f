package host

import (
	"slices"
	"testing"

	"pontoon/shard"
)

func TestLargest(t *testing.T) {
	all := []holding{{1, 10}, {2, 30}, {3, 0}, {4, 30}, {5, 20}}
	for excess, want := range map[int64][]shard.RangeID{
		0: nil, 1: {2}, 30: {2}, 31: {2, 4}, 61: {2, 4, 5}, 80: {2, 4, 5}, 1000: {2, 4, 5, 1},
	} {
		if got := largest(slices.Clone(all), excess); !slices.Equal(got, want) {
			t.Errorf("excess %d: %v, want %v", excess, got, want)
		}
	}
}
