package pontoon

import (
	"go/ast"
	"strings"
	"testing"
)

// Limits of types. Functions that stay short push growth sideways, into types that know everything:
// a new concern gets a type with its own events, not one more file of methods on an old one.
const (
	typeMethodsMax = 25
	typeFieldsMax  = 20
	// An excuse is no longer needed, and fails, where a type is clearly within the limits. What lies
	// between may keep it while others still work on it.
	excusedMethodsMin = 22
	excusedFieldsMin  = 18
)

// tooWide excuses types by "package.Type", one a row, each with its reason. "To be" names what is wanted
// instead. The table shrinks: at most 12 rows are to stay.
var tooWide = map[string]string{
	"bench.Run":                      "one row of a committed report, flat because the files of it are",
	"bench.Spec":                     "a benchmark's options, as a command line gives them",
	"cmd/client.app":                 "one method per subcommand",
	"internal/etcdapi/apitest.Store": "a whole store for tests; one method per call of the API",
	"test/history.check":             "one replay, one method per rule that it holds a history against",
}

const tooWideMax = 10

// width is what a type has. A Config's fields are not counted: it is a list of independent settings that
// nothing but its Validate looks at as a whole, and to cut it in pieces would only add names for the
// operator's one list. Its methods are counted as anybody's.
type width struct{ methods, fields int }

// widths counts, for every named type outside of tests and generated code, the methods in all files of
// its package and the fields. An embedded type is one field, a struct without a name (the usual
// "mu struct") as many as it holds.
func widths(files []*source) map[string]*width {
	out := map[string]*width{}
	at := func(name string) *width {
		if out[name] == nil {
			out[name] = &width{}
		}
		return out[name]
	}
	for _, s := range files {
		if s.test || s.generated() {
			continue
		}
		for _, d := range s.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil {
					at(s.pkg+"."+receiver(d)).methods++
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if spec, ok := spec.(*ast.TypeSpec); ok {
						at(s.pkg + "." + spec.Name.Name).declare(spec)
					}
				}
			}
		}
	}
	return out
}

func (w *width) declare(spec *ast.TypeSpec) {
	switch t := spec.Type.(type) {
	case *ast.StructType:
		if !strings.HasSuffix(spec.Name.Name, "Config") {
			w.fields = fieldsOf(t)
		}
	case *ast.InterfaceType:
		w.methods = t.Methods.NumFields()
	}
}

func fieldsOf(t *ast.StructType) int {
	n := 0
	for _, f := range t.Fields.List {
		each := 1
		if inner, ok := f.Type.(*ast.StructType); ok {
			each = fieldsOf(inner)
		}
		n += max(len(f.Names), 1) * each
	}
	return n
}

// receiver names the type of a method, without its pointer and type parameters.
func receiver(f *ast.FuncDecl) string {
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.ParenExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

func TestNoTypeIsTooWide(t *testing.T) {
	all := widths(sources(t))
	for name, w := range all {
		if _, excused := tooWide[name]; excused {
			continue
		}
		if w.methods > typeMethodsMax || w.fields > typeFieldsMax {
			t.Errorf("%s has %d methods and %d fields, at most %d and %d are allowed: give a part of it its own type",
				name, w.methods, w.fields, typeMethodsMax, typeFieldsMax)
		}
	}
	for name, why := range tooWide {
		switch w := all[name]; {
		case w == nil:
			t.Errorf("the excuse for %s has rotted: there is no such type", name)
		case w.methods < excusedMethodsMin && w.fields < excusedFieldsMin:
			t.Errorf("%s has %d methods and %d fields: take its excuse out", name, w.methods, w.fields)
		case why == "":
			t.Errorf("the excuse for %s gives no reason", name)
		}
	}
	if len(tooWide) > tooWideMax {
		t.Errorf("%d types are excused, at most %d may be", len(tooWide), tooWideMax)
	}
}
