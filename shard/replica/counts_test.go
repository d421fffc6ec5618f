package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pontoon/internal/counts"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

// walkedStore counts the keys that are walked over to count.
type walkedStore struct {
	*replicatest.MemStore
	walked int64
}

func (s *walkedStore) Count(span shard.Span, rev int64) (int64, error) {
	n, err := s.MemStore.Count(span, rev)
	s.walked += n
	return n, err
}

// TestCountsOfPages: who asks how many keys there are from each page's start on is told what a count of
// all would say, and each key is counted about once.
func TestCountsOfPages(t *testing.T) {
	const keys, page = 2000, 50
	rnd := rand.New(rand.NewPCG(1, 2))
	st := &walkedStore{MemStore: replicatest.NewMemStore()}
	rev := int64(1)
	write := func(key int, del bool) {
		rev++
		_, err := st.Apply(mvcc.Change{
			Pos:  mvcc.Position{Index: uint64(rev), Term: 1},
			Muts: []mvcc.Mutation{{Key: name(key), Delete: del, Rev: mvcc.Rev{Main: rev}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range keys {
		write(i, false)
	}
	c := counts.Cache{Limit: countsLimit}
	r := countingReader{Reader: st, cache: &c}
	lists := map[int64]int{} // where the next page of the list at a revision begins
	started := int64(0)
	for range 8 * keys / page {
		if at := rev - rnd.Int64N(4); len(lists) < 4 && lists[at] == 0 {
			lists[at] = 0
			started++
		}
		for at, from := range lists {
			span := shard.Span{Start: name(from), End: name(keys)}
			if at%2 == 0 {
				span.End = nil
			}
			want, err := st.MemStore.Count(span, at)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Count(span, at)
			r.keep()
			if got != want || err != nil {
				t.Fatalf("%d keys in %v at %d, %v; there are %d", got, span, at, err, want)
			}
			if lists[at] += page; lists[at] >= keys {
				delete(lists, at)
			}
			break
		}
		write(rnd.IntN(keys), rnd.IntN(3) == 0)
	}
	if most := started * (2*keys + countedKeysMin*countedKeysMin/page); st.walked > most {
		t.Errorf("%d keys were walked over for %d lists of %d", st.walked, started, keys)
	}
}

func name(i int) []byte { return fmt.Appendf(nil, "k%06d", i) }

// TestKnownCountsAreCompacted: what a compaction has taken is not answered from memory.
func TestKnownCountsAreCompacted(t *testing.T) {
	st := replicatest.NewMemStore()
	for i := range 2 * countedKeysMin {
		rev := int64(i + 2)
		if _, err := st.Apply(mvcc.Change{
			Pos:  mvcc.Position{Index: uint64(rev), Term: 1},
			Muts: []mvcc.Mutation{{Key: name(i), Rev: mvcc.Rev{Main: rev}}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	c := counts.Cache{Limit: countsLimit}
	r := countingReader{Reader: st, cache: &c}
	const at = countedKeysMin + 10
	for range 2 {
		if n, err := r.Count(shard.All, at); n != at-1 || err != nil {
			t.Fatalf("%d keys, %v", n, err)
		}
		r.keep()
	}
	st.Compact = at + 1
	var compacted *shard.CompactedError
	if n, err := r.Count(shard.All, at); !errors.As(err, &compacted) || compacted.Revision != at+1 {
		t.Errorf("%d keys, %v", n, err)
	}
}

// TestOnlyWhatIsFinalIsRemembered: a count at a revision that may still get keys is not one for later.
func TestOnlyWhatIsFinalIsRemembered(t *testing.T) {
	f := newFixture(t)
	req := countRequest(countedKeysMin + 5)
	for i := range countedKeysMin {
		f.mustWrite(t, replicatest.Put(string(name(i)), "v"), fmt.Sprintf("%d put@%d", i+2, i+2))
	}
	if n := readAll(t, f.r, req).Count; n != countedKeysMin {
		t.Fatalf("%d keys", n)
	}
	for i := countedKeysMin; i < countedKeysMin+10; i++ {
		f.mustWrite(t, replicatest.Put(string(name(i)), "v"), fmt.Sprintf("%d put@%d", i+2, i+2))
	}
	for range 2 { // the second time from memory
		if n := readAll(t, f.r, req).Count; n != countedKeysMin+4 {
			t.Fatalf("%d keys at revision %d", n, req.Revision)
		}
	}
	if _, ok := f.r.counts.Exact(shard.All, req.Revision); !ok {
		t.Error("what is final is not remembered")
	}
	if _, ok := f.r.counts.Exact(shard.All, countedKeysMin+2); ok {
		t.Error("more is remembered than was asked")
	}
}

func countRequest(rev int64) *pb.ReadRequest {
	return &pb.ReadRequest{Span: pb.FromSpan(shard.All), Revision: rev, CountOnly: true}
}
