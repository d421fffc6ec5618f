package main

import (
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keyPrinter prints what concerns keys: reads, writes, transactions, compactions and watches.
type keyPrinter struct{ printer }

func (p keyPrinter) kv(w io.Writer, kv *mvccpb.KeyValue, valueOnly bool) {
	if !valueOnly {
		fmt.Fprintln(w, p.text(kv.GetKey()))
	}
	fmt.Fprintln(w, p.text(kv.GetValue()))
}

var kvHeader = []string{"key", "value", "create rev", "mod rev", "version", "lease"}

func (p keyPrinter) kvRow(kv *mvccpb.KeyValue) []string {
	return []string{
		p.cell(kv.GetKey()), p.cell(kv.GetValue()), fmt.Sprint(kv.GetCreateRevision()), fmt.Sprint(kv.GetModRevision()),
		fmt.Sprint(kv.GetVersion()), fmt.Sprintf("%x", kv.GetLease()),
	}
}

func (p keyPrinter) kvRows(kvs []*mvccpb.KeyValue) [][]string {
	var rows [][]string
	for _, kv := range kvs {
		rows = append(rows, p.kvRow(kv))
	}
	return rows
}

func (p keyPrinter) get(resp *clientv3.GetResponse, valueOnly bool) error {
	r := (*etcdserverpb.RangeResponse)(resp)
	v := rendering{
		json: r, header: kvHeader, rows: p.kvRows(r.Kvs),
		simple: func(w io.Writer) { p.simpleGet(w, r, valueOnly) },
		fields: func(w *fieldWriter) { w.get(r) },
	}
	if len(r.Kvs) == 0 && r.Count > 0 { // only counted
		v.header, v.rows = []string{"count"}, [][]string{{fmt.Sprint(r.Count)}}
	}
	return p.show(v)
}

func (p keyPrinter) simpleGet(w io.Writer, r *etcdserverpb.RangeResponse, valueOnly bool) {
	for _, kv := range r.GetKvs() {
		p.kv(w, kv, valueOnly)
	}
}

func (p keyPrinter) put(resp *clientv3.PutResponse) error {
	r := (*etcdserverpb.PutResponse)(resp)
	v := rendering{
		json: r, header: []string{"revision"}, rows: [][]string{{fmt.Sprint(r.Header.GetRevision())}},
		simple: func(w io.Writer) { p.simplePut(w, r) },
		fields: func(w *fieldWriter) { w.put(r) },
	}
	if r.PrevKv != nil {
		v.header, v.rows = prefixed("prev ", kvHeader), p.kvRows([]*mvccpb.KeyValue{r.PrevKv})
	}
	return p.show(v)
}

func prefixed(prefix string, names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = prefix + n
	}
	return out
}

func (p keyPrinter) simplePut(w io.Writer, r *etcdserverpb.PutResponse) {
	fmt.Fprintln(w, "OK")
	if r.GetPrevKv() != nil {
		p.kv(w, r.PrevKv, false)
	}
}

func (p keyPrinter) del(resp *clientv3.DeleteResponse) error {
	r := (*etcdserverpb.DeleteRangeResponse)(resp)
	v := rendering{
		json: r, header: []string{"deleted", "revision"},
		rows:   [][]string{{fmt.Sprint(r.Deleted), fmt.Sprint(r.Header.GetRevision())}},
		simple: func(w io.Writer) { p.simpleDel(w, r) },
		fields: func(w *fieldWriter) { w.del(r) },
	}
	if len(r.PrevKvs) > 0 {
		v.header, v.rows = prefixed("prev ", kvHeader), p.kvRows(r.PrevKvs)
	}
	return p.show(v)
}

func (p keyPrinter) simpleDel(w io.Writer, r *etcdserverpb.DeleteRangeResponse) {
	fmt.Fprintln(w, r.GetDeleted())
	for _, kv := range r.GetPrevKvs() {
		p.kv(w, kv, false)
	}
}

func (p keyPrinter) compact(rev int64, resp *clientv3.CompactResponse) error {
	line := func(w io.Writer) { fmt.Fprintln(w, "compacted revision", rev) }
	return p.show(rendering{
		json: (*etcdserverpb.CompactionResponse)(resp), header: []string{"compacted revision"}, rows: [][]string{{fmt.Sprint(rev)}},
		simple: line, fields: func(w *fieldWriter) { w.header(resp.Header) },
	})
}

func (p keyPrinter) txn(resp *clientv3.TxnResponse) error {
	r := (*etcdserverpb.TxnResponse)(resp)
	v := rendering{
		json:   txnToJSON(r),
		header: append([]string{"#", "request", "count"}, kvHeader...),
		simple: func(w io.Writer) { p.simpleTxn(w, r) },
		fields: func(w *fieldWriter) { w.txn(r) },
	}
	v.rows = p.txnRows("", r, [][]string{{"", fmt.Sprintf("txn succeeded=%v", r.Succeeded), fmt.Sprint(len(r.Responses))}})
	return p.show(v)
}

// txnRows appends a row for each result of a transaction and for each key in it.
func (p keyPrinter) txnRows(prefix string, r *etcdserverpb.TxnResponse, rows [][]string) [][]string {
	for i, op := range r.GetResponses() {
		id := fmt.Sprintf("%s%d", prefix, i+1)
		var kvs []*mvccpb.KeyValue
		switch u := op.GetResponse().(type) {
		case *etcdserverpb.ResponseOp_ResponseRange:
			rows, kvs = append(rows, []string{id, "get", fmt.Sprint(u.ResponseRange.GetCount())}), u.ResponseRange.GetKvs()
		case *etcdserverpb.ResponseOp_ResponsePut:
			rows = append(rows, []string{id, "put", "1"})
			if u.ResponsePut.GetPrevKv() != nil {
				kvs = append(kvs, u.ResponsePut.PrevKv)
			}
		case *etcdserverpb.ResponseOp_ResponseDeleteRange:
			rows, kvs = append(rows, []string{id, "del", fmt.Sprint(u.ResponseDeleteRange.GetDeleted())}), u.ResponseDeleteRange.GetPrevKvs()
		case *etcdserverpb.ResponseOp_ResponseTxn:
			n := u.ResponseTxn
			rows = append(rows, []string{id, fmt.Sprintf("txn succeeded=%v", n.GetSucceeded()), fmt.Sprint(len(n.GetResponses()))})
			rows = p.txnRows(id+".", n, rows)
		}
		for _, kv := range kvs {
			rows = append(rows, append([]string{id, "", ""}, p.kvRow(kv)...))
		}
	}
	return rows
}

func (p keyPrinter) simpleTxn(w io.Writer, r *etcdserverpb.TxnResponse) {
	outcome := "FAILURE"
	if r.GetSucceeded() {
		outcome = "SUCCESS"
	}
	fmt.Fprintln(w, outcome)
	for _, op := range r.GetResponses() {
		fmt.Fprintln(w)
		switch u := op.GetResponse().(type) {
		case *etcdserverpb.ResponseOp_ResponseRange:
			p.simpleGet(w, u.ResponseRange, false)
		case *etcdserverpb.ResponseOp_ResponsePut:
			p.simplePut(w, u.ResponsePut)
		case *etcdserverpb.ResponseOp_ResponseDeleteRange:
			p.simpleDel(w, u.ResponseDeleteRange)
		case *etcdserverpb.ResponseOp_ResponseTxn:
			p.simpleTxn(w, u.ResponseTxn)
		}
	}
}

// txnJSON is etcdctl's JSON form of a transaction's answer, in which the kind of each result
// is a name.
type txnJSON struct {
	Header    *etcdserverpb.ResponseHeader `json:"header,omitempty"`
	Succeeded bool                         `json:"succeeded,omitempty"`
	Responses []opJSON                     `json:"responses,omitempty"`
}

type opJSON struct {
	Response struct {
		Range  *etcdserverpb.RangeResponse       `json:"response_range,omitempty"`
		Put    *etcdserverpb.PutResponse         `json:"response_put,omitempty"`
		Delete *etcdserverpb.DeleteRangeResponse `json:"response_delete_range,omitempty"`
		Txn    *txnJSON                          `json:"response_txn,omitempty"`
	} `json:"Response"`
}

func txnToJSON(r *etcdserverpb.TxnResponse) *txnJSON {
	if r == nil {
		return nil
	}
	t := &txnJSON{Header: r.Header, Succeeded: r.Succeeded}
	for _, op := range r.Responses {
		var o opJSON
		o.Response.Range = op.GetResponseRange()
		o.Response.Put = op.GetResponsePut()
		o.Response.Delete = op.GetResponseDeleteRange()
		o.Response.Txn = txnToJSON(op.GetResponseTxn())
		t.Responses = append(t.Responses, o)
	}
	return t
}

func (p keyPrinter) watch(resp *clientv3.WatchResponse) error {
	if p.format == outputTable && len(resp.Events) == 0 {
		return nil
	}
	v := rendering{
		json: resp, header: append([]string{"type"}, kvHeader...),
		simple: func(w io.Writer) {
			for _, ev := range resp.Events {
				fmt.Fprintln(w, ev.GetType())
				if ev.GetPrevKv() != nil {
					p.kv(w, ev.GetPrevKv(), false)
				}
				p.kv(w, ev.GetKv(), false)
			}
		},
		fields: func(w *fieldWriter) { w.watch(resp) },
	}
	for _, ev := range resp.Events {
		v.rows = append(v.rows, append([]string{ev.GetType().String()}, p.kvRow(ev.GetKv())...))
	}
	return p.show(v)
}
