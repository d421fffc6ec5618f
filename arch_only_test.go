package pontoon

import (
	"go/ast"
	"slices"
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
		"cmd/client", // shown to them
	}
	knowsInitial := []string{"openNetwork", "openMeta", "Validate"}
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
