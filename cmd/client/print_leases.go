package main

import (
	"fmt"
	"io"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// leasePrinter prints what concerns leases.
type leasePrinter struct{ printer }

var leaseHeader = []string{"lease", "ttl", "granted ttl", "keys"}

func (p leasePrinter) grant(r *clientv3.LeaseGrantResponse) error {
	id := fmt.Sprintf("%016x", int64(r.ID))
	return p.show(rendering{
		json: r, header: leaseHeader[:2], rows: [][]string{{id, fmt.Sprint(r.TTL)}},
		simple: func(w io.Writer) { fmt.Fprintf(w, "lease %s granted with TTL(%ds)\n", id, r.TTL) },
		fields: func(w *fieldWriter) {
			w.header(r.ResponseHeader)
			w.lease("ID", int64(r.ID))
			w.field("TTL", r.TTL)
		},
	})
}

func (p leasePrinter) revoke(lease clientv3.LeaseID, resp *clientv3.LeaseRevokeResponse) error {
	r := (*etcdserverpb.LeaseRevokeResponse)(resp)
	id := fmt.Sprintf("%016x", int64(lease))
	return p.show(rendering{
		json: r, header: []string{"revoked"}, rows: [][]string{{id}},
		simple: func(w io.Writer) { fmt.Fprintf(w, "lease %s revoked\n", id) },
		fields: func(w *fieldWriter) { w.header(r.Header) },
	})
}

func (p leasePrinter) keepAlive(r *clientv3.LeaseKeepAliveResponse) error {
	id := fmt.Sprintf("%016x", int64(r.ID))
	return p.show(rendering{
		json: r, header: leaseHeader[:2], rows: [][]string{{id, fmt.Sprint(r.TTL)}},
		simple: func(w io.Writer) { fmt.Fprintf(w, "lease %s keepalived with TTL(%d)\n", id, r.TTL) },
		fields: func(w *fieldWriter) {
			w.header(r.ResponseHeader)
			w.lease("ID", int64(r.ID))
			w.field("TTL", r.TTL)
		},
	})
}

func (p leasePrinter) timeToLive(r *clientv3.LeaseTimeToLiveResponse, keys bool) error {
	id := fmt.Sprintf("%016x", int64(r.ID))
	names := make([]string, len(r.Keys))
	for i, k := range r.Keys {
		names[i] = p.text(k)
	}
	return p.show(rendering{
		json: r, header: leaseHeader,
		rows: [][]string{{id, fmt.Sprint(r.TTL), fmt.Sprint(r.GrantedTTL), strings.Join(names, ",")}},
		simple: func(w io.Writer) {
			if r.GrantedTTL == 0 && r.TTL == -1 {
				fmt.Fprintf(w, "lease %s already expired\n", id)
				return
			}
			fmt.Fprintf(w, "lease %s granted with TTL(%ds), remaining(%ds)", id, r.GrantedTTL, r.TTL)
			if keys {
				fmt.Fprintf(w, ", attached keys(%v)", names)
			}
			fmt.Fprintln(w)
		},
		fields: func(w *fieldWriter) {
			w.header(r.ResponseHeader)
			w.lease("ID", int64(r.ID))
			w.field("TTL", r.TTL)
			w.field("GrantedTTL", r.GrantedTTL)
			for _, k := range r.Keys {
				w.line("%q : %q", "Key", k)
			}
		},
	})
}

func (p leasePrinter) list(r *clientv3.LeaseLeasesResponse) error {
	v := rendering{
		json: r, header: leaseHeader[:1],
		simple: func(w io.Writer) {
			fmt.Fprintf(w, "found %d leases\n", len(r.Leases))
			for _, l := range r.Leases {
				fmt.Fprintf(w, "%016x\n", int64(l.ID))
			}
		},
		fields: func(w *fieldWriter) {
			w.header(r.ResponseHeader)
			for _, l := range r.Leases {
				w.lease("ID", int64(l.ID))
			}
		},
	}
	for _, l := range r.Leases {
		v.rows = append(v.rows, []string{fmt.Sprintf("%016x", int64(l.ID))})
	}
	return p.show(v)
}
