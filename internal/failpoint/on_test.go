//go:build failpoints

package failpoint

import (
	"errors"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func post(t *testing.T, path string) int {
	t.Helper()
	w := httptest.NewRecorder()
	serve(w, httptest.NewRequest("POST", path, nil))
	return w.Code
}

func TestOrders(t *testing.T) {
	now := time.Now()
	if code := post(t, "/clock?by=5s"); code != 200 || Clock(now) != now.Add(5*time.Second) {
		t.Errorf("clock: %d, %v", code, Clock(now))
	}
	f, err := FS().Create(filepath.Join(t.TempDir(), "f"), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	post(t, "/sync?fail=true")
	if err := errors.Join(f.Sync()); !errors.Is(err, ErrSync) {
		t.Errorf("sync: %v", err)
	}
	if err := f.SyncData(); !errors.Is(err, ErrSync) {
		t.Errorf("sync data: %v", err)
	}
	post(t, "/sync?fail=false")
	done := false
	Handle("thing", func() error { done = true; return nil })
	if code := post(t, "/thing"); code != 200 || !done {
		t.Errorf("thing: %d", code)
	}
	for _, bad := range []string{"/clock?by=x", "/sync?fail=x", "/unknown"} {
		if code := post(t, bad); code < 400 {
			t.Errorf("%s: %d", bad, code)
		}
	}
}
