package replica

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pontoon/shard"
)

// What is being copied beside is left alone by who lists the directories, but for a start.
func TestListsLeaveCopiesAlone(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"r2", "r7", "r07", "x"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	made := filepath.Join(dir, "r7", newFile)
	if err := os.WriteFile(made, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		list  func(string) ([]shard.RangeID, error)
		stays bool
	}{{ListDirs, true}, {ListLeft, false}} {
		ids, err := c.list(dir)
		slices.Sort(ids)
		if err != nil || !slices.Equal(ids, []shard.RangeID{2, 7}) {
			t.Errorf("%v, %v", ids, err)
		}
		if _, err := os.Stat(made); (err == nil) != c.stays {
			t.Errorf("the file that is being made: %v, it is to stay: %v", err, c.stays)
		}
	}
}
