package main

import (
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// fieldWriter writes answers as "Name" : value lines.
type fieldWriter struct {
	out io.Writer
	hex bool
	err error // the first
}

func (w *fieldWriter) line(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.out, format+"\n", args...)
	}
}

func (w *fieldWriter) field(name string, value any) { w.line("%q : %v", name, value) }

func (w *fieldWriter) id(name string, id uint64) {
	if w.hex {
		w.line("%q : %x", name, id)
		return
	}
	w.field(name, id)
}

func (w *fieldWriter) lease(name string, id int64) {
	if w.hex {
		w.line("%q : %016x", name, id)
		return
	}
	w.field(name, id)
}

func (w *fieldWriter) header(h *etcdserverpb.ResponseHeader) {
	w.id("ClusterID", h.GetClusterId())
	w.id("MemberID", h.GetMemberId())
	if h.GetRevision() > 0 {
		w.field("Revision", h.GetRevision())
	}
	w.field("RaftTerm", h.GetRaftTerm())
}

func (w *fieldWriter) kv(prefix string, kv *mvccpb.KeyValue) {
	w.line("%q : %q", prefix+"Key", kv.GetKey())
	w.field(prefix+"CreateRevision", kv.GetCreateRevision())
	w.field(prefix+"ModRevision", kv.GetModRevision())
	w.field(prefix+"Version", kv.GetVersion())
	w.line("%q : %q", prefix+"Value", kv.GetValue())
	w.lease(prefix+"Lease", kv.GetLease())
}

func (w *fieldWriter) get(r *etcdserverpb.RangeResponse) {
	w.header(r.GetHeader())
	for _, kv := range r.GetKvs() {
		w.kv("", kv)
	}
	w.field("More", r.GetMore())
	w.field("Count", r.GetCount())
}

func (w *fieldWriter) put(r *etcdserverpb.PutResponse) {
	w.header(r.GetHeader())
	if r.GetPrevKv() != nil {
		w.kv("Prev", r.PrevKv)
	}
}

func (w *fieldWriter) del(r *etcdserverpb.DeleteRangeResponse) {
	w.header(r.GetHeader())
	w.field("Deleted", r.GetDeleted())
	for _, kv := range r.GetPrevKvs() {
		w.kv("Prev", kv)
	}
}

func (w *fieldWriter) txn(r *etcdserverpb.TxnResponse) {
	w.header(r.GetHeader())
	w.field("Succeeded", r.GetSucceeded())
	for _, op := range r.GetResponses() {
		switch u := op.GetResponse().(type) {
		case *etcdserverpb.ResponseOp_ResponseRange:
			w.get(u.ResponseRange)
		case *etcdserverpb.ResponseOp_ResponsePut:
			w.put(u.ResponsePut)
		case *etcdserverpb.ResponseOp_ResponseDeleteRange:
			w.del(u.ResponseDeleteRange)
		case *etcdserverpb.ResponseOp_ResponseTxn:
			w.txn(u.ResponseTxn)
		}
	}
}

func (w *fieldWriter) watch(r *clientv3.WatchResponse) {
	w.header(r.Header)
	for _, ev := range r.Events {
		w.field("Type", ev.GetType())
		if ev.GetPrevKv() != nil {
			w.kv("Prev", ev.GetPrevKv())
		}
		w.kv("", ev.GetKv())
	}
}
