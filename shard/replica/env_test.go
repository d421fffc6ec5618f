package replica

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

var testDesc = shard.Descriptor{
	ID: 2, Generation: 1,
	Replicas: []shard.Replica{{ID: 1, Node: 11}, {ID: 2, Node: 12}, {ID: 3, Node: 13}},
}

func testLimits() limits {
	cfg, err := (Config{
		Desc: testDesc, Self: testDesc.Replicas[0], Dir: "x", Host: nopGroup{}, Oracle: nopOracle{},
		Now: func() time.Time { return time.Unix(1, 0) },
	}).withDefaults()
	if err != nil {
		panic(err)
	}
	return cfg.limits()
}

type nopGroup struct{}

func (nopGroup) ProposeFunc(shard.RangeID, uint64, []byte, func(error)) error { return nil }
func (nopGroup) Confirm(shard.RangeID, uint64, func(bool, uint64))            {}
func (nopGroup) Status(shard.RangeID) (raftgroup.Status, bool)                { return raftgroup.Status{}, false }

type nopOracle struct{}

func (nopOracle) Allocate(int, func(int64, shard.Epoch, error)) {}
func (nopOracle) CurrentFunc(func(int64, shard.Epoch, error))   {}

// env drives a leader core, its machine and a store by hand: what the core asks for waits in lists
// until the test answers.
type env struct {
	st    *memStore
	m     *machine
	l     *leader
	olds  []*leader
	term  uint64
	index uint64
	epoch shard.Epoch
	rev   int64 // the oracle's current revision

	allocs   []action
	beats    []*leader // that wait for one
	currents []action
	confirms []action
	attaches []action
	evals    []action
	others   []action      // of transactions over ranges: a world answers them
	log      []loggedEntry // proposed, not applied
	out      strings.Builder
	names    map[*item]string
	events   []string
}

type loggedEntry struct {
	term uint64
	data []byte
	id   uint64
}

func newEnv(lim limits) *env { return newEnvOf(lim, testDesc) }

func newEnvOf(lim limits, desc shard.Descriptor) *env {
	e := &env{st: newMemStore(), index: 10, epoch: 1, rev: 1, names: map[*item]string{}}
	e.st.pos.Index, e.st.pos.Term = 10, 5
	m, err := loadMachine(1, desc, e.st)
	if err != nil {
		panic(err)
	}
	e.m = m
	e.m.epoch = 1
	e.lead(lim)
	return e
}

// lead begins a new term.
func (e *env) lead(lim limits) {
	e.depose()
	e.term = max(e.term+1, 6)
	e.l = newLeader(lim, e.m, e.st, e.term)
}

func (e *env) depose() {
	if e.l != nil {
		e.l.lost()
		e.collect(e.l)
		e.olds = append(e.olds, e.l)
		e.l = nil
	}
}

func (e *env) printf(f string, args ...any) { fmt.Fprintf(&e.out, f+"\n", args...) }

// collect takes the actions of a core.
func (e *env) collect(l *leader) {
	for _, a := range l.take(nil) {
		switch a.kind {
		case actAllocate:
			e.allocs = append(e.allocs, a)
			e.printf("allocate #%d n=%d", len(e.allocs), a.n)
		case actLinger:
			e.beats = append(e.beats, l)
			e.printf("linger")
		case actTook:
			e.printf("took %v", time.Duration(a.n))
		case actCurrent:
			e.currents = append(e.currents, a)
			e.printf("current? #%d", len(e.currents))
		case actConfirm:
			e.confirms = append(e.confirms, a)
			e.printf("confirm? #%d", len(e.confirms))
		case actAttach:
			e.attaches = append(e.attaches, a)
			e.printf("attach? lease %d span %v", a.lease, a.span)
		case actEvaluate:
			e.evals = append(e.evals, a)
			e.printf("evaluate %s at %d", e.names[a.item], a.item.at)
		case actPropose:
			e.log = append(e.log, loggedEntry{term: l.term, data: marshal(a.entry), id: a.id})
			e.printf("propose %s", entryString(a.entry))
		case actReply:
			a.item.reply(a.resp, a.err)
		case actCall:
			a.fn()
		default:
			e.others = append(e.others, a)
		}
	}
}

func entryString(e *pb.Entry) string {
	head := fmt.Sprintf("term %d", e.Term)
	if e.Epoch != 0 {
		head += fmt.Sprintf(" epoch %d", e.Epoch)
	}
	switch {
	case e.Batch != nil:
		var ops []string
		for _, o := range e.Batch.Requests {
			ops = append(ops, opString(o))
		}
		return fmt.Sprintf("%s batch first %d closed %d: %s", head, e.Batch.FirstRevision, e.Closed, strings.Join(ops, "; "))
	case e.EpochRaise != nil:
		return head + " raise"
	case e.LeaseHalf != nil:
		h := e.LeaseHalf
		return fmt.Sprintf("%s half lease %d grant %d attached %v remove %v", head, h.Lease, h.GrantIndex, h.Attached, h.Remove)
	case e.CompactTo != nil:
		return fmt.Sprintf("%s compact %d", head, e.CompactTo.Revision)
	}
	return head + " ?"
}

func opString(o *pb.Op) string {
	switch {
	case o.GetPut() != nil:
		s := fmt.Sprintf("put %s=%s", o.Put.Key, o.Put.Value)
		if o.Put.Lease != 0 {
			s += fmt.Sprintf(" lease %d", o.Put.Lease)
		}
		return s
	case o.GetDelete() != nil:
		return fmt.Sprintf("del %s %s", o.Delete.Key, o.Delete.RangeEnd)
	case o.GetExpireLease() != 0:
		return fmt.Sprintf("expire %d", o.ExpireLease)
	case o.GetTxn() != nil:
		return "txn"
	}
	return "nothing"
}

// write enters a request; its answer is printed under its name.
func (e *env) write(name string, op *pb.Op, deadline time.Time) *item {
	it := newItem(op, func(resp *pb.WriteResponse, err error) { e.answered(name, resp, err) })
	it.deadline = deadline
	e.names[it] = name
	if e.l == nil {
		it.reply(nil, &shard.NotLeaderError{})
		return it
	}
	e.l.request(it)
	e.collect(e.l)
	return it
}

func newItem(op *pb.Op, reply func(*pb.WriteResponse, error)) *item {
	it := &item{op: op, reply: reply}
	it.fp.acc = it.one[:0]
	it.fp.collect(op)
	it.size = op.SizeVT()
	return it
}

func (e *env) answered(name string, resp *pb.WriteResponse, err error) {
	if err != nil {
		e.printf("%s: error: %s", name, errName(err))
		return
	}
	e.printf("%s: rev %d wrote %v %s", name, resp.Revision, resp.Wrote, resultString(resp.Result))
}

func errName(err error) string {
	var nl *shard.NotLeaderError
	if errors.As(err, &nl) {
		return "not leader"
	}
	return err.Error()
}

func resultString(r *pb.Result) string {
	switch {
	case r == nil:
		return "-"
	case r.Put != nil:
		if r.Put.PrevKv != nil {
			return fmt.Sprintf("put@%d prev %s@%d", r.Revision, r.Put.PrevKv.Value, r.Put.PrevKv.ModRevision)
		}
		return fmt.Sprintf("put@%d", r.Revision)
	case r.Delete != nil:
		return fmt.Sprintf("deleted %d@%d", r.Delete.Deleted, r.Revision)
	case r.Range != nil:
		var kvs []string
		for _, kv := range r.Range.Kvs {
			kvs = append(kvs, fmt.Sprintf("%s=%s@%d", kv.Key, kv.Value, kv.ModRevision))
		}
		return fmt.Sprintf("range@%d[%s] count %d more %v", r.Revision, strings.Join(kvs, " "), r.Range.Count, r.Range.More)
	case r.Txn != nil:
		var rs []string
		for _, x := range r.Txn.Results {
			rs = append(rs, resultString(x))
		}
		return fmt.Sprintf("txn %v {%s}", r.Txn.Succeeded, strings.Join(rs, ", "))
	}
	return "nothing"
}

// applyOne applies the oldest proposed entry.
func (e *env) applyOne(term uint64) error {
	le := e.log[0]
	e.log = e.log[1:]
	if term == 0 {
		term = le.term
	}
	return e.applyEntry(raftgroup.Entry{Term: term, Data: le.data})
}

func (e *env) applyEntry(ent raftgroup.Entry) error {
	e.index++
	ent.Index = e.index
	d, err := e.m.decide(ent)
	if err != nil {
		return err
	}
	evs, err := e.st.Apply(d.change)
	if err != nil {
		return err
	}
	for _, ev := range evs {
		e.events = append(e.events, fmt.Sprintf("%s@%d", ev.KV.Key, ev.KV.ModRevision))
	}
	e.m.commit(d)
	if d.refused != nil {
		e.printf("refused: %v", d.refused)
	}
	for _, l := range e.olds {
		l.applied(d)
		if ent.Term > l.term {
			l.endOrphans(false)
		}
		e.collect(l)
	}
	if e.l != nil {
		e.l.applied(d)
		e.collect(e.l)
	}
	return nil
}

// own applies the leader's first entry.
func (e *env) own() {
	if err := e.applyEntry(raftgroup.Entry{Term: e.term}); err != nil {
		panic(err)
	}
	e.l.ownTerm()
	e.collect(e.l)
}

// alloc answers allocation i from the oracle.
func (e *env) alloc(i int) {
	a := e.allocs[i]
	e.allocs = append(e.allocs[:i:i], e.allocs[i+1:]...)
	first := e.rev + 1
	e.rev += int64(a.n)
	e.l.allocated(a.id, first, e.epoch, nil)
	e.collect(e.l)
}

// beat lets the core that has waited longest for a beat have it.
func (e *env) beat() {
	l := e.beats[0]
	e.beats = e.beats[1:]
	l.beat()
	e.collect(l)
}

func (e *env) runEval(i int) {
	a := e.evals[i]
	e.evals = append(e.evals[:i:i], e.evals[i+1:]...)
	res, would, again, err := evaluateAt(e.st, a.item.op, a.item.at)
	e.l.evaluated(a.item, res, would, again, err)
	e.collect(e.l)
}

func (e *env) answerCurrent(i int, rev int64) {
	a := e.currents[i]
	e.currents = append(e.currents[:i:i], e.currents[i+1:]...)
	e.l.current(a.id, rev, e.epoch, nil)
	e.collect(e.l)
}

func (e *env) confirm(i int, ok bool) {
	a := e.confirms[i]
	e.confirms = append(e.confirms[:i:i], e.confirms[i+1:]...)
	e.l.proved(a.id, ok, e.index)
	e.collect(e.l)
}

// settle answers everything that is open, in order, until nothing is.
func (e *env) settle(t testing.TB) {
	t.Helper()
	for range 100000 {
		switch {
		case len(e.allocs) > 0:
			e.alloc(0)
		case len(e.beats) > 0:
			e.beat()
		case len(e.log) > 0:
			if err := e.applyOne(0); err != nil {
				t.Fatal(err)
			}
		case len(e.currents) > 0:
			e.answerCurrent(0, e.rev)
		case len(e.confirms) > 0:
			e.confirm(0, true)
		case len(e.evals) > 0:
			e.runEval(0)
		default:
			return
		}
	}
	t.Fatal("does not come to rest")
}

func put(key, value string) *pb.Op {
	return &pb.Op{Put: &pb.PutOp{Key: []byte(key), Value: []byte(value), PrevKv: true}}
}

func putLease(key, value string, lease int64) *pb.Op {
	return &pb.Op{Put: &pb.PutOp{Key: []byte(key), Value: []byte(value), Lease: lease}}
}

func del(key, end string) *pb.Op {
	return &pb.Op{Delete: &pb.DeleteOp{Key: []byte(key), RangeEnd: []byte(end)}}
}

func get(key string) *pb.Op { return &pb.Op{Range: &pb.RangeOp{Key: []byte(key)}} }

func txn(cmp *pb.Compare, then, els []*pb.Op) *pb.Op {
	t := &pb.TxnOp{Success: then, Failure: els}
	if cmp != nil {
		t.Compare = []*pb.Compare{cmp}
	}
	return &pb.Op{Txn: t}
}

func ifMod(key string, rev int64) *pb.Compare {
	return &pb.Compare{Target: targetMod, Key: []byte(key), Number: rev}
}

func ifVersion(key string, v int64) *pb.Compare {
	return &pb.Compare{Target: targetVersion, Key: []byte(key), Number: v}
}

// cas is what an API server does: put if the key is at rev, else read it.
func cas(key, value string, rev int64) *pb.Op {
	return txn(ifMod(key, rev), []*pb.Op{put(key, value)}, []*pb.Op{get(key)})
}

// applyEntry2 is applyEntry of an entry that may be anything. What the store refuses stops a
// replica, it does not break it.
func (e *env) applyEntry2(data []byte) error {
	if data == nil {
		data = []byte{}
	}
	err := e.applyEntry(rawEntry(data))
	if err != nil {
		e.index--
	}
	return err
}

func rawEntry(data []byte) raftgroup.Entry { return raftgroup.Entry{Term: 6, Data: data} }
