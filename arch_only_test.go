package pontoon

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// selections finds every expression x.name, however x looks, with the function that it is in.
func (s *source) selections(name string, found func(in string, sel *ast.SelectorExpr)) {
	for _, d := range s.ast.Decls {
		in := ""
		if f, ok := d.(*ast.FuncDecl); ok {
			in = f.Name.Name
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == name {
				found(in, sel)
			}
			return true
		})
	}
}

// TestOneAddressBook: peer.Directory alone knows where members are, and the members of the initial cluster are looked at
// where it is made and where a cluster is planned. Members come, go and move: whoever keeps a list of his own talks to those
// of yesterday.
func TestOneAddressBook(t *testing.T) {
	knowsURLs := []string{
		"internal/peer",                                // the address book
		"internal/pb",                                  // on the wire
		"internal/etcdapi", "internal/etcdapi/apitest", // told to clients
		"cmd/client", "test/chaos", "test/sim", // shown to them, and to who starts nodes
		"internal/export",              // in the file that a snapshot is
		"internal/restore",             // the same
		"internal/config",              // compared with what flags say
		"shard", "internal/meta/state", // whose they are
	}
	knowsInitial := []string{"openNetwork", "openMeta", "openFirstMeta", "Validate"}
	for _, s := range sources(t) {
		if s.test || s.generated() {
			continue
		}
		s.selections("PeerURLs", func(_ string, sel *ast.SelectorExpr) {
			if !slices.Contains(knowsURLs, s.pkg) {
				t.Errorf("%s: %s reads a member's peer URLs: ask peer.Directory", s.fset.Position(sel.Pos()), s.pkg)
			}
		})
		if s.pkg != "internal/host" {
			continue
		}
		s.selections("Members", func(in string, sel *ast.SelectorExpr) {
			if x, ok := sel.X.(*ast.SelectorExpr); ok && x.Sel.Name == "cfg" && !slices.Contains(knowsInitial, in) {
				t.Errorf("%s: %s looks at the members of the initial cluster: ask peer.Directory", s.fset.Position(sel.Pos()), in)
			}
		})
	}
}

// TestEtcdServerPackages: of etcd's server only what stands on its API and its client is used (record 0041): the others would bring the server.
func TestEtcdServerPackages(t *testing.T) {
	const module = "go.etcd.io/etcd/server/v3/"
	const server = module + "etcdserver/api/"
	may := map[string]bool{ // whether one is used
		server + "v3lock": false, server + "v3lock/v3lockpb": false, server + "v3lock/v3lockpb/gw": false,
		server + "v3election": false, server + "v3election/v3electionpb": false, server + "v3election/v3electionpb/gw": false,
		module + "storage/wal": false, module + "storage/wal/walpb": false, // whose a directory of etcd's is (record 0047)
		"go.etcd.io/etcd/server/v3/auth": false, // what ours is held against, by a test
		module + "lease/leasepb":         false, // leases in the file that etcd keeps its state in (record 0046)
	}
	for _, s := range sources(t) {
		for _, imp := range s.imports() {
			if imp == "go.etcd.io/etcd/server/v3/auth" && !s.test {
				t.Errorf("%s imports %s, which is for tests", s.name, imp)
			}
			if _, ok := may[imp]; ok {
				may[imp] = true
			} else if strings.HasPrefix(imp, "go.etcd.io/etcd/server/") {
				t.Errorf("%s imports %s", s.name, imp)
			}
		}
	}
	for imp, used := range may {
		if !used {
			t.Errorf("%s may be imported and is not: take it out", imp)
		}
	}
}

// TestOneTableOfCalls: internal/calls alone asks which body a request has. A dispatch by hand is a place that a new call
// can be missing in, and the check of clients was one.
func TestOneTableOfCalls(t *testing.T) {
	kinds := map[string]bool{}
	files := sources(t)
	for _, s := range files {
		if s.pkg != "internal/calls" || s.test {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if c, ok := n.(*ast.ValueSpec); ok {
				for _, name := range c.Names {
					kinds[name.Name] = true
				}
			}
			return true
		})
	}
	if len(kinds) < 26 {
		t.Fatalf("the rule has rotted: it finds %d kinds of calls", len(kinds))
	}
	for _, s := range files {
		if s.test || s.generated() || s.pkg == "internal/calls" {
			continue
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if asked := bodiesAskedFor(f, kinds); len(asked) > 2 {
				t.Errorf("%s: %s asks whether a request has one of %v: go by calls.Of", s.fset.Position(f.Pos()), f.Name.Name, asked)
			}
		}
	}
}

// bodiesAskedFor are the bodies that a function holds against nil: req.Write != nil.
func bodiesAskedFor(f *ast.FuncDecl, kinds map[string]bool) []string {
	var out []string
	ast.Inspect(f, func(n ast.Node) bool {
		cond, ok := n.(*ast.BinaryExpr)
		if !ok {
			return true
		}
		sel, ok := cond.X.(*ast.SelectorExpr)
		if !ok || !kinds[sel.Sel.Name] || slices.Contains(out, sel.Sel.Name) {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if y, isNil := cond.Y.(*ast.Ident); ok && isNil && x.Name == "req" && y.Name == "nil" {
			out = append(out, sel.Sel.Name)
		}
		return true
	})
	return out
}
