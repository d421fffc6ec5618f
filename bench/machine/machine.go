package machine

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Machine is what a benchmark ran on.
type Machine struct {
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	Kernel     string `json:"kernel,omitempty"`
	CPU        string `json:"cpu,omitempty"`
	Cores      int    `json:"cores"`
	Memory     int64  `json:"memory_bytes,omitempty"`
	Go         string `json:"go"`
	FileSystem string `json:"file_system,omitempty"` // of the data directories
}

// Describe tells what this machine is, and on what a directory lies. What it cannot find out it
// leaves out.
func Describe(dir string) Machine {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = cpuModel(string(b))
	}
	if kilobytes, err := number(os.DirFS("/proc"), "meminfo", "MemTotal"); err == nil {
		m.Memory = kilobytes * 1024
	}
	if b, err := os.ReadFile("/proc/self/mounts"); err == nil && dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			m.FileSystem = fileSystem(string(b), abs)
		}
	}
	return m
}

// InMemory tells whether a file system keeps its files in memory, where an fsync costs nothing.
func InMemory(fileSystem string) bool {
	return fileSystem == "tmpfs" || fileSystem == "ramfs"
}

func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fileSystem finds the kind of the mount that a path lies on; the last of equals is on top.
func fileSystem(mounts, path string) string {
	best, kind := -1, ""
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		at := strings.ReplaceAll(f[1], `\040`, " ")
		if at != "/" && path != at && !strings.HasPrefix(path, at+"/") {
			continue
		}
		if len(at) >= best {
			best, kind = len(at), f[2]
		}
	}
	return kind
}
