package shard

import (
	"slices"
	"sync"
	"testing"
)

func TestTable(t *testing.T) {
	var tab Table[string]
	if _, ok := tab.Get(1); ok || tab.Len() != 0 || tab.Delete(1) || len(tab.Values()) != 0 {
		t.Fatal("a new table is not empty")
	}
	tab.Put(1, "a")
	tab.Put(2, "b")
	tab.Put(2, "c")
	if got := tab.GetOrPut(2, "d"); got != "c" {
		t.Errorf("GetOrPut of one that is there: %q", got)
	}
	if got := tab.GetOrPut(3, "d"); got != "d" {
		t.Errorf("GetOrPut of one that is not there: %q", got)
	}
	if !tab.Delete(1) || tab.Delete(1) {
		t.Error("Delete does not tell what was there")
	}
	if v, ok := tab.Get(3); v != "d" || !ok {
		t.Errorf("Get: %q, %v", v, ok)
	}
	all := tab.Values()
	slices.Sort(all)
	if !slices.Equal(all, []string{"c", "d"}) || tab.Len() != 2 {
		t.Errorf("Values: %q, Len: %d", all, tab.Len())
	}
}

func TestTableBesideItself(t *testing.T) {
	var tab Table[*int]
	var wg sync.WaitGroup
	first := make([]*int, 8)
	for i := range first {
		wg.Go(func() {
			first[i] = tab.GetOrPut(7, new(int))
			for id := range RangeID(100) {
				tab.Put(100*RangeID(i)+id+100, first[i])
				tab.Get(id)
				tab.Values()
			}
		})
	}
	wg.Wait()
	for _, p := range first {
		if p != first[0] {
			t.Fatal("two callers of GetOrPut got different values")
		}
	}
	if tab.Len() != 801 {
		t.Errorf("%d values", tab.Len())
	}
}
