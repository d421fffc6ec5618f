package history

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

// story builds a history by hand. Every step takes 10 time units, one after the other, unless a
// test changes the times.
type story struct {
	h   History
	now int64
	all *Watch // over everything
}

func newStory() *story {
	s := &story{all: &Watch{ID: 1000, Key: "\x00", End: "\x00", Rev: 1, Prev: true}}
	s.h.Watches = []*Watch{s.all}
	return s
}

func (s *story) op(cmd Cmd, res *Result) *Op {
	op := &Op{ID: int64(len(s.h.Ops) + 1), Call: s.now + 2, Return: s.now + 8, Fate: OK, Cmd: cmd, Result: res}
	s.now += 10
	s.h.Ops = append(s.h.Ops, op)
	return op
}

func (s *story) put(rev int64, key, value string) *Op {
	return s.op(Cmd{Kind: Put, Key: key, Value: value}, &Result{Rev: rev})
}

func (s *story) fail(cmd Cmd, fate, err string) *Op {
	op := s.op(cmd, nil)
	op.Fate, op.Err = fate, err
	if fate == Unknown {
		op.Return = Never
	}
	return op
}

func (s *story) get(rev int64, key string, kv *KV) *Op {
	r := &Result{Rev: rev}
	if kv != nil {
		r.Kvs, r.Count = []KV{*kv}, 1
	}
	return s.op(Cmd{Kind: Range, Key: key}, r)
}

func (s *story) del(rev int64, key string) *Op {
	r := &Result{Rev: rev}
	if rev > 0 {
		r.Deleted = 1
	}
	return s.op(Cmd{Kind: Delete, Key: key}, r)
}

func (s *story) watch(rev int64, key, end string) *Watch {
	w := &Watch{ID: int64(len(s.h.Watches)), Key: key, End: end, Rev: rev, Prev: true}
	s.h.Watches = append(s.h.Watches, w)
	return w
}

// tell gives a watch a response; its revision is that of the last event.
func (s *story) tell(w *Watch, es ...Event) {
	w.Responses = append(w.Responses, WatchResponse{Watch: w.ID, At: s.now, Rev: es[len(es)-1].KV.Mod, Events: es})
}

func (s *story) progress(w *Watch, rev int64) {
	w.Responses = append(w.Responses, WatchResponse{Watch: w.ID, At: s.now, Rev: rev})
}

func kv(key, value string, create, mod, version int64) KV {
	return KV{Key: key, Value: value, Create: create, Mod: mod, Version: version}
}

func set(k KV, prev ...KV) Event {
	e := Event{KV: k}
	if len(prev) > 0 {
		e.Prev = &prev[0]
	}
	return e
}

func gone(rev int64, prev KV) Event {
	return Event{Del: true, KV: KV{Key: prev.Key, Mod: rev}, Prev: &prev}
}

func leased(k KV, lease int64) KV {
	k.Lease = lease
	return k
}

// The states of key a in most stories.
var (
	a2 = kv("a", "v2", 2, 2, 1)
	a3 = kv("a", "v3", 2, 3, 2)
	b3 = kv("b", "w3", 3, 3, 1)
	b4 = kv("b", "w4", 4, 4, 1)
)

// good is a history in which all is well.
func good() *story {
	s := newStory()
	s.put(2, "a", "v2")
	s.tell(s.all, set(a2))
	s.get(2, "a", &a2)
	s.op(Cmd{Kind: Txn, Cmps: []Cmp{{Key: "a", Target: "mod", Op: "=", Number: 2}}, Then: []Cmd{{Kind: Put, Key: "a", Value: "v3", Prev: true}}},
		&Result{Rev: 3, Succeeded: true, Results: []Result{{Prev: &a2}}})
	s.tell(s.all, set(a3, a2))
	s.fail(Cmd{Kind: Put, Key: "b", Value: "w4"}, Unknown, "timed out")
	s.tell(s.all, set(b4))
	s.del(5, "a")
	s.tell(s.all, gone(5, a3))
	s.fail(Cmd{Kind: Delete, Key: "b"}, Unknown, "timed out")
	s.tell(s.all, gone(7, b4)) // 6 is a gap
	s.fail(Cmd{Kind: Put, Key: "c", Value: "x"}, Unknown, "timed out")
	s.get(7, "c", nil)
	s.op(Cmd{Kind: Range, Key: "a", Rev: 3}, &Result{Rev: 7, Kvs: []KV{a3}, Count: 1})
	s.progress(s.all, 8)
	return s
}

func TestGoodHistoryPasses(t *testing.T) {
	s := good()
	r := Check(&s.h, Options{})
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if r.Writes != 3 || r.Unknown != 3 || r.Happened != 2 || r.Gaps != 1 {
		t.Errorf("%+v", r)
	}
	if err := Linearizable(&s.h, Limits{}).Err(); err != nil {
		t.Error(err)
	}
}

func TestHistoryGoesThroughAFile(t *testing.T) {
	s := good()
	s.all.Responses = append(s.all.Responses, WatchResponse{Watch: s.all.ID, At: 1, Err: "compacted", Compact: 3})
	var b bytes.Buffer
	if err := s.h.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&s.h, again) {
		t.Errorf("%+v became %+v", s.h, again)
	}
	for _, bad := range []string{`{}`, `{"op":`, `{"response":{"watch":77}}`} {
		if _, err := Read(bytes.NewReader([]byte(bad))); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// bad are histories with one fault each.
var bad = []struct {
	name string
	kind string
	opts Options
	make func(s *story)
}{
	{"an acknowledged write that no watch has", LostWrite, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.progress(s.all, 2)
	}},
	{"one revision for two writes", ReusedRevision, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(2, "b", "w3")
		s.tell(s.all, set(a2))
	}},
	{"a read of an old value", WrongAnswer, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(3, "a", "v3")
		s.tell(s.all, set(a2), set(a3, a2))
		s.get(3, "a", &a2)
	}},
	{"a listing that lacks a key", WrongAnswer, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(3, "b", "w3")
		s.tell(s.all, set(a2), set(b3))
		s.op(Cmd{Kind: Range, Key: "a", End: "c"}, &Result{Rev: 3, Kvs: []KV{a2}, Count: 1})
	}},
	{"a snapshot that shows the future", WrongAnswer, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(3, "a", "v3")
		s.tell(s.all, set(a2), set(a3, a2))
		s.op(Cmd{Kind: Range, Key: "a", Rev: 2}, &Result{Rev: 3, Kvs: []KV{a3}, Count: 1})
	}},
	{"a condition decided wrongly", WrongAnswer, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2))
		s.op(Cmd{Kind: Txn, Cmps: []Cmp{{Key: "a", Target: "mod", Op: "=", Number: 2}}, Else: []Cmd{{Kind: Range, Key: "a"}}},
			&Result{Rev: 2, Results: []Result{{Kvs: []KV{a2}, Count: 1}}})
	}},
	{"the previous value of a put", WrongAnswer, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.op(Cmd{Kind: Put, Key: "a", Value: "v3", Prev: true}, &Result{Rev: 3})
		s.tell(s.all, set(a2), set(a3, a2))
	}},
	{"a delete of nothing that had something to delete", WrongAnswer, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2))
		s.op(Cmd{Kind: Delete, Key: "a"}, &Result{Rev: 2})
	}},
	{"half a transaction", WrongEvents, Options{}, func(s *story) {
		s.op(Cmd{Kind: Txn, Then: []Cmd{{Kind: Put, Key: "a", Value: "v2"}, {Kind: Put, Key: "b", Value: "w2"}}},
			&Result{Rev: 2, Succeeded: true, Results: []Result{{}, {}}})
		s.tell(s.all, set(a2))
		s.progress(s.all, 3)
	}},
	{"a value from nowhere", Unexplained, Options{}, func(s *story) {
		s.tell(s.all, set(a2))
	}},
	{"a delete that nobody asked for", Unexplained, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2), gone(3, a2))
	}},
	{"one delete of unknown outcome, done twice", Unexplained, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.fail(Cmd{Kind: Delete, Key: "a"}, Unknown, "timed out")
		s.put(4, "a", "v4")
		a4 := kv("a", "v4", 4, 4, 1)
		s.tell(s.all, set(a2), gone(3, a2), set(a4), gone(5, a4))
	}},
	{"a delete that was seen before it was asked for", Unexplained, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2), gone(3, a2))
		s.fail(Cmd{Kind: Delete, Key: "a"}, Unknown, "timed out")
	}},
	{"a put that was done twice", AppliedTwice, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2), set(kv("a", "v2", 2, 3, 2), a2))
	}},
	{"a put of unknown outcome that was done twice", AppliedTwice, Options{}, func(s *story) {
		s.fail(Cmd{Kind: Put, Key: "a", Value: "v2"}, Unknown, "timed out")
		s.tell(s.all, set(a2), set(kv("a", "v2", 2, 3, 2), a2))
	}},
	{"a refused put that was done", AppliedRefused, Options{}, func(s *story) {
		s.fail(Cmd{Kind: Put, Key: "a", Value: "v2"}, Refused, "no")
		s.tell(s.all, set(a2))
	}},
	{"a later write with a lower revision", RealTime, Options{}, func(s *story) {
		s.put(3, "b", "w3")
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2), set(b3))
	}},
	{"a read that does not see what was acknowledged", RealTime, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2))
		s.get(1, "a", nil)
	}},
	{"two reads, the later one older", RealTime, Options{}, func(s *story) {
		s.put(2, "a", "v2").Return = 100
		s.get(2, "a", &a2)
		s.get(1, "a", nil)
		s.tell(s.all, set(a2))
	}},
	{"an event before its write was asked for", RealTime, Options{}, func(s *story) {
		s.tell(s.all, set(a2))
		s.now = 50
		s.put(2, "a", "v2")
	}},
	{"a progress notification beyond what there was", RealTime, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2))
		s.progress(s.watch(1, "b", ""), 3)
		s.put(3, "a", "v3")
		s.tell(s.all, set(a3, a2))
	}},
	{"a read below what was compacted", WrongCompact, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(3, "a", "v3")
		s.tell(s.all, set(a2), set(a3, a2))
		s.op(Cmd{Kind: Compact, Rev: 3}, &Result{Rev: 3})
		s.op(Cmd{Kind: Range, Key: "a", Rev: 2}, &Result{Rev: 3, Kvs: []KV{a2}, Count: 1})
	}},
	{"a refusal as compacted at the compaction revision", WrongCompact, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(3, "a", "v3")
		s.tell(s.all, set(a2), set(a3, a2))
		s.op(Cmd{Kind: Compact, Rev: 3}, &Result{Rev: 3})
		s.fail(Cmd{Kind: Range, Key: "a", Rev: 3}, Refused, saysCompacted)
	}},
	{"a read without a revision refused as compacted", WrongCompact, Options{}, func(s *story) {
		s.fail(Cmd{Kind: Range, Key: "a"}, Refused, saysCompacted)
	}},
	{"a known revision refused as a future one", WrongCompact, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.tell(s.all, set(a2))
		s.fail(Cmd{Kind: Range, Key: "a", Rev: 2}, Refused, saysFuture)
	}},
	{"a lease that ends too early", LeaseLost, Options{}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		s.tell(s.all, set(leased(a2, 7)), gone(3, leased(a2, 7)))
	}},
	{"a renewed lease that ends as if it had not been", LeaseLost, Options{}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		s.tell(s.all, set(leased(a2, 7)))
		s.now = int64(4 * time.Second)
		s.op(Cmd{Kind: KeepAlive, Lease: 7}, &Result{TTL: 5})
		s.now = int64(6 * time.Second)
		s.tell(s.all, gone(3, leased(a2, 7)))
	}},
	{"a live lease refused as not found", LeaseLost, Options{}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.fail(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, Refused, saysNoLease)
		s.progress(s.all, 1)
	}},
	{"a put under a revoked lease", LeaseGhost, Options{}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.op(Cmd{Kind: Revoke, Lease: 7}, &Result{Rev: 1})
		s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		s.tell(s.all, set(leased(a2, 7)))
	}},
	{"a revoked lease that still has keys", LeaseGhost, Options{}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		s.tell(s.all, set(leased(a2, 7)))
		s.op(Cmd{Kind: Revoke, Lease: 7}, &Result{Rev: 2})
	}},
	{"a grant with a header behind the first use", LeaseHeader, Options{}, func(s *story) {
		grant := s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 2})
		put := s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		grant.Return = put.Return + 1
		s.tell(s.all, set(leased(a2, 7)))
	}},
	{"a revoke with a header behind its deletes", LeaseHeader, Options{}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		revoke := s.op(Cmd{Kind: Revoke, Lease: 7}, &Result{Rev: 4})
		put := s.op(Cmd{Kind: Put, Key: "b", Value: "w4"}, &Result{Rev: 4})
		revoke.Return = put.Return + 1
		s.tell(s.all, set(leased(a2, 7)), gone(3, leased(a2, 7)), set(b4))
	}},
	{"a put of unknown outcome behind the end of its lease", LeaseGhost, Options{PartsExpiry: true}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		s.fail(Cmd{Kind: Put, Key: "b", Value: "w4", Lease: 7}, Unknown, "timed out")
		s.now = int64(6 * time.Second)
		s.tell(s.all, set(leased(a2, 7)), gone(3, leased(a2, 7)), set(leased(b4, 7)))
	}},
	{"a lease that ends key by key", LeaseInParts, Options{}, func(s *story) {
		s.op(Cmd{Kind: Grant, Lease: 7, TTL: 5}, &Result{TTL: 5, Rev: 1})
		s.op(Cmd{Kind: Put, Key: "a", Value: "v2", Lease: 7}, &Result{Rev: 2})
		s.op(Cmd{Kind: Put, Key: "b", Value: "w3", Lease: 7}, &Result{Rev: 3})
		s.now = int64(6 * time.Second)
		s.tell(s.all, set(leased(a2, 7)), set(leased(b3, 7)), gone(4, leased(a2, 7)), gone(5, leased(b3, 7)))
	}},
	{"events out of order", WatchOrder, Options{}, func(s *story) {
		twoWrites(s)
		s.tell(s.watch(1, "a", "c"), set(b3))
		s.tell(s.h.Watches[1], set(a2))
	}},
	{"events of one revision out of order", WatchOrder, Options{}, func(s *story) {
		e1, e2 := oneTxn(s)
		s.tell(s.watch(1, "a", "c"), e2, e1)
	}},
	{"an event twice", WatchTwice, Options{}, func(s *story) {
		twoWrites(s)
		s.tell(s.watch(1, "a", "c"), set(a2), set(a2), set(b3))
	}},
	{"an event left out", WatchGap, Options{}, func(s *story) {
		twoWrites(s)
		s.tell(s.watch(1, "a", "c"), set(b3))
	}},
	{"an event left out before a progress notification", WatchGap, Options{}, func(s *story) {
		twoWrites(s)
		w := s.watch(1, "a", "c")
		s.tell(w, set(a2))
		s.progress(w, 3)
	}},
	{"a resumed watch that left something out", WatchGap, Options{}, func(s *story) {
		twoWrites(s)
		s.put(4, "a", "v4")
		a4 := kv("a", "v4", 2, 4, 2)
		s.tell(s.all, set(a4, a2))
		s.tell(s.watch(1, "a", "c"), set(a2))
		s.tell(s.watch(3, "a", "c"), set(a4, a2))
	}},
	{"a watch from now on that left something out", WatchGap, Options{}, func(s *story) {
		twoWrites(s)
		w := s.watch(0, "a", "c")
		w.Responses = []WatchResponse{{Watch: w.ID, At: s.now, Rev: 2, Created: true}}
		s.progress(w, 3)
	}},
	{"half of a revision", WatchGap, Options{}, func(s *story) {
		e1, _ := oneTxn(s)
		s.tell(s.watch(1, "a", "c"), e1)
	}},
	{"a revision in two responses", WatchSplit, Options{}, func(s *story) {
		e1, e2 := oneTxn(s)
		w := s.watch(1, "a", "c")
		s.tell(w, e1)
		s.tell(w, e2)
	}},
	{"an event behind its bookmark", WatchBookmark, Options{}, func(s *story) {
		twoWrites(s)
		w := s.watch(1, "a", "c")
		s.tell(w, set(a2))
		s.progress(w, 3)
		s.tell(w, set(b3))
	}},
	{"a wrong previous value", WatchPrev, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(3, "a", "v3")
		s.tell(s.all, set(a2), set(a3, kv("a", "v1", 1, 1, 1)))
	}},
	{"no previous value", WatchPrev, Options{}, func(s *story) {
		s.put(2, "a", "v2")
		s.put(3, "a", "v3")
		s.tell(s.all, set(a2), set(a3))
	}},
	{"two watches that disagree", WatchEvent, Options{}, func(s *story) {
		twoWrites(s)
		s.tell(s.watch(1, "a", "c"), set(kv("a", "other", 2, 2, 1)), set(b3))
	}},
	{"an event from before the beginning", WatchEvent, Options{}, func(s *story) {
		twoWrites(s)
		s.tell(s.watch(3, "a", "c"), set(a2), set(b3))
	}},
	{"an event of another key", WatchEvent, Options{}, func(s *story) {
		twoWrites(s)
		s.tell(s.watch(1, "a", ""), set(a2), set(b3))
	}},
	{"an event after the end", WatchEvent, Options{}, func(s *story) {
		twoWrites(s)
		w := s.watch(1, "a", "c")
		w.Responses = []WatchResponse{{Watch: w.ID, At: s.now, Err: "no leader"}}
		s.tell(w, set(a2), set(b3))
	}},
}

func twoWrites(s *story) {
	s.put(2, "a", "v2")
	s.put(3, "b", "w3")
	s.tell(s.all, set(a2), set(b3))
}

func oneTxn(s *story) (a, b Event) {
	s.op(Cmd{Kind: Txn, Then: []Cmd{{Kind: Put, Key: "a", Value: "v2"}, {Kind: Put, Key: "b", Value: "w2"}}},
		&Result{Rev: 2, Succeeded: true, Results: []Result{{}, {}}})
	a, b = set(a2), set(kv("b", "w2", 2, 2, 1))
	s.tell(s.all, a, b)
	return a, b
}

func TestBadHistoriesAreRefused(t *testing.T) {
	for _, b := range bad {
		t.Run(b.name, func(t *testing.T) {
			s := newStory()
			b.make(s)
			r := Check(&s.h, b.opts)
			if !r.Has(b.kind) {
				t.Errorf("want %q, got %v", b.kind, r.Err())
			}
		})
	}
}

// TestWhatCannotBeDecidedIsSaid: a write behind the end of all watches.
func TestWhatCannotBeDecidedIsSaid(t *testing.T) {
	s := newStory()
	s.put(2, "a", "v2")
	s.get(2, "a", &a2)
	r := Check(&s.h, Options{})
	if len(r.Violations) != 0 || len(r.Undecided) != 2 || r.Err() == nil {
		t.Errorf("%v", r.Err())
	}
}

// TestDeletesFindTheirAuthors: two deletes of unknown outcome, of which one alone can be the first.
func TestDeletesFindTheirAuthors(t *testing.T) {
	s := newStory()
	s.put(2, "a", "v2")
	s.fail(Cmd{Kind: Delete, Key: "a"}, Unknown, "timed out")
	s.tell(s.all, set(a2), gone(3, a2))
	s.put(4, "a", "v4")
	a4 := kv("a", "v4", 4, 4, 1)
	s.fail(Cmd{Kind: Delete, Key: "a", End: "b"}, Unknown, "timed out")
	s.tell(s.all, set(a4), gone(5, a4))
	if err := Check(&s.h, Options{}).Err(); err != nil {
		t.Error(err)
	}
}
