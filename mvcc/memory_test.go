package mvcc

import (
	"fmt"
	"strings"
	"testing"
)

func TestStoresShareAMemory(t *testing.T) {
	m := NewMemory(64 << 10)
	with := func(o *Options) { o.Memory = m }
	a, b := newHarness(t, with), newHarness(t, with)
	rev := int64(0)
	fill := func(h *harness, bytes int) {
		for range bytes >> 10 {
			rev++
			h.change(Change{Muts: []Mutation{{Key: fmt.Appendf(nil, "%08d", rev), Value: make([]byte, 1<<10), Rev: Rev{rev, 0}}}})
		}
	}
	sum := func() int64 { return a.Unsettled() + b.Unsettled() }
	fill(a, 40<<10)
	if m.Used() != sum() || m.Used() < 40<<10 || m.Excess() != 0 {
		t.Fatalf("%d used, %d over, with %d unsettled", m.Used(), m.Excess(), sum())
	}
	fill(b, 40<<10)
	if m.Used() != sum() || m.Excess() != m.Used()-64<<10 || a.Pressed() {
		t.Fatalf("%d used, %d over, with %d unsettled; pressed: %v", m.Used(), m.Excess(), sum(), a.Pressed())
	}
	fill(b, 80<<10)
	if a.RequestSettle(); !a.Pressed() || b.Pressed() {
		t.Fatal("who was asked to settle is to help, and nobody else")
	}
	if !a.NeedsFlush() {
		t.Fatal("what is to settle must be in the file first")
	}
	a.ok(a.SettleNow())
	if a.Unsettled() != 0 || m.Used() != sum() || a.Pressed() {
		t.Fatalf("%d used with %d unsettled", m.Used(), sum())
	}
	b.ok(b.Flush())
	b.ok(b.Close())
	if m.Used() != 0 {
		t.Fatalf("%d used by stores that are empty or closed", m.Used())
	}
	b.Store = nil
	b.reopen()
	if m.Used() != b.Unsettled() || m.Used() < 120<<10 {
		t.Fatalf("%d used after loading %d", m.Used(), b.Unsettled())
	}
	var none *Memory
	if none.Used() != 0 || none.Excess() != 0 || none.pressed() {
		t.Fatal("no count, and yet something in it")
	}
}

// A settled version that a write replaces does not take the place of others in the cache.
func TestWritesDoNotFillTheCache(t *testing.T) {
	cache, err := NewCache(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	h := newHarness(t, func(o *Options) { o.Cache = cache })
	value := strings.Repeat("v", 100)
	h.change(Change{Muts: []Mutation{{Key: []byte("k"), Value: []byte(value), Rev: Rev{1, 0}}}})
	h.ok(h.SettleNow())
	evs := h.change(Change{Muts: []Mutation{{Key: []byte("k"), Value: []byte("w"), Rev: Rev{2, 0}}}})
	if len(evs) != 1 || evs[0].Prev == nil || string(evs[0].Prev.Value) != value {
		t.Fatalf("the version before is not there: %+v", evs)
	}
	cache.c.Wait()
	esc := appendEscaped(nil, []byte("k"))
	if cache.get(appendBaseKey(nil, []byte("k"), Rev{1, 0}), esc, Rev{1, 0}) != nil {
		t.Fatal("the replaced version is in the cache")
	}
}
