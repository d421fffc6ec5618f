package router_test

import (
	"fmt"
	"strings"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestReadAtHome: what a replica of this node has is read there, at the revision of now, where the oracle says that nothing was given to its range since it was
// final; any other range has its leader asked, also where only a part of what is read is in it.
func TestReadAtHome(t *testing.T) {
	f := filled(t) // r2: a b c, led by node 1; r3: h i, by 2; r4: o p, by 3; r5: z, by 1, and not here
	r := f.router(t, true)
	for _, key := range []string{"a", "h", "o", "z"} { // now leaders are known
		mustRange(t, r, &pb.RangeOp{Key: []byte(key)})
	}
	closed := func(revs ...int64) {
		for i, rev := range revs {
			f.closed[shard.FirstRangeID+shard.RangeID(i)] = rev
		}
	}
	key := func(k string) *pb.RangeOp { return &pb.RangeOp{Key: []byte(k)} }
	everything := &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte{0}}
	read := func(what string, op *pb.RangeOp, want, calls string) {
		t.Helper()
		f.calls = nil
		res := mustRange(t, r, op)
		if got := names(res.KVs); got != want || res.Revision != f.rev {
			t.Errorf("%s: %s at %d of %d", what, got, res.Revision, f.rev)
		}
		if got := strings.ReplaceAll(fmt.Sprint(f.calls), " index 0", ""); got != calls {
			t.Errorf("%s: calls %s, want %s", what, got, calls)
		}
	}

	f.granted = &shard.Granted{Floor: 1}
	closed(f.rev, f.rev, f.rev)
	read("all that are here are final", everything, "a b c h i o p z ", "[read r2 at n2 read r3 at n2 read r4 at n2 fence r5 at n1]")
	read("a key", key("b"), "b ", "[read r2 at n2]")
	f.put("b", "newer")
	f.granted.Last = map[shard.RangeID]int64{shard.FirstRangeID: f.rev}
	read("its range was given a revision", key("b"), "b ", "[fence r2 at n1]")
	closed(f.rev)
	read("it is final there", key("c"), "c ", "[read r2 at n2]")
	f.put("b", "newest")
	f.granted.Last[shard.FirstRangeID] = f.rev
	read("one of them was", everything, "a b c h i o p z ", "[fence r2 at n1 read r3 at n2 read r4 at n2 fence r5 at n1]")
	closed(f.rev)
	f.rev += 70
	closed(f.rev, 3, f.rev-10)
	read("one is far behind, and nobody asks what it was given", everything, "a b c h i o p z ", "[read r2 at n2 fence r3 at n2 read r4 at n2 fence r5 at n1]")
	if since := f.since[len(f.since)-1]; since != f.rev-10 {
		t.Errorf("asked since %d of %d", since, f.rev)
	}
	closed(f.rev, f.rev, f.rev)
	read("at a revision of before", &pb.RangeOp{Key: []byte("a"), Revision: 3}, "a ", "[read r2 at n2]")
	f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
		if req.Read != nil {
			return shard.ErrUnavailable
		}
		return nil
	}
	read("the leader reads what it has in any case", key("i"), "i ", "[fence r3 at n2]")
	read("the replica has gone", key("p"), "p ", "[fence r4 at n3]")
	read("so have all", &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("n")}, "a b c h i ", "[fence r2 at n1 fence r3 at n2]")
	if r.ReadHere() != 12 {
		t.Errorf("%d were read at home", r.ReadHere())
	}
}

// TestReadAtHomeOfWhatIsWritten: the oracle is not asked for long for a range that is written to all the time, and is again when that is over.
func TestReadAtHomeOfWhatIsWritten(t *testing.T) {
	f := filled(t)
	r := f.router(t, true)
	f.closed[shard.FirstRangeID] = f.rev
	for range 1000 {
		f.closed[shard.FirstRangeID] = f.rev
		f.put("a", "x")
		f.granted = &shard.Granted{Last: map[shard.RangeID]int64{shard.FirstRangeID: f.rev}}
		if res := mustRange(t, r, &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("b")}); res.KVs[0].ModRevision != f.rev {
			t.Fatalf("%v at %d", res.KVs, f.rev)
		}
	}
	if tried := len(f.since); tried > 30 {
		t.Errorf("%d of 1000 reads hoped for nothing", tried)
	}
	f.closed[shard.FirstRangeID], f.granted = f.rev, &shard.Granted{}
	for range 100 {
		f.calls = nil
		mustRange(t, r, &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("b")})
	}
	if got := fmt.Sprint(f.calls); got != "[read r2 at n2 index 0]" {
		t.Errorf("calls %s", got)
	}
}
