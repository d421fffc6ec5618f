package replica

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// ---- what clients do

func (w *world) issue(op *pb.Op, deadline time.Duration) {
	over := w.acked
	it := &item{op: op, reply: func(resp *pb.WriteResponse, err error) {
		if err == nil {
			w.acked = max(w.acked, resp.Revision)
		}
		w.answers = append(w.answers, faultAnswer{op, resp, err, over})
	}}
	if deadline > 0 {
		it.deadline = w.now.Add(deadline)
	}
	parts := splitTxn(w.m, op, nil)
	if len(parts) == 0 {
		it.reply(nil, shard.ErrInvalid)
		return
	}
	e := w.env(parts[0].key)
	if e.l == nil {
		it.reply(nil, &shard.NotLeaderError{})
		return
	}
	e.l.now = w.now
	if len(parts) > 1 {
		e.l.coordinate(it, nil)
	} else {
		it.fp.acc = it.one[:0]
		it.fp.collect(op)
		it.size = op.SizeVT()
		e.l.request(it)
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
		for _, d := range w.m.Overlapping(span) {
			clip := d.Span.Intersect(span)
			w.later("fence", func() { w.fence(w.env(clip.Start), clip, rev, epoch) })
		}
	})
}

func (w *world) fence(e *env, span shard.Span, rev int64, epoch shard.Epoch) {
	l := e.l
	f := &fence{rev: rev, epoch: epoch, deadline: w.now.Add(3 * time.Second)}
	f.acc = append(f.one[:0], access{span: span})
	f.done = func(index uint64, err error) {
		if err != nil {
			return
		}
		w.later("page", func() {
			if index > e.index {
				w.t.Fatalf("a fence answered with index %d, applied %d", index, e.index)
			}
			w.reads = append(w.reads, worldRead{span, rev, content(w.t, e.st, span, rev)})
		})
	}
	l.fence(f)
	l.run()
	w.collect(e, l)
}

func content(t testing.TB, st *memStore, span shard.Span, rev int64) string {
	var b strings.Builder
	err := st.Scan(mvcc.ScanOptions{Span: span, Rev: rev}, func(kv *mvcc.KeyValue) bool {
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
	parts := splitTxn(w.m, op, le.spans)
	if len(parts) == 0 {
		delete(w.leases, id)
		return
	}
	again := func() { w.later("expire again", func() { w.expire(id) }) }
	it := &item{op: op, reply: func(resp *pb.WriteResponse, err error) {
		if err != nil {
			again()
			return
		}
		delete(w.leases, id)
	}}
	it.deadline = w.now.Add(5 * time.Second)
	e := w.env(parts[0].key)
	if e.l == nil {
		again()
		return
	}
	e.l.now = w.now
	if len(parts) > 1 {
		e.l.coordinate(it, le.spans)
	} else {
		it.fp.collect(op)
		e.l.request(it)
	}
	w.collect(e, e.l)
}
