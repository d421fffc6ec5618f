package host

import (
	"testing"
	"testing/fstest"
	"time"

	"pontoon/internal/pb"
	"pontoon/internal/tuning/processors"
)

// TestVitalsUnderALimit: what a node may use of the processors is what it has, and what it has used of that is how busy it is: the planner would
// take one that waits for its quota on an idle machine for idle.
func TestVitalsUnderALimit(t *testing.T) {
	root := fstest.MapFS{}
	for name, text := range map[string]string{
		"proc/self/mountinfo":            "30 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
		"proc/self/cgroup":               "0::/pods/one\n",
		"sys/fs/cgroup/pods/one/cpu.max": "12000 100000\n",
	} {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	now, used := time.Unix(1000, 0), time.Minute
	v := &vitals{dir: t.TempDir(), now: func() time.Time { return now }, used: func() time.Duration { return used }, meter: processors.New(root)}
	var resp pb.NodeStatusResponse
	for i, want := range []uint32{0, 500, 750, 875} { // a new look counts as much as all before
		if v.tell(&resp); resp.CpuPermille != want || resp.CoresMilli != 120 {
			t.Errorf("look %d: %d ‰ of %d thousandths of a processor, want %d", i, resp.CpuPermille, resp.CoresMilli, want)
		}
		now, used = now.Add(10*time.Second), used+1200*time.Millisecond
	}
}
