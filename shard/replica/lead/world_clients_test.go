package lead

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/replicatest"
)

// ---- what clients do

func (w *world) issue(op *pb.Op, deadline time.Duration) {
	over := w.acked
	it := &Item{Op: op, Reply: func(resp *pb.WriteResponse, err error) {
		if err == nil {
			w.acked = max(w.acked, resp.Revision)
		}
		w.answers = append(w.answers, faultAnswer{op, resp, err, over})
	}}
	if deadline > 0 {
		it.Deadline = w.now.Add(deadline)
	}
	m := w.mapFor("write")
	parts := SplitTxn(m, op, nil)
	if len(parts) == 0 {
		it.Reply(nil, shard.ErrInvalid)
		return
	}
	e := w.envBy(m, parts[0].Key)
	if e.l == nil {
		it.Reply(nil, &shard.NotLeaderError{})
		return
	}
	e.l.Now = w.now
	if len(parts) > 1 {
		e.l.Coordinations.Coordinate(it, nil)
	} else {
		it.Fp.Acc = it.AccBuf[:0]
		it.Fp.Collect(op)
		it.Size = op.SizeVT()
		e.l.Request(it)
	}
	w.collect(e, e.l)
}

// read reads a span as a router does: the oracle's revision, then a fence on every range.
func (w *world) read(key, end string) {
	span := shard.FromEtcd([]byte(key), []byte(end))
	w.later("read", func() {
		rev, epoch := w.rev, w.epoch
		over := w.acked
		if rev < over {
			w.t.Fatalf("current revision %d after %d had been acknowledged", rev, over)
		}
		for d := range w.m.Overlapping(span) {
			clip := d.Span.Intersect(span)
			w.later("fence", func() { w.fence(w.env(clip.Start), clip, rev, epoch) })
		}
	})
}

func (w *world) fence(e *env, span shard.Span, rev int64, epoch shard.Epoch) {
	l := e.l
	f := &Fence{Rev: rev, Epoch: epoch, Deadline: w.now.Add(3 * time.Second)}
	f.Acc = append(f.AccBuf[:0], eval.Access{Span: span})
	f.Done = func(index uint64, err error) {
		if err != nil {
			return
		}
		w.later("page", func() {
			if index > e.index {
				w.t.Fatalf("a fence answered with index %d, applied %d", index, e.index)
			}
			if rev < e.st.Compact || !e.m.Desc.Span.ContainsSpan(span) { // read again, at its new range
				return
			}
			w.reads = append(w.reads, worldRead{span, rev, content(w.t, e.st, span, rev)})
		})
	}
	l.Fences.Fence(f)
	l.Run()
	w.collect(e, l)
}

func content(t testing.TB, st *replicatest.MemStore, span shard.Span, rev int64) string {
	var b strings.Builder
	err := st.Scan(mvcc.ScanOptions{Span: span, Rev: rev}, func(kv *shard.KeyValue) bool {
		fmt.Fprintf(&b, "%s=%s@%d/%d ", kv.Key, kv.Value, kv.ModRevision, kv.Version)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// expire ends a lease, again and again until the ranges have done it.
func (w *world) expire(id int64) {
	le := w.leases[id]
	le.ending = true
	op := &pb.Op{ExpireLease: id, ExpireGrant: le.grant}
	m := w.mapFor("expire")
	parts := SplitTxn(m, op, le.spans)
	if len(parts) == 1 {
		op.ExpireSpan = parts[0].Body.ExpireSpan
	}
	if len(parts) == 0 {
		delete(w.leases, id)
		return
	}
	again := func() { w.later("expire again", func() { w.expire(id) }) }
	it := &Item{Op: op, Reply: func(resp *pb.WriteResponse, err error) {
		if err != nil {
			again()
			return
		}
		delete(w.leases, id)
	}}
	it.Deadline = w.now.Add(5 * time.Second)
	e := w.envBy(m, parts[0].Key)
	if e.l == nil {
		again()
		return
	}
	e.l.Now = w.now
	if len(parts) > 1 {
		e.l.Coordinations.Coordinate(it, le.spans)
	} else {
		it.Fp.Collect(op)
		e.l.Request(it)
	}
	w.collect(e, e.l)
}
