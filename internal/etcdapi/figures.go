package etcdapi

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// figures are what etcd counts of the requests that a member has proposed and read, here of those that this node serves: what others serve, and
// what routing clients ask of the ranges themselves, is not in them. A nil *figures counts nothing.
type figures struct {
	pending                                      atomic.Int64
	failed                                       prometheus.Counter
	puts, ranges, deletes, txns                  prometheus.Counter
	putBytes                                     prometheus.Gauge // etcd's is one, too
	hash, hashRev                                prometheus.Observer
	readOK, readFailed                           prometheus.Observer
	rangesOK, rangesFailed, readTxnOK, readTxnNo prometheus.Observer
	leases                                       leaseFigures
	rare                                         rareFigures
	methods                                      map[string]methodFigures
}

// leaseFigures are those of leases.
type leaseFigures struct {
	granted, revoked, renewed prometheus.Counter
	ttls                      prometheus.Observer
}

// methodFigures are those of the calls of one method that propose something.
type methodFigures struct{ ok, failed prometheus.Observer }

// proposals are the methods that propose something, with the name that etcd gives each.
var proposals = map[string]string{
	etcdserverpb.KV_Put_FullMethodName:            "Put",
	etcdserverpb.KV_DeleteRange_FullMethodName:    "DeleteRange",
	etcdserverpb.KV_Txn_FullMethodName:            "Txn",
	etcdserverpb.KV_Compact_FullMethodName:        "Compaction",
	etcdserverpb.Lease_LeaseGrant_FullMethodName:  "LeaseGrant",
	etcdserverpb.Lease_LeaseRevoke_FullMethodName: "LeaseRevoke",
	etcdserverpb.Maintenance_Alarm_FullMethodName: "Alarm",
}

func newFigures(reg prometheus.Registerer) *figures {
	if reg == nil {
		return nil
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, from float64, n int, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(from, 2, n)}, labels)
		reg.MustRegister(h)
		return h
	}
	yes, no := strconv.FormatBool(true), strconv.FormatBool(false)
	requests := histogram("etcd_server_request_duration_seconds", "Response latency distribution in seconds for each type.", 0.001, 14, "type", "success")
	read := histogram("etcd_server_range_duration_seconds", "The latency distributions of ranges that were served.", 0.0001, 20, "success")
	f := &figures{
		failed:  counter("etcd_server_proposals_failed_total", "The total number of writes served by this node that have failed, or whose outcome is unknown."),
		puts:    counter("etcd_mvcc_put_total", "Total number of puts served by this node."),
		ranges:  counter("etcd_mvcc_range_total", "Total number of ranges served by this node."),
		deletes: counter("etcd_mvcc_delete_total", "Total number of deletes served by this node."),
		txns:    counter("etcd_mvcc_txn_total", "Total number of transactions of several operations served by this node."),
		putBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcd_debugging_mvcc_total_put_size_in_bytes", Help: "The total size of put kv pairs served by this node."}),
		leases: leaseFigures{
			granted: counter("etcd_debugging_lease_granted_total", "The total number of leases that were granted by way of this node."),
			revoked: counter("etcd_debugging_lease_revoked_total", "The total number of leases that were revoked by way of this node."),
			renewed: counter("etcd_debugging_lease_renewed_total", "The total number of keep-alives of leases that this node has answered."),
			ttls:    histogram("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", 1, 24).WithLabelValues(),
		},
		rare:    newRareFigures(reg, counter),
		hash:    histogram("etcd_mvcc_hash_duration_seconds", "The latency distribution of storage hash operation.", 0.01, 15).WithLabelValues(),
		hashRev: histogram("etcd_mvcc_hash_rev_duration_seconds", "The latency distribution of storage hash by revision operation.", 0.01, 15).WithLabelValues(),
		readOK:  read.WithLabelValues(yes), readFailed: read.WithLabelValues(no),
		rangesOK: requests.WithLabelValues("Range", yes), rangesFailed: requests.WithLabelValues("Range", no),
		readTxnOK: requests.WithLabelValues("ReadonlyTxn", yes), readTxnNo: requests.WithLabelValues("ReadonlyTxn", no),
		methods: make(map[string]methodFigures, len(proposals)),
	}
	for method, kind := range proposals {
		f.methods[method] = methodFigures{ok: requests.WithLabelValues(kind, yes), failed: requests.WithLabelValues(kind, no)}
	}
	reg.MustRegister(f.putBytes, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "etcd_server_proposals_pending", Help: "The current number of writes that this node serves and that have no outcome yet.",
	}, func() float64 { return float64(f.pending.Load()) }))
	return f
}

// begin notes a call that starts.
func (f *figures) begin(method string) {
	if f == nil {
		return
	}
	if _, proposes := f.methods[method]; proposes {
		f.pending.Add(1)
	}
}

// end notes the outcome of a call that was begun.
func (f *figures) end(method string, req, resp any, took time.Duration, err error) {
	if f == nil {
		return
	}
	secs := took.Seconds()
	switch method {
	case etcdserverpb.KV_Range_FullMethodName:
		f.ranges.Inc()
		pick(err, f.readOK, f.readFailed).Observe(secs)
		pick(err, f.rangesOK, f.rangesFailed).Observe(secs)
		if r, ok := req.(*etcdserverpb.RangeRequest); ok {
			f.rare.readFailed(r, err)
		}
		return
	case etcdserverpb.Cluster_MemberPromote_FullMethodName:
		f.rare.promotion(err)
		return
	case etcdserverpb.Maintenance_Hash_FullMethodName:
		f.hash.Observe(secs)
		return
	case etcdserverpb.Maintenance_HashKV_FullMethodName:
		f.hashRev.Observe(secs)
		return
	}
	m, proposes := f.methods[method]
	if !proposes {
		return
	}
	f.pending.Add(-1)
	if unsure(err) {
		f.failed.Inc()
	}
	if r, ok := req.(*etcdserverpb.TxnRequest); ok && readsOnly(r) {
		m = methodFigures{ok: f.readTxnOK, failed: f.readTxnNo}
	}
	pick(err, m.ok, m.failed).Observe(secs)
	if err == nil {
		f.carriedOut(req, resp)
	}
}

// renewal notes a keep-alive of a lease.
func (f *figures) renewal() {
	if f != nil {
		f.leases.renewed.Inc()
	}
}

func pick(err error, ok, failed prometheus.Observer) prometheus.Observer {
	if err != nil {
		return failed
	}
	return ok
}

// unsure reports whether the store has failed a write, or nobody knows: what a client has asked wrongly, or given up, is neither.
func unsure(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unknown, codes.Internal, codes.DataLoss:
		return true
	}
	return false
}

// carriedOut counts the operations of a request that has succeeded.
func (f *figures) carriedOut(req, resp any) {
	switch r := req.(type) {
	case *etcdserverpb.PutRequest:
		f.puts.Inc()
		f.putBytes.Add(float64(len(r.Key) + len(r.Value)))
	case *etcdserverpb.DeleteRangeRequest:
		f.deletes.Inc()
	case *etcdserverpb.LeaseRevokeRequest:
		f.leases.revoked.Inc()
	case *etcdserverpb.LeaseGrantRequest:
		f.leases.granted.Inc()
		if l, ok := resp.(*etcdserverpb.LeaseGrantResponse); ok {
			f.leases.ttls.Observe(float64(l.TTL))
		}
	case *etcdserverpb.TxnRequest:
		if t, ok := resp.(*etcdserverpb.TxnResponse); ok && f.branch(r, t) > 1 {
			f.txns.Inc()
		}
	}
}

// branch counts the operations of the branch that was taken, nested ones too, and says how many there are.
func (f *figures) branch(r *etcdserverpb.TxnRequest, t *etcdserverpb.TxnResponse) (n int) {
	ops := r.Success
	if !t.Succeeded {
		ops = r.Failure
	}
	for i, op := range ops {
		switch op := op.Request.(type) {
		case *etcdserverpb.RequestOp_RequestPut:
			f.puts.Inc()
			f.putBytes.Add(float64(len(op.RequestPut.Key) + len(op.RequestPut.Value)))
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			f.deletes.Inc()
		case *etcdserverpb.RequestOp_RequestRange:
			f.ranges.Inc()
		case *etcdserverpb.RequestOp_RequestTxn:
			if i < len(t.Responses) {
				n += f.branch(op.RequestTxn, t.Responses[i].GetResponseTxn())
			}
			continue
		}
		n++
	}
	return n
}

// readsOnly reports whether no branch of a transaction writes.
func readsOnly(r *etcdserverpb.TxnRequest) bool {
	for _, ops := range [][]*etcdserverpb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch op := op.Request.(type) {
			case *etcdserverpb.RequestOp_RequestPut, *etcdserverpb.RequestOp_RequestDeleteRange:
				return false
			case *etcdserverpb.RequestOp_RequestTxn:
				if !readsOnly(op.RequestTxn) {
					return false
				}
			}
		}
	}
	return true
}
