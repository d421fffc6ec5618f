package processors

import (
	"maps"
	"testing"
	"testing/fstest"
)

func files(all ...map[string]string) fstest.MapFS {
	sum := map[string]string{}
	for _, some := range all {
		maps.Copy(sum, some)
	}
	root := fstest.MapFS{}
	for name, text := range sum {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

type texts = map[string]string

var (
	v2 = texts{
		"proc/self/mountinfo":              "30 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n29 23 0:3 / / rw - ext4 /dev/vda rw\n",
		"proc/self/cgroup":                 "0::/pods/one\n",
		"sys/fs/cgroup/pods/cpu.max":       "max 100000\n",
		"sys/fs/cgroup/pods/one/cpu.max":   "12000 100000\n",
		"sys/fs/cgroup/pods/other/cpu.max": "1000 100000\n",
	}
	v1 = texts{
		"proc/self/mountinfo": "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n" +
			"33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
		"proc/self/cgroup":                        "2:cpuacct:/x\n1:cpu:/a/b\n0::/\n",
		"sys/fs/cgroup/cpu/cpu.cfs_quota_us":      "-1\n",
		"sys/fs/cgroup/cpu/cpu.cfs_period_us":     "100000\n",
		"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us":    "50000\n",
		"sys/fs/cgroup/cpu/a/cpu.cfs_period_us":   "100000\n",
		"sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us":  "200000\n",
		"sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n",
	}
)

func TestLimit(t *testing.T) {
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  float64
	}{
		"no control groups":    {files(), 0},
		"v2":                   {files(v2), 0.12},
		"v2, the one above":    {files(v2, texts{"sys/fs/cgroup/pods/cpu.max": "3000 50000\n"}), 0.06},
		"v2, lifted":           {files(v2, texts{"sys/fs/cgroup/pods/one/cpu.max": "max 100000\n"}), 0},
		"v2, damaged":          {files(v2, texts{"sys/fs/cgroup/pods/one/cpu.max": "12000 0\n"}), 0},
		"v2, a hybrid's root":  {files(v2, texts{"proc/self/cgroup": "0::/\n"}), 0},
		"v2, no groups listed": {files(v2, texts{"proc/self/cgroup": "what\n"}), 0},
		"v2, seen as the root by a container": {files(v2, texts{
			"proc/self/mountinfo":   "30 23 0:28 /pods/one /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/cpu.max": "50000 100000\n"}), 0.5},
		"v2, a group of another container": {files(v2, texts{
			"proc/self/mountinfo":   "30 23 0:28 /pods/two /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/cpu.max": "50000 100000\n"}), 0.5},
		"v1, the group above is tighter": {files(v1), 0.5},
		"v1, no quota":                   {files(v1, texts{"proc/self/cgroup": "1:cpu:/\n"}), 0},
		"v1, several controllers in one place": {files(texts{
			"proc/self/mountinfo":                      `32 31 0:29 /docker/x /sys/fs/cgroup/cpu\040and rw - cgroup cgroup rw,cpu,cpuacct` + "\n",
			"proc/self/cgroup":                         "4:cpu,cpuacct:/docker/x\n",
			"sys/fs/cgroup/cpu and/cpu.cfs_quota_us":   "100000\n",
			"sys/fs/cgroup/cpu and/cpu.cfs_period_us":  "50000\n",
			"sys/fs/cgroup/cpu and/x/cpu.cfs_quota_us": "1\n"}), 2},
	} {
		if got := New(c.files).Limit(); got != c.want {
			t.Errorf("%s: %v processors, want %v", name, got, c.want)
		}
	}
}

// A process that is put into another group has the limit of that, from the next look on.
func TestAProcessMoves(t *testing.T) {
	root := files(v2)
	m := New(root)
	before := m.Limit()
	root["proc/self/cgroup"] = &fstest.MapFile{Data: []byte("0::/pods/other\n")}
	if after := m.Limit(); before != 0.12 || after != 0.01 {
		t.Fatalf("%v, then %v", before, after)
	}
}

func TestBusy(t *testing.T) {
	const idle, quarter = "cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1\n", "cpu  130 0 120 1100 50 0 0 0 0 0\ncpu0 1\n"
	for name, c := range map[string]struct {
		before, after string
		want          float64
	}{
		"a quarter":          {idle, quarter, 0.25},
		"nobody says":        {"", "", 0},
		"counters went back": {quarter, idle, 0},
		"damaged":            {idle, "cpu x y", 0},
	} {
		root := files(texts{"proc/stat": c.before})
		m := New(root)
		first := m.Busy()
		root["proc/stat"] = &fstest.MapFile{Data: []byte(c.after)}
		if got := m.Busy(); first != 0 || got != c.want {
			t.Errorf("%s: busy %v, then %v, want %v", name, first, got, c.want)
		}
	}
}

func TestParseTicks(t *testing.T) {
	got, err := parseTicks([]byte("cpu  10 20 30 400 50 6 7 8 9 10\ncpu0 1 1 1 1\n"))
	if want := (ticks{all: 531, idle: 450}); err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := parseTicks([]byte("cpu  ten\n")); err == nil {
		t.Error("no error")
	}
	if got, err := parseTicks(nil); err != nil || got != (ticks{}) {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(v2["proc/self/mountinfo"], v2["proc/self/cgroup"], "12000 100000", "cpu  100 0 100 1000 0 0 0 0 0 0")
	f.Add(v1["proc/self/mountinfo"], v1["proc/self/cgroup"], "-1", "cpu 1")
	f.Add("1 2 3 / /../.. - cgroup2 x y", "0::/../../a", "9223372036854775807 1", "cpu  1 2 3 4 5 6 7 18446744073709551615")
	f.Fuzz(func(t *testing.T, mounts, own, limit, stat string) {
		root := files(texts{"proc/self/mountinfo": mounts, "proc/self/cgroup": own, "proc/stat": "cpu  9 9 9 9",
			"sys/fs/cgroup/cpu.max": limit, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": limit, "sys/fs/cgroup/cpu/cpu.cfs_period_us": "7"})
		m := New(root)
		m.Busy()
		root["proc/stat"] = &fstest.MapFile{Data: []byte(stat)}
		if busy, cpus := m.Busy(), m.Limit(); !(busy >= 0 && busy <= 1) || !(cpus >= 0) {
			t.Fatalf("busy %v of %v", busy, cpus)
		}
	})
}
