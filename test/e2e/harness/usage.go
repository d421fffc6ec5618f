package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTicks is the unit of CPU time in /proc, the same on every Linux that Go runs on.
const clockTicks = 100

// Usage is what a process has used so far.
type Usage struct {
	CPU      time.Duration
	Resident int64 // bytes, now
	Wakeups  int64 // how often one of its threads has gone to sleep
}

// Usage reads what the node's process has used; Linux alone tells.
func (n *Node) Usage() (Usage, error) {
	pid := n.PID()
	if pid == 0 {
		return Usage{}, fmt.Errorf("%s does not run", n.Name)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	// The second field is the command in brackets and may hold blanks; after it come the state
	// (3), …, utime (14), stime (15), …, rss in pages (24).
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 22 {
		return Usage{}, fmt.Errorf("unexpected /proc/%d/stat", pid)
	}
	var v [3]int64
	for i, at := range []int{14, 15, 24} {
		if v[i], err = strconv.ParseInt(f[at-3], 10, 64); err != nil {
			return Usage{}, err
		}
	}
	wakeups, err := wakeups(pid)
	return Usage{CPU: time.Duration(v[0]+v[1]) * time.Second / clockTicks, Resident: v[2] * int64(os.Getpagesize()), Wakeups: wakeups}, err
}

// wakeups adds up the voluntary context switches of a process's threads.
func wakeups(pid int) (sum int64, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // the thread has ended
		} else if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += n
	}
	return sum, err
}
