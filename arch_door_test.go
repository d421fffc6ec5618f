package pontoon

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// Requests for the store that are made from what a client sends. internal/admission alone makes them, so
// that nothing passes by its checks.
var (
	admitted      = []string{"pb.Op", "pb.RangeOp", "pb.PutOp", "pb.DeleteOp", "pb.TxnOp", "pb.WriteRequest", "pb.ReadRequest", "pb.FenceRequest", "watchfanout.WatchRequest"}
	admittedCalls = []string{"NewPut", "NewWrite"} // of pb
	// outside are the packages between a client and the store.
	outside = []string{"internal/etcdapi", "internal/front", "internal/httpapi", "internal/server", "shard/router/etcdshim", "cmd/node"}
	// ownRequests are files that ask the store on the node's own behalf.
	ownRequests = map[string]string{
		"internal/front/node.go": "the health check reads a key",
	}
)

func TestOneDoorForClients(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || s.generated() || !slices.Contains(outside, s.pkg) {
			continue
		}
		report := func(n ast.Node, what string) {
			if _, own := ownRequests[s.name]; own {
				used[s.name] = true
				return
			}
			t.Errorf("%s: %s is made here: let the request through internal/admission", s.fset.Position(n.Pos()), what)
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok {
				if name := qualified(lit.Type); slices.Contains(admitted, name) {
					report(n, name)
				}
			}
			if call, ok := n.(*ast.CallExpr); ok {
				if pkg, name, _ := strings.Cut(qualified(call.Fun), "."); pkg == "pb" && slices.Contains(admittedCalls, name) {
					report(n, "pb."+name)
				}
			}
			return true
		})
	}
	for name := range ownRequests {
		if !used[name] {
			t.Errorf("the excuse for %s has rotted", name)
		}
	}
	for _, pkg := range append(outside, "internal/admission") {
		if !exists(pkg) {
			t.Errorf("the rule on %s has rotted: there is no such package", pkg)
		}
	}
}

// qualified is pkg.Name of a selector, else "".
func qualified(e ast.Expr) string {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return id.Name + "." + sel.Sel.Name
}

// TestGRPCsInsideIsInOneFile: what is not gRPC's API is reached by reflection, and may be gone in its next
// version: one file has it, with what is done then.
func TestGRPCsInsideIsInOneFile(t *testing.T) {
	const file = "internal/etcdapi/rawstream.go"
	found := false
	for _, s := range sources(t) {
		if s.test || !strings.HasPrefix(s.pkg, "internal/etcdapi") || !slices.Contains(s.imports(), "reflect") {
			continue
		}
		if s.name != file {
			t.Errorf("%s imports reflect: only %s may", s.name, file)
		}
		found = true
	}
	if !found {
		t.Errorf("the rule on %s has rotted", file)
	}
}
