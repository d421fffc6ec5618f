package processors

import (
	"maps"
	"math"
	"testing"
	"testing/fstest"
	"time"
)

// box is a machine's files, and its clock.
type box struct {
	fstest.MapFS
	now time.Time
	m   *Meter
}

func newBox(files map[string]string) *box {
	b := &box{MapFS: fstest.MapFS{}, now: time.Unix(1000, 0)}
	b.set(files)
	b.m = New(b.MapFS, func() time.Time { return b.now })
	b.m.Busy()
	return b
}

func (b *box) set(files map[string]string) {
	for name, text := range files {
		b.MapFS[name] = &fstest.MapFile{Data: []byte(text)}
	}
}

// after lets a second pass in which files have changed.
func (b *box) after(files map[string]string) float64 {
	b.now = b.now.Add(time.Second)
	b.set(files)
	return b.m.Busy()
}

func with(all ...map[string]string) map[string]string {
	sum := map[string]string{}
	for _, files := range all {
		maps.Copy(sum, files)
	}
	return sum
}

var (
	idle = map[string]string{"proc/stat": "cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1\n"}
	// In a second, two processors had 50 of 200 hundredths to do.
	quarter = map[string]string{"proc/stat": "cpu  130 0 120 1100 50 0 0 0 0 0\ncpu0 1\n"}

	v2 = map[string]string{
		"proc/self/mountinfo":              "30 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n29 23 0:3 / / rw - ext4 /dev/vda rw\n",
		"proc/self/cgroup":                 "0::/pods/one\n",
		"sys/fs/cgroup/pods/cpu.max":       "max 100000\n",
		"sys/fs/cgroup/pods/one/cpu.max":   "12000 100000\n",
		"sys/fs/cgroup/pods/one/cpu.stat":  "usage_usec 5000000\nuser_usec 1\nnr_periods 50\nnr_throttled 3\nthrottled_usec 9\n",
		"sys/fs/cgroup/cpu.stat":           "usage_usec 9999999\n",
		"sys/fs/cgroup/pods/cpu.stat":      "usage_usec 9999999\nnr_throttled 0\n",
		"sys/fs/cgroup/pods/other/cpu.max": "1000 100000\n",
	}
	v1 = map[string]string{
		"proc/self/mountinfo": "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n" +
			"33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
		"proc/self/cgroup":                        "2:cpuacct:/a/b\n1:cpu:/a/b\n0::/\n",
		"sys/fs/cgroup/cpu/cpu.cfs_quota_us":      "-1\n",
		"sys/fs/cgroup/cpu/cpu.cfs_period_us":     "100000\n",
		"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us":    "50000\n",
		"sys/fs/cgroup/cpu/a/cpu.cfs_period_us":   "100000\n",
		"sys/fs/cgroup/cpu/a/cpu.stat":            "nr_periods 1\nnr_throttled 1\nthrottled_time 7\n",
		"sys/fs/cgroup/cpuacct/a/cpuacct.usage":   "1000000000\n",
		"sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us":  "200000\n",
		"sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n",
		"sys/fs/cgroup/cpu/a/b/cpu.stat":          "nr_periods 1\nnr_throttled 1\nthrottled_time 7\n",
		"sys/fs/cgroup/cpuacct/a/b/cpuacct.usage": "1000000000\n",
	}
)

func TestBusy(t *testing.T) {
	for name, c := range map[string]struct {
		before, after map[string]string
		busy, limit   float64
	}{
		"no control groups":   {idle, quarter, 0.25, 0},
		"nothing at all":      {nil, nil, 0, 0},
		"counters went back":  {quarter, idle, 0, 0},
		"damaged stat":        {idle, map[string]string{"proc/stat": "cpu x y"}, 0, 0},
		"v2, below the limit": {with(idle, v2), map[string]string{"sys/fs/cgroup/pods/one/cpu.stat": "usage_usec 5060000\nnr_throttled 3\n"}, 0.5, 0.12},
		"v2, at the limit":    {with(idle, v2), with(quarter, map[string]string{"sys/fs/cgroup/pods/one/cpu.stat": "usage_usec 5120000\nnr_throttled 13\n"}), 1, 0.12},
		// Threads on other processors kept parts of the quota that they did not use.
		"v2, throttled with quota left": {with(idle, v2), map[string]string{"sys/fs/cgroup/pods/one/cpu.stat": "usage_usec 5080000\nnr_throttled 12\n"}, 0.9, 0.12},
		"v2, the machine is busier":     {with(idle, v2), with(quarter, map[string]string{"sys/fs/cgroup/pods/one/cpu.stat": "usage_usec 5001200\nnr_throttled 3\n"}), 0.25, 0.12},
		"v2, no statistics":             {with(idle, v2), with(quarter, map[string]string{"sys/fs/cgroup/pods/one/cpu.stat": "what\n"}), 0.25, 0.12},
		"v2, the limit is lifted":       {with(idle, v2), with(quarter, map[string]string{"sys/fs/cgroup/pods/one/cpu.max": "max 100000\n"}), 0.25, 0},
		"v2, a damaged limit":           {with(idle, v2), with(quarter, map[string]string{"sys/fs/cgroup/pods/one/cpu.max": "12000 0\n"}), 0.25, 0},
		"v2, seen as the root by a container": {with(idle, v2, map[string]string{
			"proc/self/mountinfo":   "30 23 0:28 /pods/one /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/cpu.max": "50000 100000\n", "sys/fs/cgroup/cpu.stat": "usage_usec 0\n"}),
			map[string]string{"sys/fs/cgroup/cpu.stat": "usage_usec 100000\n"}, 0.2, 0.5},
		"v2, a group of another container": {with(idle, v2, map[string]string{
			"proc/self/mountinfo":   "30 23 0:28 /pods/two /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/cpu.max": "50000 100000\n", "sys/fs/cgroup/cpu.stat": "usage_usec 0\n"}),
			map[string]string{"sys/fs/cgroup/cpu.stat": "usage_usec 100000\n"}, 0.2, 0.5},
		"v1, the group above is tighter": {with(idle, v1), with(quarter, map[string]string{
			"sys/fs/cgroup/cpuacct/a/cpuacct.usage":   "1400000000\n",
			"sys/fs/cgroup/cpuacct/a/b/cpuacct.usage": "1100000000\n"}), 0.8, 0.5},
		"v1, throttled, usage unknown": {with(idle, v1, map[string]string{"proc/self/cgroup": "1:cpu:/a/b\n"}), map[string]string{
			"sys/fs/cgroup/cpu/a/cpu.stat": "nr_periods 11\nnr_throttled 8\nthrottled_time 7\n"}, 0.7, 0.5},
		// What is counted there is the whole machine's.
		"v1, limited in one group, counted in another": {with(idle, v1, map[string]string{
			"proc/self/cgroup": "2:cpuacct:/\n1:cpu:/a/b\n0::/\n", "sys/fs/cgroup/cpuacct/cpuacct.usage": "5000000000\n"}),
			map[string]string{"sys/fs/cgroup/cpuacct/cpuacct.usage": "6900000000\n"}, 0, 0.5},
		"v1, both controllers in one place": {with(idle, map[string]string{
			"proc/self/mountinfo":                             `32 31 0:29 /docker/x /sys/fs/cgroup/cpu\040and rw - cgroup cgroup rw,cpu,cpuacct` + "\n",
			"proc/self/cgroup":                                "4:cpu,cpuacct:/docker/x\n",
			"sys/fs/cgroup/cpu and/cpu.cfs_quota_us":          "100000\n",
			"sys/fs/cgroup/cpu and/cpu.cfs_period_us":         "50000\n",
			"sys/fs/cgroup/cpu and/cpuacct.usage":             "0\n",
			"sys/fs/cgroup/cpu and/docker/x/cpuacct.usage":    "77\n",
			"sys/fs/cgroup/cpu and/docker/x/cpu.cfs_quota_us": "1\n"}),
			map[string]string{"sys/fs/cgroup/cpu and/cpuacct.usage": "1000000000\n"}, 0.5, 2},
	} {
		b := newBox(c.before)
		busy, limit := b.after(c.after), b.m.Limit()
		if math.Abs(busy-c.busy) > 1e-9 || math.Abs(limit-c.limit) > 1e-9 {
			t.Errorf("%s: busy %v of %v processors, want %v of %v", name, busy, limit, c.busy, c.limit)
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

// A process that is put into another group is measured there, from the next look on.
func TestAProcessMoves(t *testing.T) {
	b := newBox(with(idle, v2))
	moved := map[string]string{"proc/self/cgroup": "0::/pods/other\n", "sys/fs/cgroup/pods/other/cpu.stat": "usage_usec 700\nnr_throttled 900\n"}
	if got := b.after(moved); got != 0 || b.m.Limit() != 0.01 {
		t.Fatalf("busy %v of %v where nothing was seen before", got, b.m.Limit())
	}
	if got := b.after(map[string]string{"sys/fs/cgroup/pods/other/cpu.stat": "usage_usec 5700\nnr_throttled 900\n"}); got != 0.5 {
		t.Fatalf("busy %v", got)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(v2["proc/self/mountinfo"], v2["proc/self/cgroup"], "12000 100000", "usage_usec 1\nnr_throttled 2", idle["proc/stat"])
	f.Add(v1["proc/self/mountinfo"], v1["proc/self/cgroup"], "-1", "nr_throttled 9223372036854775807", "cpu 1")
	f.Add("1 2 3 / /../.. - cgroup2 x y", "0::/../../a", "9223372036854775807 1", "", "cpu  1 2 3 4 5 6 7 18446744073709551615")
	f.Fuzz(func(t *testing.T, mounts, own, limit, stat, machine string) {
		files := map[string]string{"proc/self/mountinfo": mounts, "proc/self/cgroup": own, "proc/stat": machine,
			"sys/fs/cgroup/cpu.max": limit, "sys/fs/cgroup/cpu.stat": stat}
		b := newBox(files)
		if got := b.after(with(idle)); !(got >= 0 && got <= 1) {
			t.Fatalf("busy %v", got)
		}
		if got := b.after(files); !(got >= 0 && got <= 1) || !(b.m.Limit() >= 0) {
			t.Fatalf("busy %v of %v", got, b.m.Limit())
		}
	})
}
