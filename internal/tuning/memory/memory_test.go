package memory

import (
	"math"
	"testing"
	"testing/fstest"
)

func TestLeast(t *testing.T) {
	const (
		total = "MemTotal:        2048 kB\nMemFree:  1 kB\n"
		v2    = "30 24 0:26 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
		v1    = "33 24 0:29 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n31 24 0:28 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
	)
	for _, c := range []struct {
		name    string
		files   map[string]string
		runtime int64
		want    int64
	}{
		{"nothing is said", nil, math.MaxInt64, 0},
		{"the machine", map[string]string{"proc/meminfo": total}, math.MaxInt64, 2 << 20},
		{"the runtime", map[string]string{"proc/meminfo": total}, 1000, 1000},
		{"nonsense", map[string]string{"proc/meminfo": "MemTotal: much kB\n"}, math.MaxInt64, 0},
		{"a group above", map[string]string{
			"proc/meminfo": total, "proc/self/mountinfo": v2, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/memory.max": "1048576\n", "sys/fs/cgroup/a/b/memory.max": "max\n",
		}, math.MaxInt64, 1 << 20},
		{"the first version", map[string]string{
			"proc/meminfo": total, "proc/self/mountinfo": v1, "proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/c\n",
			"sys/fs/cgroup/memory/m/memory.limit_in_bytes": "4096\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, math.MaxInt64, 4096},
	} {
		root := fstest.MapFS{}
		for name, data := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(data)}
		}
		if got := least(root, c.runtime); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
