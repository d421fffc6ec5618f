package processors

import (
	"bytes"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// depthMax bounds the groups that one lies in: each costs three small files per look.
const depthMax = 16

// mount is where a hierarchy of control groups can be seen.
type mount struct {
	dir   string   // without the leading slash
	group string   // the group that is seen there
	names []string // of the controllers in version 1; none: version 2
}

func (m mount) has(controller string) bool { return slices.Contains(m.names, controller) }

// parseMounts takes /proc/self/mountinfo (proc_pid_mountinfo(5)): number, parent, device, root, mount point, options,
// optional fields, "-", type, source, options of the file system.
func parseMounts(info []byte) (mounts []mount) {
	for line := range bytes.Lines(info) {
		left, right, ok := strings.Cut(string(line), " - ")
		of, fields := strings.Fields(left), strings.Fields(right)
		if !ok || len(of) < 5 || len(fields) < 3 {
			continue
		}
		m := mount{dir: strings.TrimPrefix(path.Clean(unescape(of[4])), "/"), group: path.Clean(unescape(of[3]))}
		if !fs.ValidPath(m.dir) {
			continue
		}
		switch fields[0] {
		case "cgroup2":
			mounts = append(mounts, m)
		case "cgroup":
			m.names = strings.Split(fields[2], ",")
			if m.has("cpu") || m.has("cpuacct") {
				mounts = append(mounts, m)
			}
		}
	}
	return mounts
}

// unescape undoes what mountinfo does to blanks, tabs, line ends and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// group is a control group that limits the process, its own or one above.
type group struct {
	v2      bool
	dir     string // of its limit
	account string // of what it has used, in version 1
}

// groups lists those that the process is in now.
func (m *Meter) groups() (gs []group) {
	if len(m.mounts) == 0 {
		return nil
	}
	data, err := fs.ReadFile(m.root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	var account, accountOf string // its own directory for what is used, in version 1, and the group's name
	for _, mt := range m.mounts {
		if own, ok := memberOf(data, mt); ok && mt.has("cpuacct") {
			account, accountOf = below(mt, own), own
		}
	}
	for _, mt := range m.mounts {
		if own, ok := memberOf(data, mt); ok && (mt.names == nil || mt.has("cpu")) {
			used := account
			if own != accountOf { // others are counted there, too
				used = ""
			}
			gs = append(gs, upwards(mt, below(mt, own), used)...)
		}
	}
	return gs
}

// memberOf finds in /proc/self/cgroup ("number:controllers:group" in each line) the group in a hierarchy.
func memberOf(data []byte, m mount) (own string, ok bool) {
	for line := range bytes.Lines(data) {
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		names := strings.Split(fields[1], ",")
		if m.names == nil && fields[1] == "" || m.names != nil && slices.ContainsFunc(names, m.has) {
			return path.Clean("/" + fields[2]), true
		}
	}
	return "", false
}

// below is the directory of a group. A container may see its own group as the root of what is mounted, under
// whatever name it has outside.
func below(m mount, own string) string {
	rest, ok := strings.CutPrefix(own, m.group)
	if m.group == "/" {
		rest, ok = own, true
	}
	if !ok || rest != "" && rest[0] != '/' {
		rest = ""
	}
	return path.Join(m.dir, rest)
}

// upwards lists the groups from dir to the one that is seen where the hierarchy is mounted.
func upwards(m mount, dir, account string) (gs []group) {
	for range depthMax {
		gs = append(gs, group{v2: m.names == nil, dir: dir, account: account})
		if dir == m.dir {
			break
		}
		dir = path.Dir(dir)
		if account != "" {
			account = path.Dir(account)
		}
	}
	return gs
}

// counts is what a group may use, and has.
type counts struct {
	quota, period time.Duration
	used          time.Duration
	known         bool   // used is
	throttled     uint64 // periods in which the quota was used up
}

func (c counts) cpus() float64 { return float64(c.quota) / float64(c.period) }

// busySince is the share of the quota that was used since was, in the time that has passed.
func (c counts) busySince(was counts, passed time.Duration) (busy float64) {
	if passed <= 0 {
		return 0
	}
	if c.known && was.known && c.used > was.used {
		busy = float64(c.used-was.used) / (float64(passed) * c.cpus())
	}
	if c.throttled > was.throttled {
		busy = max(busy, float64(c.throttled-was.throttled)*float64(c.period)/float64(passed))
	}
	return busy
}

// read returns what a group's files say; false where it has no limit.
func (g group) read(root fs.FS) (c counts, limited bool) {
	if g.v2 {
		c.quota, c.period, limited = parseMax(content(root, g.dir, "cpu.max"))
	} else {
		quota, okQuota := number(content(root, g.dir, "cpu.cfs_quota_us"))
		period, okPeriod := number(content(root, g.dir, "cpu.cfs_period_us"))
		limited = okQuota && okPeriod && quota > 0 && period > 0
		c.quota, c.period = micros(quota), micros(period)
	}
	if !limited {
		return counts{}, false
	}
	stat := content(root, g.dir, "cpu.stat")
	n, _ := field(stat, "nr_throttled")
	c.throttled = uint64(n)
	if g.v2 {
		n, c.known = field(stat, "usage_usec")
		c.used = micros(n)
	} else if g.account != "" {
		n, c.known = number(content(root, g.account, "cpuacct.usage"))
		c.used = time.Duration(n)
	}
	return c, true
}

// content is a file of a group; nothing where it cannot be read, as for the files that a root group lacks.
func content(root fs.FS, dir, name string) []byte {
	data, err := fs.ReadFile(root, path.Join(dir, name))
	if err != nil {
		return nil
	}
	return data
}

// parseMax takes cpu.max: the quota or "max", then the period, in microseconds.
func parseMax(data []byte) (quota, period time.Duration, ok bool) {
	fields := bytes.Fields(data)
	if len(fields) != 2 {
		return 0, 0, false
	}
	q, okQuota := number(fields[0])
	p, okPeriod := number(fields[1])
	return micros(q), micros(p), okQuota && okPeriod && q > 0 && p > 0
}

// field finds a line "name number".
func field(data []byte, name string) (int64, bool) {
	for line := range bytes.Lines(data) {
		if fields := bytes.Fields(line); len(fields) == 2 && string(fields[0]) == name {
			return number(fields[1])
		}
	}
	return 0, false
}

func number(data []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n, err == nil && n >= 0
}

func micros(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
}
