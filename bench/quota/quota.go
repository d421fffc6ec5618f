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

// Limits are what each group is held to. Zero values limit nothing.
type Limits struct {
	CPUs float64 // processors' time; CPUsMin at least
	// Writes is how many writes a second are let through to the disk that Dir is on.
	Writes int
	Dir    string
}

// String tells what is limited.
func (l Limits) String() string {
	var parts []string
	if l.CPUs != 0 {
		parts = append(parts, fmt.Sprintf("%g processors", l.CPUs))
	}
	if l.Writes != 0 {
		parts = append(parts, fmt.Sprintf("%d writes a second", l.Writes))
	}
	return strings.Join(parts, " and ")
}

func (l Limits) check() error {
	if l.CPUs == 0 && l.Writes == 0 || l.CPUs != 0 && !(l.CPUs >= CPUsMin) {
		return fmt.Errorf("a quota of processors is %g at least", CPUsMin)
	}
	if l.Writes < 0 {
		return errors.New("a number of writes is not negative")
	}
	return nil
}

// controllers are what limits need, by the names that version 1 and version 2 have for them.
func (l Limits) controllers() (v1, v2 []string) {
	if l.CPUs != 0 {
		v1, v2 = append(v1, "cpu"), append(v2, "cpu")
	}
	if l.Writes != 0 {
		v1, v2 = append(v1, "blkio"), append(v2, "io")
	}
	return v1, v2
}

// hierarchy is a tree of control groups.
type hierarchy struct {
	dir     string   // where it is mounted
	v2      bool     // one tree has all controllers
	limits  []string // the controllers by which it limits what is in its groups
	missing []string // those of them that its root does not let groups below it have yet
}

// find returns the hierarchies that a group must be in to be limited and counted. Version 1 counts processors' time apart from
// limiting it.
func find(mountinfo []byte, read func(name string) ([]byte, error), l Limits) ([]hierarchy, error) {
	v1, v2 := l.controllers()
	mounts, unified := map[string]hierarchy{}, []hierarchy(nil)
	for line := range strings.Lines(string(mountinfo)) {
		left, right, ok := strings.Cut(line, " - ")
		of, fields := strings.Fields(left), strings.Fields(right)
		if !ok || len(of) < 5 || len(fields) < 3 || strings.ContainsAny(of[4], `\'`) {
			continue
		}
		dir := of[4]
		switch fields[0] {
		case "cgroup2":
			all, _ := read(filepath.Join(dir, "cgroup.controllers")) // none, where it cannot be read
			on, _ := read(filepath.Join(dir, "cgroup.subtree_control"))
			if lacks(all, v2) == nil {
				unified = append(unified, hierarchy{dir: dir, v2: true, limits: v2, missing: lacks(on, v2)})
			}
		case "cgroup":
			for _, name := range strings.Split(fields[2], ",") {
				if _, seen := mounts[name]; !seen {
					mounts[name] = hierarchy{dir: dir}
				}
			}
		}
	}
	var out []hierarchy
	for _, name := range v1 {
		h, ok := mounts[name]
		if !ok {
			break
		}
		h.limits = []string{name}
		out = append(out, h)
	}
	switch {
	case len(out) == len(v1):
		if count, ok := mounts["cpuacct"]; ok && l.CPUs != 0 && count.dir != mounts["cpu"].dir {
			out = append(out, count)
		}
		return out, nil
	case len(unified) > 0:
		return unified[:1], nil
	}
	return nil, fmt.Errorf("no hierarchy of control groups that can limit %v is mounted", l)
}

// lacks returns what of names is not in a list of words.
func lacks(list []byte, names []string) (missing []string) {
	for _, name := range names {
		if !slices.Contains(strings.Fields(string(list)), name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// Groups are control groups that each hold what runs in them to the same limits.
type Groups struct {
	trees   []hierarchy
	disk    string     // whose writes are limited; empty: none's
	dirs    [][]string // of each group: one per hierarchy
	remover *exec.Cmd
	holds   io.Closer // the remover acts when it is closed
}

var made atomic.Int64 // so that no two groups of this process share a name

// Make makes n groups. An error says why this machine or this user cannot have them; nothing is left behind then.
func Make(n int, l Limits) (*Groups, error) {
	g, err := makeGroups(n, l)
	if err != nil {
		return nil, fmt.Errorf("hold servers to %v: %w (it takes Linux, root, and a writable /sys/fs/cgroup)", l, err)
	}
	return g, nil
}

func makeGroups(n int, l Limits) (_ *Groups, err error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	trees, err := find(info, os.ReadFile, l)
	if err != nil {
		return nil, err
	}
	disk := ""
	if l.Writes != 0 {
		if disk, err = diskOf(l.Dir); err != nil {
			return nil, err
		}
	}
	g := &Groups{trees: trees, disk: disk}
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
			if err := h.make(dirs[i], l, disk); err != nil {
				return nil, errors.Join(err, g.Close())
			}
		}
	}
	return g, nil
}

func (h hierarchy) make(dir string, l Limits, disk string) error {
	for _, c := range h.missing {
		if h.v2 {
			if err := os.WriteFile(filepath.Join(h.dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
				return err
			}
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	quota, each := strconv.FormatInt(int64(l.CPUs*float64(period.Microseconds())), 10), strconv.FormatInt(period.Microseconds(), 10)
	var errs []error
	set := func(file, text string) { errs = append(errs, os.WriteFile(filepath.Join(dir, file), []byte(text), 0)) }
	for _, c := range h.limits {
		switch {
		case c == "cpu" && h.v2:
			set("cpu.max", quota+" "+each)
		case c == "cpu":
			set("cpu.cfs_period_us", each)
			set("cpu.cfs_quota_us", quota)
		default:
			errs = append(errs, h.setWrites(dir, disk, l.Writes))
		}
	}
	return errors.Join(errs...)
}

// setWrites limits the writes of the group in dir to a disk; 0: not.
func (h hierarchy) setWrites(dir, disk string, writes int) error {
	file, text := "blkio.throttle.write_iops_device", fmt.Sprintf("%s %d", disk, writes)
	switch {
	case h.v2 && writes == 0:
		file, text = "io.max", disk+" wiops=max"
	case h.v2:
		file, text = "io.max", fmt.Sprintf("%s wiops=%d", disk, writes)
	}
	return os.WriteFile(filepath.Join(dir, file), []byte(text), 0)
}

// SetWrites lets group i write to the disk so many times a second from now on; 0: as often as it can. The groups must have been made with a
// limit of writes.
func (g *Groups) SetWrites(i, writes int) error {
	for t, h := range g.trees {
		if slices.Contains(h.limits, "blkio") || slices.Contains(h.limits, "io") {
			return h.setWrites(g.dirs[i][t], g.disk, writes)
		}
	}
	return errors.New("the writes of these groups were never limited")
}

// diskOf is the number, as MAJOR:MINOR, of the whole disk that a directory is on: parts of one cannot be limited.
func diskOf(dir string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("find the disk of %s: %w", dir, err)
	}
	major, minor := st.Dev>>8&0xfff|st.Dev>>32&^0xfff, st.Dev&0xff|st.Dev>>12&^0xff // as Linux packs them
	number := fmt.Sprintf("%d:%d", major, minor)
	at := filepath.Join("/sys/dev/block", number)
	if _, err := os.Stat(at); err != nil {
		return "", fmt.Errorf("%s is on no disk: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(at, "partition")); err != nil {
		return number, nil
	}
	real, err := filepath.EvalSymlinks(at)
	if err != nil {
		return "", err
	}
	whole, err := os.ReadFile(filepath.Join(filepath.Dir(real), "dev"))
	return strings.TrimSpace(string(whole)), err
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
