package cgroup

import (
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// depthMax bounds the groups that one lies in: each costs a small file or two per look.
const depthMax = 16

// Groups finds the control groups that limit what the process may have of something. Mounts are looked for once; the group that the process is in may change
// at any time. It is not safe for concurrent use.
type Groups struct {
	root       fs.FS
	controller string
	mounts     []mount // of the hierarchies that limit it
}

// Of returns the groups with that controller, "cpu" or "memory", as the files below root tell, "/" of the machine.
func Of(root fs.FS, controller string) *Groups {
	g := &Groups{root: root, controller: controller}
	if info, err := fs.ReadFile(root, "proc/self/mountinfo"); err == nil {
		g.mounts = parseMounts(info, controller)
	}
	return g
}

// mount is where a hierarchy of control groups can be seen.
type mount struct {
	dir   string   // without the leading slash
	group string   // the group that is seen there
	names []string // of the controllers in version 1; none: version 2
}

func (m mount) has(controller string) bool { return slices.Contains(m.names, controller) }

// parseMounts takes /proc/self/mountinfo (proc_pid_mountinfo(5)): number, parent, device, root, mount point, options,
// optional fields, "-", type, source, options of the file system.
func parseMounts(info []byte, controller string) (mounts []mount) {
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
			if m.has(controller) {
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

// Group is a control group that limits the process, its own or one above.
type Group struct {
	V2   bool // of the second version
	root fs.FS
	dir  string
}

// File is what a file of the group says; nothing where it cannot be read, as for those that a root group lacks.
func (g Group) File(name string) []byte {
	data, err := fs.ReadFile(g.root, path.Join(g.dir, name))
	if err != nil {
		return nil
	}
	return data
}

// Now lists those that the process is in, from its own upwards.
func (g *Groups) Now() (gs []Group) {
	if len(g.mounts) == 0 {
		return nil
	}
	data, err := fs.ReadFile(g.root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	for _, mt := range g.mounts {
		if own, ok := memberOf(data, mt); ok {
			gs = append(gs, g.upwards(mt, below(mt, own))...)
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
func (g *Groups) upwards(m mount, dir string) (gs []Group) {
	for range depthMax {
		gs = append(gs, Group{V2: m.names == nil, root: g.root, dir: dir})
		if dir == m.dir {
			break
		}
		dir = path.Dir(dir)
	}
	return gs
}
