package pontoon

import (
	"go/ast"
	"testing"
)

// muteErrors are errors of package shard that reach clients as a text, and say nothing without a reason.
var muteErrors = map[string]string{
	"ErrInvalid":       "a client must learn what is wrong with its request",
	"ErrUnimplemented": "a client must learn what is not there",
}

// TestErrorsSayWhy: such an error is wrapped with its reason wherever it arises. It may stand bare only
// where an error is compared with it.
func TestErrorsSayWhy(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated() || s.pkg == "internal/pb" { // which knows all errors by their numbers
			continue
		}
		wrapped := map[*ast.SelectorExpr]bool{}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !named(call.Fun, "fmt", "Errorf") && !named(call.Fun, "errors", "Is") {
				return true
			}
			for _, arg := range call.Args {
				if sel, ok := arg.(*ast.SelectorExpr); ok {
					wrapped[sel] = true
				}
			}
			return true
		})
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || wrapped[sel] {
				return true
			}
			if why := muteErrors[sel.Sel.Name]; why != "" && named(sel, "shard", sel.Sel.Name) {
				t.Errorf("%s: shard.%s without a reason: %s", s.fset.Position(sel.Pos()), sel.Sel.Name, why)
			}
			return true
		})
	}
}

// named reports whether an expression is pkg.name.
func named(e ast.Expr, pkg, name string) bool {
	return qualified(e) == pkg+"."+name
}
