package memory

import (
	"bytes"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"strconv"

	"pontoon/internal/tuning/cgroup"
)

// Limit is how many bytes the process may use; 0: nobody says.
func Limit() int64 { return least(os.DirFS("/"), debug.SetMemoryLimit(-1)) }

// least is Limit for the machine whose "/" is root, where the runtime was told so much.
func least(root fs.FS, runtime int64) int64 {
	most := int64(math.MaxInt64)
	if runtime > 0 {
		most = runtime
	}
	for _, g := range cgroup.Of(root, "memory").Now() {
		name := "memory.limit_in_bytes" // huge for none
		if g.V2 {
			name = "memory.max" // "max" for none
		}
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(g.File(name))), 10, 64); err == nil && n > 0 {
			most = min(most, n)
		}
	}
	if n := machine(root); n > 0 {
		most = min(most, n)
	}
	if most == math.MaxInt64 {
		return 0
	}
	return most
}

// machine is what proc_meminfo(5) says; 0: it does not.
func machine(root fs.FS) int64 {
	data, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(data) {
		if fields := bytes.Fields(line); len(fields) >= 2 && string(fields[0]) == "MemTotal:" {
			n, err := strconv.ParseInt(string(fields[1]), 10, 64)
			if err != nil || n < 0 || n > math.MaxInt64>>10 {
				return 0
			}
			return n << 10
		}
	}
	return 0
}
