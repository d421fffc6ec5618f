package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// replay holds what clients were told against the final history: it goes through the revisions in
// order, evaluates the request behind each on the model, and answers every read as of its revision.
// Each effective request carries its revision, so this is exact and takes linear time.
type replay struct {
	w      *world
	m      *model
	writes map[int64][]*op // answered, by revision
	reads  []*op           // answered without an effect, by the revision that was read
	open   []*op           // whose fate is not known
}

// at is the revision whose state the answer shows.
func (o *op) at() int64 {
	if o.read != nil && o.read.Revision > 0 {
		return o.read.Revision
	}
	return o.rev
}

// check is the judgement over a whole run.
func (w *world) replay() error {
	p := &replay{w: w, m: newModel(), writes: map[int64][]*op{}}
	for _, o := range w.hist.ops {
		switch {
		case o.outcome == done && o.wrote:
			p.writes[o.rev] = append(p.writes[o.rev], o)
		case o.outcome == done:
			p.reads = append(p.reads, o)
		case o.outcome != failed && o.write != nil:
			p.open = append(p.open, o)
		}
	}
	slices.SortStableFunc(p.reads, func(a, b *op) int { return cmp.Compare(a.at(), b.at()) })
	last := int64(1)
	for _, r := range w.orders.history() {
		if w.cfg.Calm && r.rev != last+1 {
			return fmt.Errorf("density: revision %d follows %d, and nothing has failed", r.rev, last)
		}
		last = r.rev
		if err := p.readsBelow(r.rev); err != nil {
			return err
		}
		if err := p.step(&r); err != nil {
			return err
		}
		w.stats.Revisions++
	}
	if err := p.readsBelow(1 << 62); err != nil {
		return err
	}
	for rev, ops := range p.writes {
		return fmt.Errorf("lost write: nothing happened at revision %d, which was acknowledged: %v", rev, ops[0])
	}
	for _, kv := range p.m.kv {
		if kv.Lease != 0 {
			return fmt.Errorf("lease: key %s has outlived lease %d", kv.Key, kv.Lease)
		}
	}
	return nil
}

// step explains one revision by one request.
func (p *replay) step(r *revision) error {
	ops := p.writes[r.rev]
	delete(p.writes, r.rev)
	switch len(ops) {
	case 0:
		o, err := p.explain(r)
		if err != nil {
			return err
		}
		if err := p.w.admin.facts.revision(r, o); err != nil {
			return err
		}
	case 1:
		if err := p.checkWrite(ops[0], r); err != nil {
			return err
		}
		if err := p.w.admin.facts.revision(r, ops[0]); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unique revisions: %d was given to %v and to %v", r.rev, ops[0], ops[1])
	}
	if c := p.m.apply(r.rev, r.changes); c != nil {
		return fmt.Errorf("history: revision %d: %+v does not follow from what was there", r.rev, *c)
	}
	return nil
}

func (p *replay) checkWrite(o *op, r *revision) error {
	res, changes := p.m.evaluate(o.write, r.rev)
	if !slices.Equal(changes, r.changes) {
		return fmt.Errorf("serializability: %v should have done %v, but revision %d is %v", o, changes, r.rev, r.changes)
	}
	return sameResult(o, res)
}

func sameResult(o *op, want *pb.Result) error {
	got := proto.Clone(o.result).(*pb.Result)
	clearRevisions(got)
	if !proto.Equal(got, want) {
		return fmt.Errorf("linearizability: %v was answered %v, but at that revision it is %v", o, got, want)
	}
	return nil
}

// clearRevisions: the revisions in inner headers are etcd's business, and tested there.
func clearRevisions(r *pb.Result) {
	r.Revision = 0
	for _, in := range r.GetTxn().GetResults() {
		clearRevisions(in)
	}
}

// readsBelow checks the answers as of a revision below rev: the model is there.
func (p *replay) readsBelow(rev int64) error {
	for len(p.reads) > 0 && p.reads[0].at() < rev {
		o := p.reads[0]
		p.reads = p.reads[1:]
		if o.write != nil {
			res, changes := p.m.evaluate(o.write, o.rev)
			if len(changes) > 0 {
				return fmt.Errorf("linearizability: %v was answered as without effect, but would have done %v", o, changes)
			}
			if err := sameResult(o, res); err != nil {
				return err
			}
			continue
		}
		want := p.m.read(o.read)
		got := &pb.RangeResult{Kvs: o.found.KVs, Count: o.found.Count, More: o.found.More}
		if !proto.Equal(want, got) {
			return fmt.Errorf("linearizability: %v was answered %v, but at that revision it is %v", o, got, want)
		}
	}
	return nil
}

// explain finds the request behind a revision that nobody was told of: one whose answer was lost,
// or the end of a lease, for which there is no request.
func (p *replay) explain(r *revision) (*op, error) {
	if id, ok := author(r.changes); ok {
		if id >= len(p.w.hist.ops) {
			return nil, fmt.Errorf("history: revision %d: %v was written by nobody", r.rev, r.changes)
		}
		o := p.w.hist.ops[id]
		if o.outcome == failed || o.outcome == done || o.settled {
			return nil, fmt.Errorf("effects: revision %d is %v, but its request had no effect there: %v", r.rev, r.changes, o)
		}
		if o.floor >= r.rev {
			return nil, fmt.Errorf("real time: revision %d was given to %v, which began later", r.rev, o)
		}
		o.settled = true
		if _, changes := p.m.evaluate(o.write, r.rev); !slices.Equal(changes, r.changes) {
			return nil, fmt.Errorf("serializability: %v should have done %v, but revision %d is %v", o, changes, r.rev, r.changes)
		}
		return o, nil
	}
	best := p.deletion(r)
	if best != nil {
		best.settled = true
		return best, nil
	}
	return nil, p.expiry(r)
}

// author is the operation that the values of a revision name.
func author(changes []change) (int, bool) {
	for _, c := range changes {
		if !c.del {
			id, err := strconv.Atoi(strings.TrimLeft(strings.SplitN(c.value, "/", 2)[0], "v"))
			return id, err == nil
		}
	}
	return 0, false
}

// deletion finds an open request that deletes just this; of several that with the fewest keys.
func (p *replay) deletion(r *revision) *op {
	var best *op
	for _, o := range p.open {
		if o.settled || o.floor >= r.rev {
			continue
		}
		if _, changes := p.m.evaluate(o.write, r.rev); !slices.Equal(changes, r.changes) {
			continue
		}
		if p.w.admin.facts.revision(r, o) != nil { // it was somebody else's, or nobody's
			continue
		}
		if best == nil || len(o.write.String()) < len(best.write.String()) {
			best = o
		}
	}
	return best
}

// expiry: the revision must be the end of a lease that was due.
func (p *replay) expiry(r *revision) error {
	lease := int64(0)
	gone := map[string]bool{}
	for _, c := range r.changes {
		kv := p.m.kv[c.key]
		if !c.del || kv == nil || kv.Lease == 0 || lease != 0 && kv.Lease != lease {
			return fmt.Errorf("history: nobody asked for revision %d: %v (was %v)", r.rev, r.changes, kv)
		}
		lease = kv.Lease
		gone[c.key] = true
	}
	for _, kv := range p.m.in(shard.All) {
		if kv.Lease == lease && !gone[string(kv.Key)] {
			return fmt.Errorf("atomicity: lease %d ended at revision %d without key %s", lease, r.rev, kv.Key)
		}
	}
	if p.w.jumped {
		return nil
	}
	return p.w.leases.mayEnd(lease, r.seen)
}
