package mixin

import (
	"fmt"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// compression is how much faster time goes in the rules here: a minute is two seconds. With more of it, a scrape that is late on a busy machine would be
// taken for a member that is down.
const compression = 30

// scrapeEvery is the mixin's scrape interval, compressed.
const scrapeEvery = 30 * time.Second / compression

var promQL = parser.NewParser(parser.Options{})

// compress returns the expression with all of its durations divided by the compression: ranges, the ranges and steps of subqueries, offsets, and
// the horizon of predict_linear, which is a number of seconds.
func compress(expr string) (parser.Expr, error) {
	e, err := promQL.ParseExpr(expr)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, expr)
	}
	parser.Inspect(e, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.MatrixSelector:
			n.Range /= compression
		case *parser.SubqueryExpr:
			n.Range, n.Step, n.OriginalOffset = n.Range/compression, n.Step/compression, n.OriginalOffset/compression
		case *parser.VectorSelector:
			n.OriginalOffset /= compression
		case *parser.Call:
			if n.Func.Name == "predict_linear" {
				n.Args[1] = &parser.BinaryExpr{Op: parser.DIV, LHS: &parser.ParenExpr{Expr: n.Args[1]}, RHS: &parser.NumberLiteral{Val: compression}}
			}
		}
		return nil
	})
	return promQL.ParseExpr(e.String()) // as it will be evaluated
}

// selectors are the series that an expression asks for.
func selectors(e parser.Expr) (out []string) {
	parser.Inspect(e, func(node parser.Node, _ []parser.Node) error {
		if n, ok := node.(*parser.VectorSelector); ok {
			out = append(out, n.String())
		}
		return nil
	})
	return out
}
