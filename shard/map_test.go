package shard

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// mapEnv is the state of one scenario: named maps, of which commands make new ones.
type mapEnv struct{ maps map[string]*Map }

// TestMapScenarios runs testdata/map. Commands:
//
//	new name=M version=V      one "id start end generation [replica@node...]" a line ("-" = open)
//	split name=M to=N id= at= child= on=(1@1,...)
//	merge name=M to=N left= right=
//	apply name=M to=N         descriptors as for new
//	lookup name=M             one key a line
//	overlap name=M            one "start end" a line
func TestMapScenarios(t *testing.T) {
	datadriven.RunTest(t, "testdata/map", (&mapEnv{maps: map[string]*Map{}}).run)
}

func (e *mapEnv) run(t *testing.T, d *datadriven.TestData) string {
	var name, to, at string
	var version, id, child, left, right uint64
	d.ScanArgs(t, "name", &name)
	d.MaybeScanArgs(t, "to", &to)
	d.MaybeScanArgs(t, "version", &version)
	d.MaybeScanArgs(t, "id", &id)
	d.MaybeScanArgs(t, "at", &at)
	d.MaybeScanArgs(t, "child", &child)
	d.MaybeScanArgs(t, "left", &left)
	d.MaybeScanArgs(t, "right", &right)
	m := e.maps[name]
	var next *Map
	var err error
	switch d.Cmd {
	case "new":
		to = name
		next, err = NewMap(version, descriptorsOf(t, d.Input))
	case "split":
		next, err = m.Split(RangeID(id), []byte(at), RangeID(child), replicasOf(t, argVals(d, "on")))
	case "merge":
		next, err = m.Merge(RangeID(left), RangeID(right))
	case "apply":
		if next, err = m.Apply(descriptorsOf(t, d.Input)...); next == m {
			return "nothing new\n"
		}
	case "lookup":
		return eachLine(d.Input, func(f []string) string { r := m.Lookup(bound(f[0])); return r.ID.String() })
	case "overlap":
		return eachLine(d.Input, func(f []string) string {
			var ids []string
			for r := range m.Overlapping(Span{bound(f[0]), bound(f[1])}) {
				ids = append(ids, r.ID.String())
			}
			return strings.Join(ids, " ")
		})
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	if err != nil {
		return err.Error() + "\n"
	}
	e.maps[to] = next
	return next.String()
}

func argVals(d *datadriven.TestData, key string) []string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return a.Vals
		}
	}
	return nil
}

func bound(s string) []byte {
	if s == "-" {
		return nil
	}
	return []byte(s)
}

func eachLine(in string, fn func(fields []string) string) string {
	var b strings.Builder
	for _, line := range strings.Split(in, "\n") {
		fmt.Fprintf(&b, "%s -> %s\n", line, fn(strings.Fields(line)))
	}
	return b.String()
}

func descriptorsOf(t *testing.T, in string) []Descriptor {
	var ds []Descriptor
	for _, line := range strings.Split(in, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		ds = append(ds, Descriptor{ID: RangeID(number(t, f[0])), Span: Span{bound(f[1]), bound(f[2])},
			Generation: Generation(number(t, f[3])), Replicas: replicasOf(t, f[4:])})
	}
	return ds
}

func replicasOf(t *testing.T, fields []string) []Replica {
	var rs []Replica
	for _, f := range fields {
		id, node, _ := strings.Cut(f, "@")
		rs = append(rs, Replica{ID: ReplicaID(number(t, id)), Node: NodeID(number(t, node))})
	}
	return rs
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSplitKeys(t *testing.T) {
	if SplitKeys(0) != nil || SplitKeys(1) != nil {
		t.Error("one range needs no key")
	}
	if got := fmt.Sprintf("%x", SplitKeys(4)); got != "[40 80 c0]" {
		t.Errorf("4 ranges are cut at %s", got)
	}
	for _, n := range []int{2, 3, 7, 256, 1000, 70000} {
		keys := SplitKeys(n)
		if len(keys) != n-1 {
			t.Fatalf("%d ranges need %d keys, got %d", n, n-1, len(keys))
		}
		for i, k := range keys {
			if len(k) == 0 || i > 0 && bytes.Compare(keys[i-1], k) >= 0 {
				t.Fatalf("%d ranges: key %d is %x after %x", n, i, k, keys[max(i-1, 0)])
			}
		}
	}
}
