package machine

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// process reads one process's usage from a tree like /proc.
func process(proc fs.FS, pid int) (Usage, error) {
	cpu, err := cpuTime(proc, pid)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{CPU: cpu}
	status := fmt.Sprintf("%d/status", pid)
	for field, to := range map[string]*int64{"VmRSS": &u.Resident, "VmHWM": &u.PeakRSS, "RssAnon": &u.Anon} {
		kilobytes, err := number(proc, status, field)
		if err != nil {
			return Usage{}, err
		}
		*to = kilobytes * 1024
	}
	written, err := number(proc, fmt.Sprintf("%d/io", pid), "write_bytes")
	if err != nil {
		return Usage{}, err
	}
	// What was written into a file that was deleted before it got to the disk was not written.
	cancelled, err := number(proc, fmt.Sprintf("%d/io", pid), "cancelled_write_bytes")
	u.Written = written - cancelled
	return u, err
}

// cpuTime is what a process has spent in itself and in the kernel.
func cpuTime(proc fs.FS, pid int) (time.Duration, error) {
	name := fmt.Sprintf("%d/stat", pid)
	b, err := fs.ReadFile(proc, name)
	if err != nil {
		return 0, err
	}
	// The second field is the command in brackets and may hold blanks and brackets; utime is
	// the 14th, stime the 15th.
	at := strings.LastIndex(string(b), ") ")
	if at < 0 {
		return 0, fmt.Errorf("unexpected %s", name)
	}
	f := strings.Fields(string(b[at+2:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("unexpected %s", name)
	}
	user, err := strconv.ParseInt(f[14-3], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[15-3], 10, 64)
	return time.Duration(user+system) * time.Second / clockTicks, err
}

// busy adds up the times of /proc/stat's first line, except those of idling and waiting for disks.
func busy(proc fs.FS) (time.Duration, error) {
	b, err := fs.ReadFile(proc, "stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("unexpected stat: %q", line)
	}
	var sum int64
	for i, field := range f[1:9] { // user nice system idle iowait irq softirq steal
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		if i != 3 && i != 4 {
			sum += ticks
		}
	}
	return time.Duration(sum) * time.Second / clockTicks, nil
}

// number finds a line "field: 123 …" in a file.
func number(proc fs.FS, name, field string) (int64, error) {
	b, err := fs.ReadFile(proc, name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		key, rest, ok := strings.Cut(line, ":")
		if !ok || key != field {
			continue
		}
		f := strings.Fields(rest)
		if len(f) == 0 {
			break
		}
		return strconv.ParseInt(f[0], 10, 64)
	}
	return 0, fmt.Errorf("no %s in %s", field, name)
}
