package failpoint

import (
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestNothingWithoutTheTag: what is released cannot be broken.
func TestNothingWithoutTheTag(t *testing.T) {
	if Enabled {
		t.Skip("built with the tag")
	}
	t.Setenv("PONTOON_FAILPOINTS", t.TempDir())
	if err := Serve(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(os.Getenv("PONTOON_FAILPOINTS")); err != nil || len(left) != 0 {
		t.Errorf("it listens: %v, %v", left, err)
	}
	now := time.Now()
	if Clock(now) != now || FS() != vfs.FS(nil) {
		t.Error("something is wrapped")
	}
}
