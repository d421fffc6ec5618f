//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Enabled tells whether the process can be broken.
const Enabled = true

// ErrSync is what a failing fsync returns.
var ErrSync = errors.New("failpoint: input/output error")

var (
	jumped   atomic.Int64 // nanoseconds
	failSync atomic.Bool
	handlers sync.Map // string to func() error
)

// Serve takes orders from the socket, for as long as the process lives.
func Serve() error {
	dir := os.Getenv("PONTOON_FAILPOINTS")
	if dir == "" {
		return nil
	}
	path := filepath.Join(dir, fmt.Sprintf("%d.sock", os.Getpid()))
	_ = os.Remove(path) // of a process that was killed and had the same pid
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("failpoint: %w", err)
	}
	go func() { _ = http.Serve(l, http.HandlerFunc(serve)) }() // ends with the process
	return nil
}

func serve(w http.ResponseWriter, r *http.Request) {
	var err error
	switch name := r.URL.Path; name {
	case "/clock":
		var by time.Duration
		if by, err = time.ParseDuration(r.FormValue("by")); err == nil {
			jumped.Add(int64(by))
		}
	case "/sync":
		var fail bool
		if fail, err = strconv.ParseBool(r.FormValue("fail")); err == nil {
			failSync.Store(fail)
		}
	default:
		fn, ok := handlers.Load(name)
		if !ok {
			http.NotFound(w, r)
			return
		}
		err = fn.(func() error)()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// Handle registers what is done when name is posted.
func Handle(name string, fn func() error) { handlers.Store("/"+name, fn) }

// Clock is the time that the process is to believe.
func Clock(now time.Time) time.Time { return now.Add(time.Duration(jumped.Load())) }

// FS is the file system that the shared log is to use; nil is the default one.
func FS() vfs.FS { return failingFS{vfs.Default} }

// failingFS hands out files whose fsyncs can be made to fail.
type failingFS struct{ vfs.FS }

func (fs failingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return wrap(fs.FS.Create(name, c))
}

func (fs failingFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return wrap(fs.FS.OpenReadWrite(name, c, opts...))
}

func (fs failingFS) OpenDir(name string) (vfs.File, error) { return wrap(fs.FS.OpenDir(name)) }

func (fs failingFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return wrap(fs.FS.ReuseForWrite(old, name, c))
}

func (fs failingFS) Unwrap() vfs.FS { return fs.FS }

type failingFile struct{ vfs.File }

func wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return failingFile{f}, nil
}

func (f failingFile) Sync() error {
	if failSync.Load() {
		return ErrSync
	}
	return f.File.Sync()
}

func (f failingFile) SyncData() error {
	if failSync.Load() {
		return ErrSync
	}
	return f.File.SyncData()
}

func (f failingFile) SyncTo(n int64) (bool, error) {
	if failSync.Load() {
		return false, ErrSync
	}
	return f.File.SyncTo(n)
}
