package processors

import (
	"io/fs"
	"os"

	"pontoon/internal/tuning/cgroup"
)

// Meter looks at the processors. It is not safe for concurrent use.
type Meter struct {
	root   fs.FS
	groups *cgroup.Groups
	ticks  ticks // at the last call of Busy
}

// New returns a meter that reads the files below root, "/" of the machine. The mounts of control groups are
// looked for once; limits, and the group that the process is in, may change at any time.
func New(root fs.FS) *Meter {
	return &Meter{root: root, groups: cgroup.Of(root, "cpu")}
}

// Machine returns a meter of the process and the machine that it runs on.
func Machine() *Meter { return New(os.DirFS("/")) }

// Limit is how many processors' time the process may use; 0: there is no limit, or the system does not say.
func (m *Meter) Limit() (cpus float64) {
	for _, g := range m.groups.Now() {
		if most := limit(g); most > 0 && (cpus == 0 || most < cpus) {
			cpus = most
		}
	}
	return cpus
}

// Busy is the share of the time of all processors that anybody has used since the last call, 0 to 1. It is 0 at
// the first call, and where the system does not say.
func (m *Meter) Busy() float64 {
	was := m.ticks
	m.ticks = ticks{}
	data, err := fs.ReadFile(m.root, "proc/stat")
	if err != nil {
		return 0
	}
	now, err := parseTicks(data)
	if err != nil {
		return 0
	}
	m.ticks = now
	if was.all == 0 || now.all <= was.all || now.idle < was.idle {
		return 0
	}
	return min(max(1-float64(now.idle-was.idle)/float64(now.all-was.all), 0), 1)
}
