package quota

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// CPUsMin is the smallest quota: what Linux takes is a millisecond, of the usual period of a hundred.
const CPUsMin = 0.01

// period is the time within which a quota may be used: Linux's own default, and that of containers.
const period = 100 * time.Millisecond

// hierarchy is a tree of control groups.
type hierarchy struct {
	dir     string // where it is mounted
	v2      bool
	limits  bool // it can hold groups to a quota; else it counts what they use
	enabled bool // its root lets groups below it have a quota
}

// find returns the hierarchies that a group must be in to be limited and counted.
func find(mountinfo []byte, read func(name string) ([]byte, error)) ([]hierarchy, error) {
	var limit, count, unified []hierarchy
	for line := range strings.Lines(string(mountinfo)) {
		left, right, ok := strings.Cut(line, " - ")
		of, fields := strings.Fields(left), strings.Fields(right)
		if !ok || len(of) < 5 || len(fields) < 3 || strings.ContainsAny(of[4], `\'`) {
			continue
		}
		dir, names := of[4], strings.Split(fields[2], ",")
		switch {
		case fields[0] == "cgroup2":
			all, _ := read(filepath.Join(dir, "cgroup.controllers")) // none, where it cannot be read
			on, _ := read(filepath.Join(dir, "cgroup.subtree_control"))
			if slices.Contains(strings.Fields(string(all)), "cpu") {
				unified = append(unified, hierarchy{dir, true, true, slices.Contains(strings.Fields(string(on)), "cpu")})
			}
		case fields[0] == "cgroup" && slices.Contains(names, "cpu"):
			limit = append(limit, hierarchy{dir: dir, limits: true, enabled: true})
		case fields[0] == "cgroup" && slices.Contains(names, "cpuacct"):
			count = append(count, hierarchy{dir: dir, enabled: true})
		}
	}
	switch {
	case len(limit) > 0:
		return append(limit[:1], count[:min(1, len(count))]...), nil
	case len(unified) > 0:
		return unified[:1], nil
	}
	return nil, errors.New("no hierarchy of control groups that can limit CPU time is mounted")
}

// Groups are control groups that each hold what runs in them to a quota.
type Groups struct {
	dirs    [][]string // of each group: one per hierarchy
	remover *exec.Cmd
	holds   io.Closer // the remover acts when it is closed
}

var made atomic.Int64 // so that no two groups of this process share a name

// Make makes n groups of cpus processors each, CPUsMin at least. An error says why this machine or this user cannot have
// them; nothing is left behind then.
func Make(n int, cpus float64) (*Groups, error) {
	g, err := makeGroups(n, cpus)
	if err != nil {
		return nil, fmt.Errorf("hold servers to %g processors: %w (it takes Linux, root, and a writable /sys/fs/cgroup)", cpus, err)
	}
	return g, nil
}

func makeGroups(n int, cpus float64) (_ *Groups, err error) {
	if !(cpus >= CPUsMin) {
		return nil, fmt.Errorf("a quota is %g at least", CPUsMin)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	trees, err := find(info, os.ReadFile)
	if err != nil {
		return nil, err
	}
	g := &Groups{}
	for range n {
		name := fmt.Sprintf("pontoon-bench-%d-%d", os.Getpid(), made.Add(1))
		var dirs []string
		for _, h := range trees {
			dirs = append(dirs, filepath.Join(h.dir, name))
		}
		g.dirs = append(g.dirs, dirs)
	}
	if err := g.startRemover(); err != nil { // before there is anything to remove
		return nil, err
	}
	for _, dirs := range g.dirs {
		for i, h := range trees {
			if err := h.make(dirs[i], cpus); err != nil {
				return nil, errors.Join(err, g.Close())
			}
		}
	}
	return g, nil
}

func (h hierarchy) make(dir string, cpus float64) error {
	if !h.enabled {
		if err := os.WriteFile(filepath.Join(h.dir, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if !h.limits {
		return nil
	}
	quota := strconv.FormatInt(int64(cpus*float64(period.Microseconds())), 10)
	each := strconv.FormatInt(period.Microseconds(), 10)
	if h.v2 {
		return os.WriteFile(filepath.Join(dir, "cpu.max"), []byte(quota+" "+each), 0)
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "cpu.cfs_period_us"), []byte(each), 0),
		os.WriteFile(filepath.Join(dir, "cpu.cfs_quota_us"), []byte(quota), 0))
}

// Command is what a program and its arguments are put behind to run in group i from its first instruction on: Go looks at
// the limit when it starts. The process ID is that of the program.
func (g *Groups) Command(i int) []string {
	var script strings.Builder
	for _, dir := range g.dirs[i] {
		fmt.Fprintf(&script, "echo $$ >'%s' && ", filepath.Join(dir, "cgroup.procs"))
	}
	script.WriteString(`exec "$@"`)
	return []string{"/bin/sh", "-c", script.String(), "sh"}
}

// removal waits for the end of its input, which comes when the benchmark closes it or ends in whatever way, and then
// removes the directories that it is given, for as long as processes that are about to end may be in them.
const removal = `cat >/dev/null
for i in 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9; do
  left=
  for d; do [ ! -d "$d" ] || rmdir "$d" 2>/dev/null || left="$left $d"; done
  [ -n "$left" ] || exit 0
  sleep 0.1
done
echo "still in use:$left" >&2
exit 1`

// startRemover starts the process that removes the groups. It is one of its own, so that a benchmark that is killed leaves
// nothing behind.
func (g *Groups) startRemover() error {
	g.remover = exec.Command("/bin/sh", append([]string{"-c", removal, "sh"}, slices.Concat(g.dirs...)...)...)
	g.remover.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is not for it
	g.remover.Stderr = os.Stderr                                // which may outlive us
	in, err := g.remover.StdinPipe()
	if err != nil {
		return err
	}
	g.holds = in
	return g.remover.Start()
}

// Close removes the groups. What ran in them must have ended; else it is an error, and standard error names the groups.
func (g *Groups) Close() error {
	err := g.holds.Close()
	if failed := g.remover.Wait(); failed != nil {
		err = errors.Join(err, fmt.Errorf("remove control groups: %w", failed))
	}
	return err
}
