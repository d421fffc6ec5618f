package apitest

import (
	"bytes"
	"cmp"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// txn is one write under way: its versions are in the store already, its revision is not.
type txn struct {
	store  *Store
	rev    int64
	sub    int64
	events []*shard.Event
}

// now is the revision as of which the transaction sees the store.
func (t *txn) now() int64 {
	if t.sub > 0 {
		return t.rev
	}
	return t.rev - 1
}

// check refuses, before anything is done, what a put names and is not there.
func (t *txn) check(op *pb.Op) error {
	switch {
	case op.Put != nil:
		if _, ok := t.store.leases[op.Put.Lease]; op.Put.Lease != 0 && !ok {
			return shard.ErrLeaseNotFound
		}
		if (op.Put.IgnoreLease || op.Put.IgnoreValue) && t.store.at(string(op.Put.Key), t.rev) == nil {
			return shard.ErrKeyNotFound
		}
	case op.Txn != nil:
		branch := op.Txn.Failure
		if t.holds(op.Txn.Compare) {
			branch = op.Txn.Success
		}
		for _, o := range branch {
			if err := t.check(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// path evaluates the compares of all transactions that will run, nested ones included.
func (t *txn) path(op *pb.Op, p []bool) []bool {
	if op.Txn == nil {
		return p
	}
	ok := t.holds(op.Txn.Compare)
	p = append(p, ok)
	branch := op.Txn.Failure
	if ok {
		branch = op.Txn.Success
	}
	for _, o := range branch {
		p = t.path(o, p)
	}
	return p
}

func (t *txn) holds(cs []*pb.Compare) bool {
	for _, c := range cs {
		kvs := t.store.scan(shard.FromEtcd(c.Key, c.RangeEnd), t.rev)
		if len(kvs) == 0 {
			if c.Target == 3 { // a value that is not there equals nothing
				return false
			}
			kvs = append(kvs, &pb.KeyValue{})
		}
		for _, kv := range kvs {
			if !compare(c, kv) {
				return false
			}
		}
	}
	return true
}

func compare(c *pb.Compare, kv *pb.KeyValue) bool {
	have := [...]int64{kv.Version, kv.CreateRevision, kv.ModRevision, 0, kv.Lease}
	r := 0
	if c.Target == 3 {
		r = bytes.Compare(kv.Value, c.Value)
	} else {
		r = cmp.Compare(have[c.Target], c.Number)
	}
	switch c.Result {
	case 0:
		return r == 0
	case 1:
		return r > 0
	case 2:
		return r < 0
	default:
		return r != 0
	}
}

func (t *txn) run(op *pb.Op, path *[]bool) (*pb.Result, error) {
	res := &pb.Result{}
	var err error
	switch {
	case op.Range != nil:
		read := t.store.rev
		t.store.rev = t.now()
		res.Range, err = t.store.rangeLocked(op.Range)
		t.store.rev = read
	case op.Put != nil:
		res.Put = t.put(op.Put)
	case op.Delete != nil:
		res.Delete = &pb.DeleteResult{}
		for _, kv := range t.store.scan(shard.FromEtcd(op.Delete.Key, op.Delete.RangeEnd), t.rev) {
			t.delete(kv)
			res.Delete.Deleted++
			if op.Delete.PrevKv {
				res.Delete.PrevKvs = append(res.Delete.PrevKvs, kv)
			}
		}
	case op.Txn != nil:
		ok := (*path)[0]
		*path = (*path)[1:]
		res.Txn = &pb.TxnResult{Succeeded: ok}
		branch := op.Txn.Failure
		if ok {
			branch = op.Txn.Success
		}
		for _, o := range branch {
			r, err := t.run(o, path)
			if err != nil {
				return nil, err
			}
			res.Txn.Results = append(res.Txn.Results, r)
		}
	}
	res.Revision = t.now()
	return res, err
}

func (t *txn) put(op *pb.PutOp) *pb.PutResult {
	old := t.store.at(string(op.Key), t.rev)
	kv := &pb.KeyValue{Key: op.Key, Value: op.Value, Lease: op.Lease, CreateRevision: t.rev, ModRevision: t.rev, Version: 1}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if op.IgnoreValue {
			kv.Value = old.Value
		}
		if op.IgnoreLease {
			kv.Lease = old.Lease
		}
	}
	t.add(version{kv: kv}, old)
	res := &pb.PutResult{}
	if op.PrevKv {
		res.PrevKv = old
	}
	return res
}

func (t *txn) delete(old *pb.KeyValue) {
	t.add(version{kv: &pb.KeyValue{Key: old.Key, ModRevision: t.rev}, deleted: true}, old)
}

func (t *txn) add(v version, old *pb.KeyValue) {
	k := string(v.kv.Key)
	t.store.versions[k] = append(t.store.versions[k], v)
	e := &shard.Event{KV: pb.ToKeyValue(v.kv), Delete: v.deleted, Sub: t.sub}
	if old != nil {
		prev := pb.ToKeyValue(old)
		e.Prev = &prev
	}
	t.events = append(t.events, e)
	t.sub++
}
