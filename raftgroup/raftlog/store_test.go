package raftlog_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"pontoon/raftgroup"
	"pontoon/raftgroup/raftlog"
	"pontoon/raftgroup/raftlog/raftlogtest"
	"pontoon/raftgroup/simtest"
)

// A Pebble that refuses a damaged directory leaves its disk watchdog running: the error tells the
// operator, and the process ends then anyway.
func TestMain(m *testing.M) {
	if os.Getenv(childOf) != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/vfs.(*diskHealthCheckingFS).startTickerLocked.func1"))
}

// TestConformance runs the suite with a cache that is never full, and with one that holds next
// to nothing, over a file system that loses what was not synced.
func TestConformance(t *testing.T) {
	for name, cache := range map[string]int64{"Cached": 0, "Uncached": 1} {
		t.Run(name, func(t *testing.T) {
			raftlogtest.Run(t, func(t *testing.T) *raftlogtest.Disk {
				fs := vfs.NewCrashableMem()
				var open *raftlog.Store
				start := func() raftgroup.Log {
					s, err := raftlog.Open("log", raftlog.Options{FS: fs, CacheBytes: cache, MemTableBytes: 256 << 10})
					if err != nil {
						t.Fatal(err)
					}
					open = s
					return s
				}
				d := &raftlogtest.Disk{Log: start()}
				d.Crash = func() raftgroup.Log {
					after := fs.CrashClone(vfs.CrashCloneCfg{})
					if err := open.Close(); err != nil {
						t.Fatal(err)
					}
					fs = after
					return start()
				}
				t.Cleanup(func() {
					if err := open.Close(); err != nil {
						t.Error(err)
					}
				})
				return d
			})
		})
	}
}

func TestMemLogConformance(t *testing.T) {
	raftlogtest.Run(t, func(*testing.T) *raftlogtest.Disk {
		l := simtest.NewMemLog()
		return &raftlogtest.Disk{Log: l, Crash: func() raftgroup.Log { l.Crash(); return l }}
	})
}

// TestRefusesForeignDirectory: a directory that holds something else is named, and left alone.
func TestRefusesForeignDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	db, err := pebble.Open(dir, &pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Set([]byte("somebody"), []byte("else's"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := raftlog.Open(dir, raftlog.Options{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("opened, or the directory is not named: %v", err)
	}
}

// TestRefusesDamage: a manifest that does not parse is reported with the directory.
func TestRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	s, err := raftlog.Open(dir, raftlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(manifests) == 0 {
		t.Fatalf("no manifest: %v", err)
	}
	for _, m := range manifests {
		if err := os.WriteFile(m, []byte("this is no manifest at all, whatever its name says"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := raftlog.Open(dir, raftlog.Options{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("opened, or the directory is not named: %v", err)
	}
}
