package lead

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// check compares everything that was told with the logs, replayed in the order of their revisions.
func (w *world) check() {
	slices.SortStableFunc(w.applied, func(a, b appliedOp) int { return cmp.Compare(a.rev, b.rev) })
	r := &faultRun{t: w.t, e: &env{st: replicatest.NewMemStore()}, answers: w.answers, applied: w.applied}
	var got []string
	for d := range w.m.All() {
		e := w.env(d.Span.Start)
		if !e.m.Desc.Span.Equal(d.Span) {
			w.t.Errorf("%v holds %v, by the map %v", d.ID, e.m.Desc.Span, d.Span)
		}
		got = append(got, e.st.Dump())
		if n := len(e.m.Prepared) + len(e.m.Records); n != 0 {
			w.t.Errorf("%v: %d transactions are left", e.m.Desc.ID, n)
		}
		if n := e.l.tab.count + len(e.l.Fences.fences) + len(e.l.Coordinations.coords) + len(e.l.Coordinations.idle) + len(e.l.Participants.pendingResolves); n != 0 {
			w.t.Errorf("%v: %d requests are left", e.m.Desc.ID, n)
		}
		for lease := range e.m.Attachments {
			if le := w.leases[lease]; e.m.Attachments[lease].Attached && (le == nil || le.grant != e.m.Attachments[lease].Grant) {
				w.t.Errorf("%v: lease %d is attached, and has ended", e.m.Desc.ID, lease)
			}
		}
		_ = e.st.Scan(mvcc.ScanOptions{Rev: math.MaxInt64}, func(kv *shard.KeyValue) bool {
			if kv.Lease != 0 && w.leases[kv.Lease] == nil {
				w.t.Errorf("%s carries lease %d, which is gone", kv.Key, kv.Lease)
			}
			return true
		})
	}
	r.content = strings.Join(got, "")
	model := r.check()
	for _, rd := range w.reads {
		if want := content(w.t, model, rd.span, rd.rev); rd.content != want {
			w.t.Errorf("%v at %d was read as %q, it is %q", rd.span, rd.rev, rd.content, want)
		}
	}
}

// checkDense: without a failure every revision is an effect.
func (w *world) checkDense() {
	want := int64(2)
	for _, a := range w.applied {
		if a.rev != want {
			w.t.Fatalf("revision %d follows %d", a.rev, want-1)
		}
		want++
	}
	if want != w.rev+1 {
		w.t.Fatalf("the oracle stands at %d, the last effect has %d", w.rev, want-1)
	}
}

func (w *world) String() string {
	var b strings.Builder
	for _, t := range w.tasks {
		fmt.Fprintf(&b, "%s; ", t.name)
	}
	return b.String()
}

var worldTrace = os.Getenv("WORLD_TRACE") != ""

func entText(e *pb.Entry) string {
	switch {
	case e.Prepare != nil:
		return fmt.Sprintf("prepare %v w=%v r=%v lease=%d floor=%d", apply.ToTxnID(e.Prepare.Id), pb.ToSpans(e.Prepare.Write), pb.ToSpans(e.Prepare.Read), e.Prepare.Lease, e.Prepare.Floor)
	case e.Commit != nil:
		return fmt.Sprintf("commit %v at %d %v", apply.ToTxnID(e.Commit.Id), e.Commit.Revision, e.Commit.Effects)
	case e.Abort != nil:
		return fmt.Sprintf("abort %v", apply.ToTxnID(e.Abort.Id))
	case e.Resolve != nil:
		return fmt.Sprintf("resolve %v %v at %d %v", apply.ToTxnID(e.Resolve.Id), e.Resolve.Committed, e.Resolve.Revision, e.Resolve.Effects)
	case e.Drop != nil:
		return fmt.Sprintf("drop %v", apply.ToTxnID(e.Drop.Id))
	}
	return entryString(e)
}
