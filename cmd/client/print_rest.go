package main

import (
	"fmt"
	"io"
	"strings"

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

var leaseHeader = []string{"lease", "ttl", "granted ttl", "keys"}

func (p printer) grant(r *clientv3.LeaseGrantResponse) error {
	id := fmt.Sprintf("%016x", int64(r.ID))
	return p.show(view{
		json: r, header: leaseHeader[:2], rows: [][]string{{id, fmt.Sprint(r.TTL)}},
		simple: func(w io.Writer) { fmt.Fprintf(w, "lease %s granted with TTL(%ds)\n", id, r.TTL) },
		fields: func(w *fieldWriter) {
			w.header(r.ResponseHeader)
			w.lease("ID", int64(r.ID))
			w.field("TTL", r.TTL)
		},
	})
}

func (p printer) revoke(lease clientv3.LeaseID, resp *clientv3.LeaseRevokeResponse) error {
	r := (*etcdserverpb.LeaseRevokeResponse)(resp)
	id := fmt.Sprintf("%016x", int64(lease))
	return p.show(view{
		json: r, header: []string{"revoked"}, rows: [][]string{{id}},
		simple: func(w io.Writer) { fmt.Fprintf(w, "lease %s revoked\n", id) },
		fields: func(w *fieldWriter) { w.header(r.Header) },
	})
}

func (p printer) keepAlive(r *clientv3.LeaseKeepAliveResponse) error {
	id := fmt.Sprintf("%016x", int64(r.ID))
	return p.show(view{
		json: r, header: leaseHeader[:2], rows: [][]string{{id, fmt.Sprint(r.TTL)}},
		simple: func(w io.Writer) { fmt.Fprintf(w, "lease %s keepalived with TTL(%d)\n", id, r.TTL) },
		fields: func(w *fieldWriter) {
			w.header(r.ResponseHeader)
			w.lease("ID", int64(r.ID))
			w.field("TTL", r.TTL)
		},
	})
}

func (p printer) timeToLive(r *clientv3.LeaseTimeToLiveResponse, keys bool) error {
	id := fmt.Sprintf("%016x", int64(r.ID))
	names := make([]string, len(r.Keys))
	for i, k := range r.Keys {
		names[i] = p.text(k)
	}
	return p.show(view{
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

func (p printer) leases(r *clientv3.LeaseLeasesResponse) error {
	v := view{
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

// lines prints rows as etcdctl's simple output does.
func lines(w io.Writer, rows [][]string) {
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, ", "))
	}
}

func (p printer) members(resp *clientv3.MemberListResponse) error {
	r := (*etcdserverpb.MemberListResponse)(resp)
	v := view{json: r, header: []string{"ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"}}
	for _, m := range r.Members {
		status := "started"
		if m.Name == "" {
			status = "unstarted"
		}
		v.rows = append(v.rows, []string{
			fmt.Sprintf("%x", m.ID), status, m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","), fmt.Sprint(m.IsLearner),
		})
	}
	v.simple = func(w io.Writer) { lines(w, v.rows) }
	v.fields = func(w *fieldWriter) {
		w.header(r.Header)
		for _, m := range r.Members {
			w.id("ID", m.ID)
			w.line("%q : %q", "Name", m.Name)
			for _, u := range m.PeerURLs {
				w.line("%q : %q", "PeerURL", u)
			}
			for _, u := range m.ClientURLs {
				w.line("%q : %q", "ClientURL", u)
			}
			w.field("IsLearner", m.IsLearner)
			w.line("")
		}
	}
	return p.show(v)
}

var statusHeader = []string{
	"endpoint", "ID", "version", "storage version", "db size", "in use", "percentage not in use", "quota", "is leader", "is learner",
	"raft term", "raft index", "raft applied index", "errors",
}

func (p printer) status(list []nodeStatus) error {
	v := view{json: list, header: statusHeader}
	for _, n := range list {
		st := (*etcdserverpb.StatusResponse)(n.Status)
		unused := 0.0
		if st.DbSize > 0 {
			unused = 100 - 100*float64(st.DbSizeInUse)/float64(st.DbSize)
		}
		v.rows = append(v.rows, []string{
			n.Endpoint, fmt.Sprintf("%x", st.Header.GetMemberId()), st.Version, st.StorageVersion,
			size(st.DbSize), size(st.DbSizeInUse), fmt.Sprintf("%.0f%%", unused), size(st.DbSizeQuota),
			fmt.Sprint(st.Leader == st.Header.GetMemberId()), fmt.Sprint(st.IsLearner),
			fmt.Sprint(st.RaftTerm), fmt.Sprint(st.RaftIndex), fmt.Sprint(st.RaftAppliedIndex), strings.Join(st.Errors, ", "),
		})
	}
	v.simple = func(w io.Writer) { lines(w, v.rows) }
	v.fields = func(w *fieldWriter) {
		for _, n := range list {
			st := (*etcdserverpb.StatusResponse)(n.Status)
			w.header(st.Header)
			w.line("%q : %q", "Version", st.Version)
			w.line("%q : %q", "StorageVersion", st.StorageVersion)
			w.field("DBSize", st.DbSize)
			w.field("DBSizeInUse", st.DbSizeInUse)
			w.field("DBSizeQuota", st.DbSizeQuota)
			w.field("Leader", st.Leader)
			w.field("IsLearner", st.IsLearner)
			w.field("RaftIndex", st.RaftIndex)
			w.field("RaftAppliedIndex", st.RaftAppliedIndex)
			w.field("Errors", st.Errors)
			w.line("%q : %q", "Endpoint", n.Endpoint)
			w.line("")
		}
	}
	return p.show(v)
}

// size renders bytes as etcdctl does: in powers of a thousand.
func size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 || f >= 10 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func (p printer) ranges(list []rangeInfo) error {
	v := view{json: list, header: []string{
		"ID", "start", "end", "generation", "leader", "term", "replicas", "keys", "size", "in use", "revision", "applied", "quiescent",
	}}
	for _, r := range list {
		v.rows = append(v.rows, []string{
			fmt.Sprintf("r%d", r.ID), p.bound(r.Start, "-inf"), p.bound(r.End, "+inf"), fmt.Sprint(r.Generation),
			leaderName(r), fmt.Sprint(r.Term), strings.Join(replicaNames(r), ","), fmt.Sprint(r.Keys),
			size(r.Size), size(r.SizeInUse), fmt.Sprint(r.Revision), fmt.Sprint(r.Applied), fmt.Sprint(r.Quiescent),
		})
	}
	v.simple = func(w io.Writer) { lines(w, v.rows) }
	v.fields = func(w *fieldWriter) {
		for _, r := range list {
			w.field("ID", r.ID)
			w.line("%q : %q", "Start", r.Start)
			w.line("%q : %q", "End", r.End)
			w.field("Generation", r.Generation)
			w.id("Leader", r.Leader)
			w.field("Term", r.Term)
			for _, rep := range r.Replicas {
				w.line("%q : %d on %x %q", "Replica", rep.Replica, rep.Node, rep.Name)
			}
			w.field("Keys", r.Keys)
			w.field("Size", r.Size)
			w.field("SizeInUse", r.SizeInUse)
			w.field("Revision", r.Revision)
			w.field("Applied", r.Applied)
			w.field("Quiescent", r.Quiescent)
			w.line("")
		}
	}
	return p.show(v)
}

func (p printer) bound(key []byte, open string) string {
	switch {
	case len(key) == 0:
		return open
	case p.hex:
		return p.text(key)
	default:
		return fmt.Sprintf("%q", key)
	}
}

// leaderName is the name of the node that leads, or its id where it has none.
func leaderName(r rangeInfo) string {
	if r.Leader == 0 {
		return "none"
	}
	for _, rep := range r.Replicas {
		if rep.Node == r.Leader && rep.Name != "" {
			return rep.Name
		}
	}
	return fmt.Sprintf("%x", r.Leader)
}

func replicaNames(r rangeInfo) []string {
	var names []string
	for _, rep := range r.Replicas {
		if rep.Name == "" {
			names = append(names, fmt.Sprintf("%x", rep.Node))
			continue
		}
		names = append(names, rep.Name)
	}
	return names
}
