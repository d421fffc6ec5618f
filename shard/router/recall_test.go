package router_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// TestReadOfOneKeyAgain: what a leader has answered lately is answered once more, at the revision of now, where the oracle says that the range was given none
// since; in any other case the leader is asked.
func TestReadOfOneKeyAgain(t *testing.T) {
	const id = shard.FirstRangeID // of a, whose leader is node 1
	f := filled(t)
	r := f.router(t, false)
	read := func(what, key, want string, asks bool) {
		t.Helper()
		f.calls = nil
		res := mustRange(t, r, &pb.RangeOp{Key: []byte(key)})
		got := "-"
		if len(res.KVs) > 0 {
			got = string(res.KVs[0].Value)
		}
		if got != want || res.Count != int64(len(res.KVs)) || res.Revision != f.rev || len(f.calls) > 0 != asks {
			t.Errorf("%s: %s, %d at %d of %d, calls %v", what, got, res.Count, res.Revision, f.rev, f.calls)
		}
		for _, kv := range res.KVs { // the bytes are the caller's, where they are not the fake's
			if !asks {
				kv.Key[0], kv.Value = 'z', append(kv.Value[:0], "overwritten"...)
			}
		}
	}
	give := func(floor int64, last map[shard.RangeID]int64) { f.granted = &shard.Granted{Floor: floor, Last: last} }

	a := f.put("a", "one")
	give(a, nil)
	read("when nobody knows who leads", "a", "one", true)
	read("the first time", "a", "one", true)
	read("the second", "a", "one", true)
	if f.since != nil {
		t.Errorf("the oracle was asked for more than it had to be: %v", f.since)
	}
	read("the third", "a", "one", false)
	f.rev += 10 // by others
	give(a, map[shard.RangeID]int64{id + 1: f.rev})
	read("others were written to", "a", "one", false)
	give(f.rev-2, nil)
	read("the floor is below what was read", "a", "one", false)
	f.rev += 3
	give(f.rev-1, nil)
	read("of what was read to the floor nobody knows", "a", "one", true)
	read("now it is known", "a", "one", false)
	b := f.put("a", "two")
	give(b-1, map[shard.RangeID]int64{id: b})
	f.rev++
	read("the range was given a revision", "a", "two", true)
	read("and none since", "a", "two", false)
	f.granted = nil
	read("an oracle that does not tell", "a", "two", true)
	give(b, nil)
	read("and one that does", "a", "two", false)
	f.settings++
	read("other settings", "a", "two", true)
	read("the same", "a", "two", false)
	give(b, nil)
	read("a key that is not there", "ab", "-", true)
	read("again", "ab", "-", true)
	read("and again", "ab", "-", false)
	f.cut(t, 2, "a")
	f.leader[id+1] = 1
	read("the range is another one", "a", "two", true)
}

// TestReadOfOneKeyThatIsWritten: a key in a range that is written to all the time has its leader asked at once, nearly always.
func TestReadOfOneKeyThatIsWritten(t *testing.T) {
	f := filled(t)
	r := f.router(t, false)
	write := func() {
		rev := f.put("a", fmt.Sprint("written at ", f.rev+1))
		f.granted = &shard.Granted{Floor: rev - 1, Last: map[shard.RangeID]int64{shard.FirstRangeID: rev}}
	}
	for range 1000 {
		write()
		if res := mustRange(t, r, &pb.RangeOp{Key: []byte("a")}); res.KVs[0].ModRevision != f.rev {
			t.Fatalf("%v at %d", res.KVs, f.rev)
		}
	}
	if tried := len(f.since); tried > 30 {
		t.Errorf("%d of 1000 reads hoped for nothing", tried)
	}
	f.granted = &shard.Granted{Floor: f.rev}
	for range 200 {
		mustRange(t, r, &pb.RangeOp{Key: []byte("a")})
	}
	f.calls = nil
	if mustRange(t, r, &pb.RangeOp{Key: []byte("a")}); len(f.calls) > 0 {
		t.Error("it is asked for ever")
	}
}

// TestRecallIsBounded: so many keys are remembered and no more, none of them large; who reads a key often keeps its place.
func TestRecallIsBounded(t *testing.T) {
	f := filled(t)
	r := f.router(t, false)
	asked := func(key string) bool {
		f.calls = nil
		mustRange(t, r, &pb.RangeOp{Key: []byte(key)})
		return len(f.calls) > 0
	}
	for i := range 5000 {
		f.put(fmt.Sprintf("a%04d", i), "small")
	}
	f.put("a", "hot")
	f.put("al", strings.Repeat("large", 1<<12))
	f.granted = &shard.Granted{Floor: f.rev}
	for range 3 {
		asked("a")
		asked("al")
	}
	if asked("a") || !asked("al") {
		t.Error("which is remembered?")
	}
	kept := 0
	for i := range 5000 {
		key := fmt.Sprintf("a%04d", i)
		for range 4 {
			if !asked(key) {
				kept++
			}
			if asked("a") {
				t.Fatalf("the key that all read is forgotten after %d others", i)
			}
		}
	}
	still := 0
	for i := range 5000 {
		if !asked(fmt.Sprintf("a%04d", i)) {
			still++
		}
	}
	if kept < 4000 || still == 0 || still > 1<<10 {
		t.Errorf("%d were remembered, and %d still are", kept, still)
	}
}

// TestReadsOfOneKeyAgainShare: readers share what is remembered as they share a question, each with bytes of his own.
func TestReadsOfOneKeyAgainShare(t *testing.T) {
	f := filled(t)
	rev := f.put("a", "one")
	f.granted = &shard.Granted{Floor: rev}
	r, stored := f.router(t, false), f.data["a"][1]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				res, err := r.Range(t.Context(), &pb.RangeOp{Key: []byte("a")}, false)
				if err != nil || string(res.KVs[0].Value) != "one" {
					t.Errorf("%v, %v", res, err)
					return
				}
				if &res.KVs[0].Value[0] != &stored.Value[0] {
					res.KVs[0].Value[0] = 'z'
				}
			}
		})
	}
	wg.Wait()
	if r.Recalled() == 0 {
		t.Error("nothing was remembered")
	}
}

var _ router.Cluster = (*fake)(nil)
