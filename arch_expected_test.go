package pontoon

import (
	"go/ast"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestExpectedFailures: of each of etcd's tests that may fail it is said why, and which of ours has the same intent; that one is there.
func TestExpectedFailures(t *testing.T) {
	text, err := os.ReadFile("test/etcdsuite/EXPECTED")
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test {
				ours[f.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile(`\bTest\w+`)
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		row := strings.Split(line, "\t")
		if len(row) != 3 || row[0] == "" || row[1] == "" || row[2] == "" || seen[row[0]] {
			t.Errorf("%q is not a test that stands here once, a reason and a test of ours", line)
			continue
		}
		seen[row[0]] = true
		for _, name := range named.FindAllString(row[2], -1) {
			if !ours[name] {
				t.Errorf("%s: there is no %s", row[0], name)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("nothing is expected to fail: take the file out")
	}
}
