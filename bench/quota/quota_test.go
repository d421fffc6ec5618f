package quota

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	v1Mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n"
	blkMount = "34 31 0:31 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n"
	both     = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
	v2Mounts = "30 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
	others   = "29 23 0:3 / / rw - ext4 /dev/vda rw\nx\n31 23 0:4 / /a\\040b rw - cgroup cgroup rw,cpu\n"
)

func TestFind(t *testing.T) {
	files := func(m map[string]string) func(string) ([]byte, error) {
		return func(name string) ([]byte, error) {
			if text, ok := m[name]; ok {
				return []byte(text), nil
			}
			return nil, os.ErrNotExist
		}
	}
	v2 := map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io\n", "/sys/fs/cgroup/cgroup.subtree_control": "memory\n"}
	cpu, all := Limits{CPUs: 0.5}, Limits{CPUs: 0.5, Writes: 100}
	for name, c := range map[string]struct {
		mounts string
		files  map[string]string
		limits Limits
		want   []hierarchy
	}{
		"nothing": {others, nil, cpu, nil},
		"v1": {others + v1Mounts + v2Mounts, v2, cpu, []hierarchy{
			{dir: "/sys/fs/cgroup/cpu", limits: []string{"cpu"}}, {dir: "/sys/fs/cgroup/cpuacct"},
		}},
		"v1, in one":            {both, nil, cpu, []hierarchy{{dir: "/sys/fs/cgroup/cpu,cpuacct", limits: []string{"cpu"}}}},
		"v1, writes":            {both + blkMount, nil, Limits{Writes: 7}, []hierarchy{{dir: "/sys/fs/cgroup/blkio", limits: []string{"blkio"}}}},
		"v1, all":               {both + blkMount, nil, all, []hierarchy{{dir: "/sys/fs/cgroup/cpu,cpuacct", limits: []string{"cpu"}}, {dir: "/sys/fs/cgroup/blkio", limits: []string{"blkio"}}}},
		"v1 without writes":     {both, nil, all, nil},
		"v2":                    {others + v2Mounts, v2, cpu, []hierarchy{{dir: "/sys/fs/cgroup", v2: true, limits: []string{"cpu"}, missing: []string{"cpu"}}}},
		"v2, all":               {others + v2Mounts, v2, all, []hierarchy{{dir: "/sys/fs/cgroup", v2: true, limits: []string{"cpu", "io"}, missing: []string{"cpu", "io"}}}},
		"v2, set up":            {v2Mounts, map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpu", "/sys/fs/cgroup/cgroup.subtree_control": "cpu"}, cpu, []hierarchy{{dir: "/sys/fs/cgroup", v2: true, limits: []string{"cpu"}}}},
		"v2 without controller": {v2Mounts, map[string]string{"/sys/fs/cgroup/cgroup.controllers": "io cpuset\n"}, cpu, nil},
		"v2 beside v1":          {v1Mounts[:strings.Index(v1Mounts, "\n")+1] + v2Mounts, nil, cpu, []hierarchy{{dir: "/sys/fs/cgroup/cpu", limits: []string{"cpu"}}}},
		"none that count":       {v1Mounts[strings.Index(v1Mounts, "\n")+1:], nil, cpu, nil},
	} {
		got, err := find([]byte(c.mounts), files(c.files), c.limits)
		if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

// TestWritesAreHeldToTheirNumber: what is synced in a group with 20 writes a second takes its time.
func TestWritesAreHeldToTheirNumber(t *testing.T) {
	dir := t.TempDir()
	if _, err := diskOf(dir); err != nil {
		t.Skip(err)
	}
	g, err := Make(1, Limits{Writes: 20, Dir: dir})
	if err != nil {
		t.Skip(err)
	}
	began := time.Now()
	command := append(g.Command(0), "dd", "if=/dev/zero", "of="+filepath.Join(dir, "f"), "bs=4096", "count=15", "oflag=dsync")
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	took := time.Since(began)
	if took < 500*time.Millisecond {
		t.Errorf("15 writes, of which 20 a second are let through, took %v", took)
	}
	if err := g.SetWrites(0, 0); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if free := time.Since(began); free > took/2 {
		t.Errorf("15 writes take %v without a limit, %v with one", free, took)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// make1 makes groups, or skips the test where that is impossible.
func make1(t *testing.T, n int, cpus float64) *Groups {
	t.Helper()
	g, err := Make(n, Limits{CPUs: cpus})
	if err != nil {
		t.Skip(err)
	}
	return g
}

func (g *Groups) exist(t *testing.T) (left []string) {
	t.Helper()
	for _, dir := range slices.Concat(g.dirs...) {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			left = append(left, dir)
		}
	}
	return left
}

func TestWhatRunsInAGroupIsHeldToItsQuota(t *testing.T) {
	g := make1(t, 2, 0.05)
	command := append(g.Command(1), "/bin/sh", "-c", `i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo "$1"; cat /proc/self/cgroup`, "sh", "two  words")
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if name := filepath.Base(g.dirs[1][0]); !strings.HasPrefix(string(out), "two  words\n") || !strings.Contains(string(out), "/"+name+"\n") {
		t.Errorf("it ran elsewhere than in %s, or with other arguments:\n%s", name, out)
	}
	throttled := func(i int) bool {
		b, err := os.ReadFile(filepath.Join(g.dirs[i][0], "cpu.stat"))
		if err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(string(b), "nr_throttled 0\n")
	}
	if throttled(0) || !throttled(1) {
		t.Errorf("throttled: %v, %v", throttled(0), throttled(1))
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if left := g.exist(t); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

func TestAGroupInUseStays(t *testing.T) {
	g := make1(t, 1, 0.5)
	command := append(g.Command(0), "/bin/cat")
	user := exec.Command(command[0], command[1:]...)
	in, err := user.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := user.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // cat runs now, in its group
		t.Fatal(err)
	}
	if err := g.Close(); err == nil {
		t.Error("no error while a process runs in a group")
	}
	if err := errors.Join(in.Close(), user.Wait()); err != nil {
		t.Error(err)
	}
	for _, dir := range g.exist(t) {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}

// TestMain is also a benchmark that is killed.
func TestMain(m *testing.M) {
	if os.Getenv("QUOTA_CHILD") == "" {
		os.Exit(m.Run())
	}
	g, err := Make(2, Limits{CPUs: 0.5})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(slices.Concat(g.dirs...), "\n"))
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func TestAKilledBenchmarkLeavesNothingBehind(t *testing.T) {
	if err := make1(t, 1, 0.5).Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "QUOTA_CHILD=1")
	out, err := cmd.CombinedOutput() // ends when the remover has, too
	if err == nil || !strings.Contains(string(out), "/pontoon-bench-") {
		t.Fatalf("%v: %s", err, out)
	}
	for dir := range strings.Lines(string(out)) {
		if _, err := os.Stat(strings.TrimSpace(dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestAQuotaThatLinuxWouldNotTake(t *testing.T) {
	for _, cpus := range []float64{0, -1, 0.001} {
		if g, err := Make(1, Limits{CPUs: cpus}); err == nil || !strings.Contains(err.Error(), "at least") {
			t.Errorf("%v: %v, %v", cpus, g, err)
		}
	}
}
