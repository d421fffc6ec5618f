package bench

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// fake is a store in memory. Its faults are what a benchmark must not be deceived by.
type fake struct {
	mu      sync.Mutex
	rev     int64
	keys    map[string]*mvccpb.KeyValue
	before  map[string]*mvccpb.KeyValue // the version before, for stale reads
	puts    int
	faultAt int // the put or read at which a fault happens

	// notServed is what every other transaction is answered with, and every fourth passes all the same.
	notServed error
	txns      int

	losesPut, appliesTwice, forgetsKey, mixesUpValues, readsStale, cutsAnswers, reorders bool
}

func newFake() *fake {
	return &fake{rev: 1, keys: map[string]*mvccpb.KeyValue{}, before: map[string]*mvccpb.KeyValue{}, faultAt: 50}
}

func (f *fake) put(key, value string) {
	f.puts++
	if f.losesPut && f.puts%f.faultAt == 0 {
		return
	}
	old := f.keys[key]
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: f.rev, CreateRevision: f.rev, Version: 1}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		f.before[key] = old
	}
	if f.appliesTwice && f.puts%f.faultAt == 0 {
		kv.Version++
	}
	if f.mixesUpValues && f.puts%f.faultAt == 0 {
		for other, o := range f.keys {
			if other != key {
				kv.Value = o.Value
				break
			}
		}
	}
	f.keys[key] = kv
	if f.forgetsKey && f.puts%f.faultAt == 0 {
		delete(f.keys, key)
	}
}

func (f *fake) get(op clientv3.Op) *etcdserverpb.RangeResponse {
	resp := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: f.rev}}
	for key, kv := range f.keys {
		in := bytes.Equal([]byte(key), op.KeyBytes())
		if end := op.RangeBytes(); end != nil {
			in = key >= string(op.KeyBytes()) && key < string(end)
		}
		if !in {
			continue
		}
		if f.readsStale && f.before[key] != nil {
			kv = f.before[key]
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	slices.SortFunc(resp.Kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	if f.reorders && len(resp.Kvs) > 2 {
		resp.Kvs[0], resp.Kvs[1] = resp.Kvs[1], resp.Kvs[0]
	}
	if f.cutsAnswers && len(resp.Kvs) > 0 {
		resp.Kvs = resp.Kvs[1:]
	}
	resp.Count = int64(len(resp.Kvs))
	if op.IsCountOnly() {
		resp.Kvs = nil
	}
	if n := op.Limit(); n > 0 && int64(len(resp.Kvs)) > n {
		resp.Kvs, resp.More = resp.Kvs[:n], true
	}
	return resp
}

func (f *fake) Put(_ context.Context, key, val string, _ ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rev++
	f.put(key, val)
	return &clientv3.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: f.rev}}, nil
}

func (f *fake) Get(_ context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return (*clientv3.GetResponse)(f.get(clientv3.OpGet(key, opts...))), nil
}

func (f *fake) GetStream(_ context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan clientv3.RangeStreamResponse, 1000)
	for _, kv := range f.get(clientv3.OpGet(key, opts...)).Kvs {
		ch <- clientv3.RangeStreamResponse{RangeResponse: &etcdserverpb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv}}}
	}
	close(ch)
	return ch, nil
}

func (f *fake) Delete(context.Context, string, ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	panic("no workload deletes")
}

func (f *fake) Compact(context.Context, int64, ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	panic("no workload compacts")
}

func (f *fake) Do(context.Context, clientv3.Op) (clientv3.OpResponse, error) {
	panic("no workload does")
}

func (f *fake) Txn(context.Context) clientv3.Txn { return &fakeTxn{f: f} }

type fakeTxn struct {
	f         *fake
	cmps      []clientv3.Cmp
	then, not []clientv3.Op
}

func (t *fakeTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.cmps = cs; return t }
func (t *fakeTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.then = ops; return t }
func (t *fakeTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.not = ops; return t }

func (t *fakeTxn) Commit() (*clientv3.TxnResponse, error) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	if t.f.txns++; t.f.notServed != nil && t.f.txns%2 == 0 {
		if t.f.txns%4 == 0 {
			t.commit()
		}
		return nil, t.f.notServed
	}
	return t.commit(), nil
}

func (t *fakeTxn) commit() *clientv3.TxnResponse {
	resp := &clientv3.TxnResponse{Succeeded: true}
	for _, c := range t.cmps {
		rev := int64(0)
		if kv := t.f.keys[string(c.GetCompare().Key)]; kv != nil {
			rev = kv.ModRevision
		}
		resp.Succeeded = resp.Succeeded && rev == c.GetCompare().GetModRevision()
	}
	ops := t.then
	if !resp.Succeeded {
		ops = t.not
	} else {
		t.f.rev++
	}
	for _, op := range ops {
		if op.IsPut() {
			t.f.put(string(op.KeyBytes()), string(op.ValueBytes()))
			continue
		}
		resp.Responses = append(resp.Responses, &etcdserverpb.ResponseOp{
			Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: t.f.get(op)},
		})
	}
	resp.Header = &etcdserverpb.ResponseHeader{Revision: t.f.rev}
	return resp
}
