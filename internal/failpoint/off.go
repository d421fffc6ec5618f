//go:build !failpoints

package failpoint

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Enabled tells whether the process can be broken.
const Enabled = false

// Serve takes orders; here it takes none.
func Serve() error { return nil }

// Handle registers what is done when name is posted.
func Handle(string, func() error) {}

// Clock is the time that the process is to believe.
func Clock(now time.Time) time.Time { return now }

// FS is the file system that the shared log is to use; nil is the default one.
func FS() vfs.FS { return nil }
