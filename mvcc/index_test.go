package mvcc

import (
	"runtime"
	"testing"

	"pontoon/shard"
)

// A key that is always written keeps its entry for ever, but no version that was trimmed, nor what that was
// a part of.
func TestAnEntryLetsTrimmedVersionsGo(t *testing.T) {
	x := newIndex(0)
	e := x.enter([]byte("hot"))
	gone := make(chan struct{})
	func() {
		first := &version{kv: shard.KeyValue{Value: make([]byte, 1<<20), ModRevision: 1}}
		runtime.AddCleanup(&first.kv.Value[0], func(struct{}) { close(gone) }, struct{}{})
		x.add(e, first)
	}()
	for rev := int64(2); rev < 5; rev++ {
		x.add(e, &version{kv: shard.KeyValue{ModRevision: rev}})
		x.trim(e, 1, e.vers[0].bytes())
	}
	for range 100 {
		runtime.GC()
		select {
		case <-gone:
			if n := e.newest().kv.ModRevision; n != 4 || x.get([]byte("hot")) != e {
				t.Fatalf("newest is %d, or the entry is another", n)
			}
			return
		default:
			runtime.Gosched()
		}
	}
	t.Fatal("the first version is still held")
}
