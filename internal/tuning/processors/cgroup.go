package processors

import (
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// depthMax bounds the groups that one lies in: each costs a small file or two per look.
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
			if m.has("cpu") {
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
	v2  bool
	dir string
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
	for _, mt := range m.mounts {
		if own, ok := memberOf(data, mt); ok {
			gs = append(gs, upwards(mt, below(mt, own))...)
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
func upwards(m mount, dir string) (gs []group) {
	for range depthMax {
		gs = append(gs, group{v2: m.names == nil, dir: dir})
		if dir == m.dir {
			break
		}
		dir = path.Dir(dir)
	}
	return gs
}

// limit is how many processors' time a group may use; 0: as much as there is.
func (g group) limit(root fs.FS) float64 {
	var quota, period []byte
	if g.v2 { // both in one file, "max" for no quota
		if fields := bytes.Fields(content(root, g.dir, "cpu.max")); len(fields) == 2 {
			quota, period = fields[0], fields[1]
		}
	} else { // -1 for none
		quota, period = content(root, g.dir, "cpu.cfs_quota_us"), content(root, g.dir, "cpu.cfs_period_us")
	}
	q, okQuota := number(quota)
	p, okPeriod := number(period)
	if !okQuota || !okPeriod {
		return 0
	}
	return float64(q) / float64(p)
}

// content is a file of a group; nothing where it cannot be read, as for the files that a root group lacks.
func content(root fs.FS, dir, name string) []byte {
	data, err := fs.ReadFile(root, path.Join(dir, name))
	if err != nil {
		return nil
	}
	return data
}

// number is a count of microseconds above 0.
func number(data []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n, err == nil && n > 0
}
