package mvcc

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pontoon/shard"
)

// exportOf is what an export of the model's has: of each key, the newest version first.
func (m *model) exportOf(e Export) (out []string) {
	for _, key := range slices.Sorted(maps.Keys(m.vers)) {
		if !e.Span.Contains([]byte(key)) {
			continue
		}
		settled := false
		for _, v := range slices.Backward(m.vers[key]) {
			rev := v.kv.ModRevision
			if rev > e.To || rev <= e.Compact && settled {
				continue
			}
			settled = settled || rev <= e.Compact
			if rev < e.Compact && v.del {
				continue
			}
			out = append(out, exportLine(&v.kv, v.sub, v.del))
		}
	}
	return out
}

func exportLine(kv *shard.KeyValue, sub int64, del bool) string {
	return fmt.Sprintf("%q %d/%d %v %q %d %d %d", kv.Key, kv.ModRevision, sub, del, kv.Value, kv.CreateRevision, kv.Version, kv.Lease)
}

// TestCutExportAgainstModel pins moments of stores that are written to, settled, compacted and cut, and reads them in pages, late and slowly: what is
// exported is what the model had, whatever has become of it since.
func TestCutExportAgainstModel(t *testing.T) {
	for _, seed := range seeds(1) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			d := newDriver(t, seed)
			defer d.close()
			for range 20 {
				d.ops(25)
				d.export()
			}
		})
	}
}

// export reads a pinned moment while operations go on.
func (d *driver) export() {
	d.t.Helper()
	then := d.m.clone()
	pin := NewPin(d.s)
	defer pin.End()
	final := max(min(then.last, d.floor), then.compact) // above it a prepared transaction may yet write
	if pin.Compact() != then.compact {
		d.t.Fatalf("pinned at compaction %d, not %d", pin.Compact(), then.compact)
	}
	e := Export{Span: d.span().Intersect(pin.Span()), Compact: then.compact, Bytes: 1 + d.r.IntN(100)}
	e.To = e.Compact + d.r.Int64N(final-e.Compact+1)
	if d.r.IntN(2) == 0 { // another range has been compacted further
		e.Compact += d.r.Int64N(e.To - e.Compact + 1)
	}
	crash := d.crash
	d.crash = 0
	d.depth++
	defer func() { d.depth, d.crash = d.depth-1, crash }()
	var got []string
	for more := true; more; {
		for range d.r.IntN(8) {
			d.op()
		}
		next, again, err := pin.Page(e, func(kv *shard.KeyValue, sub int64, del bool) { got = append(got, exportLine(kv, sub, del)) })
		if err != nil {
			d.t.Fatal(err)
		}
		e.After, more = next, again
	}
	if want := then.exportOf(e); !slices.Equal(got, want) {
		d.t.Fatalf("an export up to %d compacted at %d is\n%q\nnot\n%q", e.To, e.Compact, got, want)
	}
}
