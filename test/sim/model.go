package sim

import (
	"bytes"
	"cmp"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// model is etcd as a map: naive on purpose.
type model struct{ kv map[string]*pb.KeyValue }

func newModel() *model { return &model{kv: map[string]*pb.KeyValue{}} }

// change is one change of one key.
type change struct {
	key, value                   string
	del                          bool
	create, version, lease, subN int64
}

// in returns the live versions in a span, by key.
func (m *model) in(span shard.Span) []*pb.KeyValue {
	var out []*pb.KeyValue
	for k, kv := range m.kv {
		if span.Contains([]byte(k)) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b *pb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return out
}

func (m *model) read(op *pb.RangeOp) *pb.RangeResult {
	kvs := m.in(shard.FromEtcd(op.Key, op.RangeEnd))
	res := &pb.RangeResult{Count: int64(len(kvs))}
	if op.SortOrder == 2 {
		slices.Reverse(kvs)
	}
	if op.Limit > 0 && int64(len(kvs)) > op.Limit {
		kvs, res.More = kvs[:op.Limit], true
	}
	if !op.CountOnly {
		res.Kvs = kvs
	}
	return res
}

// trial is the evaluation of one request at one revision.
type trial struct {
	m       *model
	rev     int64
	changes []change
	undo    map[string]*pb.KeyValue
	taken   map[*pb.TxnOp]bool // which branch each transaction takes: decided before anything is written
}

// evaluate says what op does at rev. The model is as before afterwards.
func (m *model) evaluate(op *pb.Op, rev int64) (*pb.Result, []change) {
	t := &trial{m: m, rev: rev, undo: map[string]*pb.KeyValue{}, taken: map[*pb.TxnOp]bool{}}
	t.decide(op)
	res := t.run(op)
	for k, kv := range t.undo {
		if kv == nil {
			delete(m.kv, k)
		} else {
			m.kv[k] = kv
		}
	}
	return res, t.changes
}

// decide evaluates the compares, those of inner transactions too, on what is there before.
func (t *trial) decide(op *pb.Op) {
	if op.Txn == nil {
		return
	}
	t.taken[op.Txn] = t.m.holds(op.Txn.Compare)
	for _, o := range branch(op.Txn, t.taken[op.Txn]) {
		t.decide(o)
	}
}

func branch(t *pb.TxnOp, succeeded bool) []*pb.Op {
	if succeeded {
		return t.Success
	}
	return t.Failure
}

func (t *trial) set(key string, kv *pb.KeyValue) {
	if _, ok := t.undo[key]; !ok {
		t.undo[key] = t.m.kv[key]
	}
	if kv == nil {
		delete(t.m.kv, key)
		t.changes = append(t.changes, change{key: key, del: true, subN: int64(len(t.changes))})
		return
	}
	t.m.kv[key] = kv
	t.changes = append(t.changes, change{key: key, value: string(kv.Value), create: kv.CreateRevision,
		version: kv.Version, lease: kv.Lease, subN: int64(len(t.changes))})
}

func (t *trial) run(op *pb.Op) *pb.Result {
	switch {
	case op.Put != nil:
		old := t.m.kv[string(op.Put.Key)]
		kv := &pb.KeyValue{Key: op.Put.Key, Value: op.Put.Value, ModRevision: t.rev, CreateRevision: t.rev, Version: 1, Lease: op.Put.Lease}
		if old != nil {
			kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		}
		t.set(string(op.Put.Key), kv)
		res := &pb.PutResult{}
		if op.Put.PrevKv {
			res.PrevKv = old
		}
		return &pb.Result{Put: res}
	case op.Delete != nil:
		res := &pb.DeleteResult{}
		for _, kv := range t.m.in(shard.FromEtcd(op.Delete.Key, op.Delete.RangeEnd)) {
			res.Deleted++
			if op.Delete.PrevKv {
				res.PrevKvs = append(res.PrevKvs, kv)
			}
			t.set(string(kv.Key), nil)
		}
		return &pb.Result{Delete: res}
	case op.Range != nil:
		return &pb.Result{Range: t.m.read(op.Range)}
	}
	res := &pb.TxnResult{Succeeded: t.taken[op.Txn]}
	for _, o := range branch(op.Txn, res.Succeeded) {
		res.Results = append(res.Results, t.run(o))
	}
	return &pb.Result{Txn: res}
}

// holds evaluates compares of values, versions and revisions. Where no key is there, it counts as
// one with zeroes, and with a value as not equal to anything.
func (m *model) holds(cs []*pb.Compare) bool {
	for _, c := range cs {
		kvs := m.in(shard.FromEtcd(c.Key, c.RangeEnd))
		if len(kvs) == 0 {
			if c.Target == 3 {
				return false
			}
			kvs = []*pb.KeyValue{{}}
		}
		for _, kv := range kvs {
			if !compareOne(c, kv) {
				return false
			}
		}
	}
	return true
}

func compareOne(c *pb.Compare, kv *pb.KeyValue) bool {
	var d int
	switch c.Target {
	case 0:
		d = cmp.Compare(kv.Version, c.Number)
	case 1:
		d = cmp.Compare(kv.CreateRevision, c.Number)
	case 2:
		d = cmp.Compare(kv.ModRevision, c.Number)
	case 3:
		d = bytes.Compare(kv.Value, c.Value)
	case 4:
		d = cmp.Compare(kv.Lease, c.Number)
	}
	switch c.Result {
	case 0:
		return d == 0
	case 1:
		return d > 0
	case 2:
		return d < 0
	default:
		return d != 0
	}
}

// apply makes the changes of a revision. It reports one that does not follow from what was there.
func (m *model) apply(rev int64, changes []change) (wrong *change) {
	for i := range changes {
		c := &changes[i]
		old := m.kv[c.key]
		if c.del {
			if old == nil {
				return c
			}
			delete(m.kv, c.key)
			continue
		}
		kv := &pb.KeyValue{Key: []byte(c.key), Value: []byte(c.value), ModRevision: rev, CreateRevision: c.create, Version: c.version, Lease: c.lease}
		if old == nil && (c.create != rev || c.version != 1) || old != nil && (c.create != old.CreateRevision || c.version != old.Version+1) {
			return c
		}
		m.kv[c.key] = kv
	}
	return nil
}
