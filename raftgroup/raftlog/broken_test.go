package raftlog_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/raftgroup/raftlog"
)

// failingFS is a disk on which, once told so, the files whose names hold a word cannot be synced.
type failingFS struct {
	vfs.FS
	word   string
	failed atomic.Bool
}

var errDisk = errors.New("the disk is gone")

func (fs *failingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return &failingFile{f, fs, name}, err
}

func (fs *failingFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(old, name, c)
	return &failingFile{f, fs, name}, err
}

type failingFile struct {
	vfs.File
	fs   *failingFS
	name string
}

func (f *failingFile) err() error {
	if f.fs.failed.Load() && strings.Contains(f.name, f.fs.word) {
		return errDisk
	}
	return nil
}

func (f *failingFile) Sync() error     { return errors.Join(f.err(), f.File.Sync()) }
func (f *failingFile) SyncData() error { return errors.Join(f.err(), f.File.SyncData()) }
func (f *failingFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, errors.Join(f.err(), err)
}

// childOf names the test that this process is to run alone: a store that is broken leaves goroutines
// of Pebble's behind for good.
const childOf = "RAFTLOG_TEST_CHILD_OF"

// A disk that fails under a save, or in the background between two of them, is told once; nothing
// is acknowledged from then on, and nothing hangs.
func TestADiskThatFails(t *testing.T) {
	if os.Getenv(childOf) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=1m")
		cmd.Env = append(os.Environ(), childOf+"="+t.Name())
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	for _, word := range []string{".log", "MANIFEST"} {
		t.Run(word, func(t *testing.T) {
			for range 10 { // who hears first of a failure is a matter of luck
				failADisk(t, word)
			}
		})
	}
}

func failADisk(t *testing.T, word string) {
	fs := &failingFS{FS: vfs.NewMem(), word: word}
	fatal := make(chan error, 2)
	s, err := raftlog.Open("log", raftlog.Options{FS: fs, MemTableBytes: 64 << 10, OnFatal: func(err error) { fatal <- err }})
	if err != nil {
		t.Fatal(err)
	}
	save := func(index uint64) error {
		e := &raftpb.Entry{Term: new(uint64), Index: &index, Data: make([]byte, 16<<10)}
		return s.Save([]raftgroup.Update{{Group: 5, Entries: []*raftpb.Entry{e}}})
	}
	if err := save(1); err != nil {
		t.Fatal(err)
	}
	fs.failed.Store(true)
	var failed error
	index := uint64(2)
	for deadline := time.Now().Add(20 * time.Second); failed == nil && time.Now().Before(deadline); index++ {
		failed = save(index)
	}
	if failed == nil || !strings.Contains(failed.Error(), errDisk.Error()) {
		t.Fatalf("after %d saves: %v", index, failed)
	}
	if word == ".log" && index != 3 {
		t.Errorf("entry %d was acknowledged and not synced", index-2)
	}
	if err := <-fatal; !strings.Contains(err.Error(), errDisk.Error()) {
		t.Errorf("told: %v", err)
	}
	if err := save(index); err == nil {
		t.Error("a save after the failure was acknowledged")
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), errDisk.Error()) {
		t.Errorf("close: %v", err)
	}
	if len(fatal) != 0 {
		t.Errorf("told again: %v", <-fatal)
	}
}
