package pontoon

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "pontoon"

// levels is who may import whom: only packages of a lower level. Packages of one level never
// import one another. Every package of the module stands here.
var levels = map[string]int{
	"shard":                      0,
	"internal/clusterversion":    5,  // from when on a new kind of entry or message may be written
	"internal/durable":           5,  // how a file is replaced, and what its checksum is
	"internal/fifo":              5,  // a queue in a slice
	"internal/underway":          6,  // how much may be under way at a place
	"internal/extsort":           7,  // sorts what memory does not hold
	"internal/etcdfile":          10, // the file that etcd keeps its state in
	"internal/counts":            7,  // how many keys spans had at a revision
	"internal/patience":          5,  // deadlines that cost little
	"internal/peeked":            5,  // connections of which the beginning was read
	"internal/mutate":            5,  // rules taken out, in builds that show that the checks notice
	"internal/mutate/mutatetest": 7,  // and what shows that they notice
	"internal/pb":                5,  // the wire and log formats: known wherever something is stored or sent

	"internal/mirror/runs": 10, // the keys of a span, as lists of them go out
	"internal/mirror/auto": 10, // which ranges are mirrored by themselves
	"internal/mirror":      12, // lists from memory

	"internal/moves": 7, // how who holds a group changes: ranges and the meta group alike

	"internal/tuning":            7, // what a node asks of the system and the runtime, for speed alone
	"internal/tuning/heap":       5, // how far the heap grows between two collections
	"internal/tuning/linger":     5, // how long writes wait for company
	"internal/tuning/cgroup":     2, // the control groups that limit the process
	"internal/tuning/memory":     3, // how much memory the process may use
	"internal/tuning/processors": 3, // how busy the processors are that the process may use

	"mvcc":                10,
	"raftgroup":           10,
	"watchfanout":         10,
	"placement":           10, // plans; carries nothing out
	"internal/config":     10,
	"internal/discovery":  12, // who the members of a new cluster are
	"internal/compactor":  10, // when history is forgotten
	"internal/corruption": 10, // whether replicas hold the same
	"internal/datadir":    10,
	"internal/exitcode":   10,
	"internal/logging":    10,

	"internal/failpoint": 10,
	"internal/tlsport":   12, // certificates and handshakes

	"internal/auth":         9, // who may do what: held against requests, and changed by the meta group
	"internal/meta/oracle":  10,
	"internal/meta/lease":   10,
	"internal/meta/granted": 10, // whom the latest revisions were given to
	"internal/meta/state":   11, // holds leases
	"internal/token":        13, // who a request comes from

	"internal/peer":                 15, // who a peer is, and connections to it
	"internal/calls":                15, // what one node may ask another: the table
	"raftgroup/raftlog":             20,
	"raftgroup/raftlog/raftlogtest": 20,
	"raftgroup/transport":           20,
	"raftgroup/simtest":             20,
	"placement/plansim":             20, // the planner against a simulated cluster
	"placement/gossip":              20,
	"internal/link":                 12, // how feeds travel: the rules of both ends
	"internal/peerrpc":              20,
	"internal/outlet":               21, // the end of links that has feeds
	"internal/link/linktest":        21,
	"internal/peer/peertest":        20,
	"internal/metaclient":           20, // asks the meta group's leader; no part of the group
	"internal/meta":                 30,
	"shard/replica/replicatest":     25,
	"shard/replica/eval":            26,
	"shard/replica/apply":           27,
	"shard/replica/lead":            28,
	"shard/replica":                 30,
	"shard/router":                  30,
	"internal/admission":            35, // the one door for requests of clients
	"internal/etcdapi":              40,
	"internal/httpapi":              40,
	"internal/gateway":              40, // etcd's API as JSON
	"internal/recipes":              40, // etcd's Lock and Election services
	"internal/etcdapi/apitest":      41,
	"shard/router/etcdshim":         42, // serves etcd's API in process; stands where users of the router look
	"internal/backend":              35, // what a front serves from
	"internal/host":                 43,
	"internal/front":                43,
	"internal/manifest":             12, // what a restore leaves for a node's first start
	"internal/restore":              44, // a file of etcd's as a cluster's beginning
	"internal/export":               43, // a file of etcd's from the whole store
	"internal/server":               45,
	"cmd/node":                      50,
	"cmd/client":                    50,
	"bench/load":                    55,
	"bench/machine":                 55,
	"bench/quota":                   55, // control groups for servers
	"bench/unit":                    55,
	"bench":                         56,
	"bench/report":                  57,
	"cmd/bench":                     60,
	"test/e2e/harness":              55,
	"test/history":                  55,
	"test/headers":                  55,
	"test/certs":                    55,
	"test/nameserver":               55,
	"test/e2e":                      60,
	"internal/tools/devcluster":     60,
	"internal/tools/pgo":            60,
	"test/chaos/lab":                55,
	"test/etcdsuite/behind":         55,
	"test/chaos":                    60,
	"test/sim":                      60,
}

// rule forbids an import, reached directly or through other packages of ours. internal/pb is not
// followed: its generated stubs name gRPC, which says nothing about who uses them.
type rule struct {
	pkg     string // "mvcc"; a trailing /… covers all below
	mustNot string // an import path or a prefix of some
	why     string
}

var rules = []rule{
	{"shard", "pontoon/", "the nouns belong to everybody and know nobody"},
	{"shard", "google.golang.org/grpc", "the nouns are not tied to a transport"},
	{"mvcc", "google.golang.org/grpc", "a store must stay deterministic and transport-free"},
	{"mvcc", "go.etcd.io/etcd/api/v3", "the nouns are shard's; etcd's own are made where its API is served"},
	{"mvcc", "pontoon/internal/pb", "the nouns are shard's; messages are for the wire"},
	{"mvcc", "go.etcd.io/raft/v3", "a store is told what was committed, not how"},
	{"mvcc", "net", "a store has no network"},
	{"mvcc", "math/rand", "apply is deterministic"},
	{"raftgroup", "google.golang.org/grpc", "the host hands frames to a Sender"},
	{"raftgroup", "go.etcd.io/bbolt", "entries are opaque, and logs are behind an interface"},
	{"raftgroup", "github.com/cockroachdb/pebble/v2", "logs are behind an interface"},
	{"raftgroup", "pontoon/mvcc", "the host does not know what an entry means"},
	{"watchfanout", "go.etcd.io/etcd/api/v3", "an event carries what its reader made of it, as bytes"},
	{"watchfanout", "pontoon/internal/pb", "the nouns are shard's; messages are for the wire"},
	{"watchfanout", "google.golang.org/grpc", "the hub hands out events, not messages"},
	{"watchfanout", "go.etcd.io/bbolt", "history is behind an interface"},
	{"watchfanout", "go.etcd.io/raft/v3", "the hub does not know how events are agreed on"},
	{"placement", "github.com/hashicorp/memberlist", "gossip hints; it never decides"},
	{"placement", "google.golang.org/grpc", "the planner is a pure function"},
	{"placement", "go.etcd.io/raft/v3", "the planner does not know how its steps are agreed on"},
	{"placement", "math/rand", "the same snapshot gives the same plan on every node"},
	{"placement", "pontoon/internal/meta", "the planner is told what the cluster is like"},
	{"internal/clusterversion", "pontoon/", "a version is a number: it knows nobody who uses it"},
	{"internal/meta/oracle", "pontoon/shard", "a counter knows no ranges"},
	{"internal/meta/oracle", "google.golang.org/grpc", "the oracle is a pure value"},
	{"internal/meta/oracle", "go.etcd.io/raft/v3", "the oracle is told what has applied"},
	{"internal/meta/oracle", "math/rand", "the oracle is deterministic"},
	{"internal/meta/lease", "github.com/hashicorp/memberlist", "gossip hints; it never decides"},
	{"internal/meta/lease", "google.golang.org/grpc", "the lessor is a pure value"},
	{"internal/meta/lease", "go.etcd.io/raft/v3", "the lessor is told what has applied"},
	{"internal/meta/lease", "math/rand", "the lessor is deterministic"},
	{"internal/meta/state", "github.com/hashicorp/memberlist", "gossip hints; it never decides"},
	{"internal/meta/state", "google.golang.org/grpc", "the meta state machine is a pure value"},
	{"internal/meta/state", "go.etcd.io/raft/v3", "the meta state machine is applied by others"},
	{"internal/meta/state", "math/rand", "apply is deterministic"},
	{"raftgroup/raftlog", "google.golang.org/grpc", "the log is local"},
	{"shard/replica", "google.golang.org/grpc", "a range does not know who calls it"},
	{"shard/replica", "go.etcd.io/etcd/api/v3", "a range does not know etcd's wire API"},
	{"shard/router", "go.etcd.io/raft/v3", "the router is a client"},
	{"shard/router", "go.etcd.io/bbolt", "the router is a client"},
	{"shard/router/etcdshim", "pontoon/internal/server", "a client is not a node"},
	{"shard/router/etcdshim", "go.etcd.io/raft/v3", "a client is no replica, and its program should not grow by one"},
	{"shard/router/etcdshim", "go.etcd.io/bbolt", "a client stores nothing"},
	{"shard/router/etcdshim", "github.com/cockroachdb/pebble", "a client stores nothing"},
	{"internal/admission", "pontoon/shard/router", "what is admitted does not depend on who carries it out"},
	{"internal/etcdapi", "go.etcd.io/raft/v3", "the API does not know how anything is replicated"},
	{"internal/etcdapi", "go.etcd.io/bbolt", "the API does not know how anything is stored"},
	{"internal/etcdapi", "pontoon/raftgroup", "the API does not know how anything is replicated"},
	{"internal/httpapi", "pontoon/", "handlers see providers, not parts"},
	{"internal/gateway", "pontoon/", "JSON is another form of a call, which the server of the calls knows"},
	{"internal/recipes", "pontoon/", "a recipe asks as any client"},
	{"internal/discovery", "pontoon/internal/datadir", "whoever has data does not ask who the members are"},
	{"internal/backend", "pontoon/raftgroup", "what a front serves from may be elsewhere"},
	{"internal/host", "go.etcd.io/etcd/api/v3", "etcd's own nouns are made where its API is served"},
	{"internal/host", "pontoon/internal/etcdapi", "who holds data does not know how clients are served"},
	{"internal/front", "pontoon/shard/replica", "a front runs where nothing is held"},
	{"internal/front", "go.etcd.io/bbolt", "a front runs where nothing is held"},
	{"internal/front", "go.etcd.io/raft/v3", "a front runs where nothing is held"},
	{"internal/mirror", "google.golang.org/grpc", "a list is bytes, whoever sends them"},
	{"internal/mirror", "go.etcd.io/etcd/api/v3", "a list is bytes, whoever reads them"},
	{"internal/mirror", "pontoon/mvcc", "a mirror holds what ranges tell, not how they store it"},
	{"internal/meta", "google.golang.org/grpc", "calls come as messages"},
	{"internal/meta", "pontoon/internal/metaclient", "a replica answers; it asks nobody"},
	{"internal/metaclient", "pontoon/internal/meta", "whoever asks is no replica"},
	{"internal/metaclient", "google.golang.org/grpc", "calls go out as messages"},
	{"internal/metaclient", "go.etcd.io/raft/v3", "the client does not know how answers are agreed on"},
	{"cmd/client", "pontoon/internal/server", "a client is not a node"},
	{"cmd/client", "go.etcd.io/raft/v3", "a client is no replica, and should not grow by one"},
	{"cmd/client", "github.com/cockroachdb/pebble", "a client stores nothing"},
	{"test/e2e", "pontoon/internal", "these tests see what users see"},
	{"test/chaos", "pontoon/internal", "chaos sees what users see, and hurts from outside"},
	{"test/chaos/lab", "pontoon/", "a lab is for any process"},
	{"test/etcdsuite/behind", "pontoon/", "it starts processes, as etcd's tests do"},
	{"test/e2e/harness", "pontoon/", "the harness drives any server that takes etcd's flags"},
	{"bench", "pontoon/internal", "a benchmark sees what users see, and treats all stores alike"},
	{"bench", "pontoon/shard", "a benchmark sees what users see, and treats all stores alike"},
	{"bench/load", "go.etcd.io/etcd", "loops and histograms are for any operation"},
	{"test/certs", "pontoon/", "certificates are for any program"},
	{"test/nameserver", "pontoon/", "names are for any program"},
	{"test/headers", "pontoon/", "the model is etcd's, and etcd passes"},
	{"test/history", "pontoon/", "the judges know etcd's promises alone, and are judged by etcd"},
}

// pure packages have no clock of their own: time comes in as a parameter, so that a simulation
// can drive them.
var pure = []string{"shard", "mvcc", "placement", "placement/plansim", "raftgroup", "watchfanout", "shard/replica",
	"shard/replica/eval", "shard/replica/apply", "shard/replica/lead", "shard/router", "internal/moves",
	"internal/auth", "internal/mirror/runs", "internal/mirror/auto", "internal/meta", "internal/meta/oracle", "internal/meta/granted", "internal/meta/lease", "internal/meta/state", "internal/metaclient", "internal/link"}

// walls names everything that a pure core may import. mvcc is there for its nouns, keys, mutations and
// events. What a core would need besides (a lock, a goroutine's channel, a file, a clock) belongs to its
// driver: sync, os, net, bbolt and raft are not here because of that.
var walls = map[string][]string{
	"placement": {"bytes", "cmp", "fmt", "math", "slices", "sort", "strings",
		"time", // Time and Duration of what is lent: the clock is kept out by pure
		"pontoon/internal/auth", "pontoon/internal/mutate", "pontoon/internal/pb", "pontoon/shard"},
	"placement/plansim": {"encoding/binary", "fmt", "math", "slices", "strings",
		"math/rand/v2", // from a seed
		"pontoon/placement", "pontoon/shard"},
	"internal/auth": {"bytes", "encoding/binary", "fmt", "maps", "slices",
		"github.com/cespare/xxhash/v2", // of names and of what a state is
		"sync/atomic",                  // what was put together is kept
		"pontoon/internal/mutate", "pontoon/internal/pb", "pontoon/shard"},
	"shard/replica/eval": {"bytes", "cmp", "context", "errors", "fmt", "math", "slices", "sort",
		"pontoon/internal/pb", "pontoon/mvcc", "pontoon/shard"},
	"internal/link": {"cmp", "errors", "fmt", "maps", "slices",
		"sync", // an item is encoded once, by whichever link comes to it first
		"time", // Duration: the clock is kept out by pure
		"pontoon/internal/fifo", "pontoon/internal/mutate", "pontoon/internal/pb", "pontoon/shard"},
	"internal/mirror/runs": {"bytes", "fmt", "slices", "sort",
		"pontoon/internal/mutate", "pontoon/internal/pb", "pontoon/shard"},
	"internal/mirror/auto": {"cmp", "math", "slices",
		"time", // Time and Duration: the clock is kept out by pure
		"pontoon/internal/mutate", "pontoon/shard"},
	"internal/moves": {"errors", "fmt", "slices",
		"pontoon/internal/mutate", "pontoon/internal/pb", "pontoon/shard"},
	"shard/replica/apply": {"cmp", "encoding/binary", "errors", "fmt", "math", "slices",
		"pontoon/internal/moves", "pontoon/internal/mutate", "pontoon/internal/pb", "pontoon/mvcc", "pontoon/shard", "pontoon/shard/replica/eval"},
	"shard/replica/lead": {"bytes", "cmp", "context", "errors", "fmt", "math", "slices",
		"sync/atomic", // TxnStats, which the leaders of a node share
		"time",        // Time and Duration: the clock is kept out by pure
		"pontoon/internal/mutate", "pontoon/internal/pb", "pontoon/mvcc", "pontoon/placement", "pontoon/shard", "pontoon/shard/replica/apply", "pontoon/shard/replica/eval"},
}

// Limits of shape. What is longer is not forbidden for ever: it gets a row in tooLong with the
// reason.
const (
	functionLinesMax = 70
	fileLinesMax     = 600
)

var tooLong = map[string]string{ // "package.Function" or a file: why it stays so long
}

// source is one parsed file of the module.
type source struct {
	pkg   string // directory, relative to the root; "." for the root
	name  string // path, relative to the root
	test  bool
	text  []byte
	ast   *ast.File
	fset  *token.FileSet
	lines int
}

// sources parses every file of this module. Generated ones are marked by their header; the checks
// of style skip them.
func sources(t *testing.T) []*source {
	t.Helper()
	var out []*source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "build" || d.Name() == "bin") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && p != "." {
				return filepath.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, &source{
			pkg: path.Dir(filepath.ToSlash(p)), name: p, test: strings.HasSuffix(p, "_test.go"),
			text: text, ast: file, fset: fset, lines: bytes.Count(text, []byte("\n")),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *source) generated() bool { return ast.IsGenerated(s.ast) }

func (s *source) imports() []string {
	var out []string
	for _, spec := range s.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// importGraph is what each package imports outside of its tests.
func importGraph(files []*source) map[string][]string {
	g := map[string][]string{}
	for _, s := range files {
		if s.test {
			continue
		}
		g[s.pkg] = append(g[s.pkg], s.imports()...)
	}
	for pkg := range g {
		slices.Sort(g[pkg])
		g[pkg] = slices.Compact(g[pkg])
	}
	return g
}

// reach returns everything that a package imports, also through ours, with the way to it.
func reach(g map[string][]string, pkg string) map[string]string {
	via := map[string]string{}
	var visit func(pkg, way string)
	visit = func(pkg, way string) {
		for _, imp := range g[pkg] {
			if _, seen := via[imp]; seen {
				continue
			}
			via[imp] = way
			if own, ok := strings.CutPrefix(imp, module+"/"); ok && own != "internal/pb" {
				visit(own, way+" -> "+own)
			}
		}
	}
	visit(pkg, pkg)
	return via
}

func TestLevels(t *testing.T) {
	g := importGraph(sources(t))
	for pkg, imps := range g {
		if pkg == "." {
			continue
		}
		level, ok := levels[pkg]
		if !ok {
			t.Errorf("%s has no level: add it to the table", pkg)
			continue
		}
		for _, imp := range imps {
			own, ok := strings.CutPrefix(imp, module+"/")
			if ok && levels[own] >= level {
				t.Errorf("%s (level %d) imports %s (level %d): imports point to lower levels only", pkg, level, own, levels[own])
			}
		}
	}
	for pkg := range levels {
		if !exists(pkg) {
			t.Errorf("%s has a level and does not exist", pkg)
		}
	}
}

func exists(pkg string) bool {
	found, err := filepath.Glob(filepath.Join(pkg, "*.go"))
	return err == nil && len(found) > 0
}

func TestForbiddenImports(t *testing.T) {
	g := importGraph(sources(t))
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if !exists(r.pkg) {
			t.Errorf("the rule on %s has rotted: there is no such package", r.pkg)
		}
		if first, _, _ := strings.Cut(r.mustNot, "/"); strings.Contains(first, ".") && !bytes.Contains(gomod, []byte(r.mustNot)) {
			t.Errorf("the rule on %s has rotted: %s is not in go.mod", r.pkg, r.mustNot)
		}
		for imp, way := range reach(g, r.pkg) {
			if imp == r.mustNot || strings.HasPrefix(imp, strings.TrimSuffix(r.mustNot, "/")+"/") {
				if r.mustNot == module+"/" && (imp == module+"/internal/pb" || imp == module+"/internal/peeked") {
					continue // what is said, and how a connection is read: no part
				}
				if r.pkg == "test/chaos" && strings.Contains(way, "shard/router/etcdshim") {
					continue // programs of users link that; the way is the shortest, so that nothing else hides behind it
				}
				t.Errorf("%s imports %s (%s): %s", r.pkg, imp, way, r.why)
			}
		}
	}
}

func TestWalls(t *testing.T) {
	g := importGraph(sources(t))
	for pkg, may := range walls {
		if !slices.Contains(pure, pkg) {
			t.Errorf("%s has walls and is not pure", pkg)
		}
		for _, imp := range g[pkg] {
			if !slices.Contains(may, imp) {
				t.Errorf("%s imports %s: a pure core has no I/O, clock, lock or goroutine of its own", pkg, imp)
			}
		}
		for _, imp := range may {
			if !slices.Contains(g[pkg], imp) {
				t.Errorf("%s may import %s and does not: take it out", pkg, imp)
			}
		}
	}
	for _, s := range sources(t) {
		if _, ok := walls[s.pkg]; !ok || s.test {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				t.Errorf("%s: a pure core has no goroutine and no channel", s.fset.Position(n.Pos()))
			}
			return true
		})
	}
}

func TestOnePackageComment(t *testing.T) {
	has := map[string][]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		if _, ok := has[s.pkg]; !ok {
			has[s.pkg] = nil
		}
		if s.ast.Doc != nil && !s.generated() {
			has[s.pkg] = append(has[s.pkg], filepath.Base(s.name))
		}
	}
	for pkg, files := range has {
		// Test support may be a single file with its comment on top.
		if len(files) != 1 || files[0] != "doc.go" && !strings.HasSuffix(pkg, "test") {
			t.Errorf("%s has its package comment in %v, want exactly doc.go", pkg, files)
		}
	}
}

// calls finds calls of pkg.name; to hand the function on as a default is no call.
func (s *source) calls(pkg string, names ...string) []token.Position {
	var out []token.Position
	ast.Inspect(s.ast, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains(names, sel.Sel.Name) {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Name == pkg && id.Obj == nil {
			out = append(out, s.fset.Position(sel.Pos()))
		}
		return true
	})
	return out
}

func TestNoSleepInTests(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test || strings.HasPrefix(s.pkg, "test/") {
			continue
		}
		for _, at := range s.calls("time", "Sleep") {
			t.Errorf("%s: time.Sleep: wait for what happens, or move a clock", at)
		}
	}
}

func TestPurePackagesHaveNoClock(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !slices.Contains(pure, s.pkg) {
			continue
		}
		for _, at := range s.calls("time", "Now", "Since", "Until", "Sleep") {
			t.Errorf("%s: %s takes its time from outside", at, s.pkg)
		}
	}
}

func TestShape(t *testing.T) {
	used := map[string]bool{}
	excused := func(name string) bool {
		_, ok := tooLong[name]
		used[name] = true
		return ok
	}
	for _, s := range sources(t) {
		if s.generated() {
			continue
		}
		if !s.test && s.lines > fileLinesMax && !excused(s.name) {
			t.Errorf("%s has %d lines, more than %d", s.name, s.lines, fileLinesMax)
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil || s.test {
				continue
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if n > functionLinesMax && !isTable(f) && !excused(s.pkg+"."+f.Name.Name) {
				t.Errorf("%s: %s has %d lines, more than %d", s.fset.Position(f.Pos()), f.Name.Name, n, functionLinesMax)
			}
		}
	}
	for name := range tooLong {
		if !used[name] {
			t.Errorf("the excuse for %s has rotted", name)
		}
	}
}

// isTable tells whether a function only returns a literal: a table, not a flow of control.
func isTable(f *ast.FuncDecl) bool {
	if len(f.Body.List) != 1 {
		return false
	}
	_, ok := f.Body.List[0].(*ast.ReturnStmt)
	return ok
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated() || s.ast.Name.Name == "main" {
			continue
		}
		for _, d := range s.ast.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: %s has no comment", s.fset.Position(d.Pos()), name)
			}
		}
	}
}

func undocumented(d ast.Decl) []string {
	var out []string
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			out = append(out, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
					out = append(out, spec.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					if n.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
						out = append(out, n.Name)
					}
				}
			}
		}
	}
	return out
}

// exportedReceiver tells whether a function is seen from outside: methods of unexported types are
// documented by the interface that they implement.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	if f.Name.Name == "Error" || f.Name.Name == "Unwrap" {
		return false // every error has these
	}
	t := f.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	if g, ok := t.(*ast.IndexExpr); ok {
		t = g.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

func TestNothingUnfinished(t *testing.T) {
	marks := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"}
	for _, s := range sources(t) {
		for _, m := range marks {
			if bytes.Contains(s.text, []byte(m)) {
				t.Errorf("%s: %s: file an issue instead", s.name, m)
			}
		}
	}
}

func TestNoReplaceInGoMod(t *testing.T) {
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(strings.TrimSpace(line), "replace") {
			t.Errorf("go.mod: %s", line)
		}
	}
}
