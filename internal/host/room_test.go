package host

import (
	"errors"
	"testing"

	"pontoon/shard"
)

// TestSpare: how much of a disk is free is what the planner takes it for, whatever the file system keeps back for itself: where they differed, a replica that the
// planner had sent for was refused for ever.
func TestSpare(t *testing.T) {
	for _, c := range []struct {
		free, used int64
		spare      bool
	}{
		{15, 85, true},
		{14, 86, false},
		{31, 61, true}, // of 252, of which nobody but root has the rest
		{0, 1, false},
		{1, 0, true},
	} {
		m := room{space: func(string) (int64, int64, error) { return c.free, c.used, nil }}
		if err := m.spare(); (err == nil) != c.spare || err != nil && !errors.Is(err, shard.ErrNoSpace) {
			t.Errorf("%d free and %d in use: %v", c.free, c.used, err)
		}
	}
	gone := errors.New("no disk")
	m := room{space: func(string) (int64, int64, error) { return 0, 0, gone }}
	if err := m.spare(); !errors.Is(err, gone) {
		t.Error(err)
	}
}
