package restore

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pontoon/internal/datadir"
	"pontoon/internal/etcdfile"
	"pontoon/internal/manifest"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// source is a file of n keys, each written twice, every third with a lease, and three members.
func source(t testing.TB, n int) *Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	w, err := etcdfile.Create(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	rev := int64(1)
	for version := int64(1); version <= 2; version++ {
		for i := range n {
			rev++
			r := etcdfile.Row{Rev: etcdfile.Rev{Main: rev}, Key: fmt.Appendf(nil, "key\x00%04d", i), Create: rev - (version-1)*int64(n), Version: version, Value: []byte("value")}
			if i%3 == 0 {
				r.Lease = 77
			}
			if err := w.Put(etcdfile.AppendRev(nil, r.Rev, false), r.AppendValue(nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Finish(&etcdfile.Contents{ConsistentIndex: 1, Term: 1, Compact: int64(n), Leases: []etcdfile.Lease{{ID: 77, TTL: 60}, {ID: 78, TTL: 5}}}); err != nil {
		t.Fatal(err)
	}
	s := &Source{Path: path, Cluster: 5, Node: 1}
	for id := range shard.NodeID(3) {
		s.Members = append(s.Members, shard.Member{ID: id + 1, Name: fmt.Sprint(id)})
	}
	return s
}

func imported(t testing.TB, s *Source, node shard.NodeID, ranges int) (dir string, plan *pb.MetaBootstrap, res Result) {
	t.Helper()
	own := *s
	own.Node = node
	dir = t.TempDir()
	res, err := Import(Config{Source: &own, DataDir: dir, Plan: manifest.Plan{Ranges: ranges}, ReplicationFactor: 3, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if plan, err = LoadPlan(dir); err != nil || plan == nil {
		t.Fatal(err)
	}
	return dir, plan, res
}

// TestImport: the files of ranges have what the file has, in parts of about one size, and every member comes to the same plan; another file or another
// layout is another cluster.
func TestImport(t *testing.T) {
	const keys = 400
	s := source(t, keys)
	dir, plan, res := imported(t, s, 1, 8)
	if len(plan.Ranges) != 8 || plan.Restored.Revision != 2*keys+1 || plan.Restored.Compact != keys || plan.ClusterId != res.Cluster || len(plan.Restored.Leases) != 2 {
		t.Fatalf("%v", plan)
	}
	total := 0
	for _, d := range pb.ToDescriptors(plan.Ranges) {
		st, err := mvcc.Open(mvcc.Options{Path: replica.StorePath(filepath.Join(dir, datadir.Ranges), d.ID), RangeID: d.ID})
		if err != nil {
			t.Fatal(err)
		}
		if n := st.Keys(); n < keys/8-2 || n > keys/8+2 {
			t.Errorf("%v has %d keys", d.Span, n)
		}
		total += int(st.Keys())
		if leased, err := st.LeaseKeys(77, 0); err != nil || len(leased) == 0 || !d.Span.Contains(leased[0]) {
			t.Errorf("lease in %v: %q, %v", d.Span, leased, err)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total != keys {
		t.Errorf("%d keys of %d", total, keys)
	}
	if spans := pb.ToSpans(plan.Restored.Leases[0].Spans); len(spans) != 8 || len(plan.Restored.Leases[1].Spans) != 0 {
		t.Errorf("leases are in %v", plan.Restored.Leases)
	}
	if left, err := filepath.Glob(filepath.Join(dir, sortDir)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	_, _, same := imported(t, s, 2, 8)
	_, _, layout := imported(t, s, 2, 7)
	_, _, content := imported(t, source(t, keys+1), 2, 8)
	if same != res || layout.Cluster == res.Cluster || content.Cluster == res.Cluster {
		t.Errorf("clusters %v, the same %v, another layout %v, another content %v", res, same, layout, content)
	}
}

// TestImportAgain: what a killed import has left is made anew, and a plan that is damaged is not taken.
func TestImportAgain(t *testing.T) {
	s := source(t, 20)
	dir := t.TempDir()
	for _, left := range []string{filepath.Join(datadir.Ranges, "r2"), sortDir} {
		if err := os.MkdirAll(filepath.Join(dir, left, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Source: s, DataDir: dir, ReplicationFactor: 3, Logger: slog.New(slog.DiscardHandler)}
	for range 2 {
		if _, err := Import(cfg); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, bootstrapName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{b[:10], append(slices.Clone(b), 1)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPlan(dir); err == nil {
			t.Error("a damaged plan was taken")
		}
	}
}
