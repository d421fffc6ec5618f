package processors

import (
	"io/fs"
	"os"
	"time"
)

// Meter tells how busy the processors have been between two calls of Busy. It is not safe for concurrent use.
type Meter struct {
	root   fs.FS
	now    func() time.Time
	mounts []mount // of the hierarchies that limit or count CPU time

	at    time.Time // of the last call
	ticks ticks
	last  map[string]counts // by the group's directory
	cpus  float64
}

// New returns a meter that reads the files below root, "/" of the machine. The mounts of control groups are
// looked for once; limits, and the group that the process is in, may change at any time.
func New(root fs.FS, now func() time.Time) *Meter {
	m := &Meter{root: root, now: now, last: map[string]counts{}}
	if info, err := fs.ReadFile(root, "proc/self/mountinfo"); err == nil {
		m.mounts = parseMounts(info)
	}
	return m
}

// Machine returns a meter of the process and the machine that it runs on.
func Machine() *Meter { return New(os.DirFS("/"), time.Now) }

// Busy is the share of the time that the process could have had since the last call which was used, 0 to 1: of all
// processors by anybody, or, where that is more, of a limit on the process by those that the limit holds for. A
// period that ended with the limit used up counts whole. It is 0 at the first call, and where the system does not say.
func (m *Meter) Busy() float64 {
	now := m.now()
	passed := now.Sub(m.at)
	busy := m.machine()
	last := m.last
	m.last, m.cpus = make(map[string]counts, len(last)), 0
	for _, g := range m.groups() {
		c, limited := g.read(m.root)
		if !limited {
			continue
		}
		if cpus := c.cpus(); m.cpus == 0 || cpus < m.cpus {
			m.cpus = cpus
		}
		m.last[g.dir] = c
		if was, ok := last[g.dir]; ok {
			busy = max(busy, c.busySince(was, passed))
		}
	}
	m.at = now
	return min(max(busy, 0), 1)
}

// Limit is how many processors' time the process may use, as the last call of Busy found it; 0: there is no limit.
func (m *Meter) Limit() float64 { return m.cpus }

func (m *Meter) machine() float64 {
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
	return 1 - float64(now.idle-was.idle)/float64(now.all-was.all)
}
