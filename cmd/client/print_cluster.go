package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// clusterPrinter prints what concerns members, their state, and ranges.
type clusterPrinter struct{ printer }

func (p clusterPrinter) members(resp *clientv3.MemberListResponse) error {
	r := (*etcdserverpb.MemberListResponse)(resp)
	v := rendering{json: r, header: []string{"ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"}}
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

func (p clusterPrinter) status(list []nodeStatus) error {
	v := rendering{json: list, header: statusHeader}
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

func (p clusterPrinter) ranges(list []rangeInfo) error {
	v := rendering{json: list, header: []string{
		"ID", "start", "end", "generation", "leader", "term", "replicas", "keys", "size", "in use", "revision", "applied", "quiescent", "sticky",
	}}
	for _, r := range list {
		v.rows = append(v.rows, []string{
			fmt.Sprintf("r%d", r.ID), p.bound(r.Start, "-inf"), p.bound(r.End, "+inf"), fmt.Sprint(r.Generation),
			leaderName(r), fmt.Sprint(r.Term), strings.Join(replicaNames(r), ","), fmt.Sprint(r.Keys),
			size(r.Size), size(r.SizeInUse), fmt.Sprint(r.Revision), fmt.Sprint(r.Applied), fmt.Sprint(r.Quiescent), stickyText(r),
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
			w.field("Sticky", r.Sticky)
			if !r.StickyUntil.IsZero() {
				w.field("StickyUntil", r.StickyUntil.Format(time.RFC3339))
			}
			w.line("")
		}
	}
	return p.show(v)
}

func (p clusterPrinter) lead(t transferred) error {
	stood := time.Duration(t.StoodMicros) * time.Microsecond
	row := []string{fmt.Sprintf("r%d", t.Range), t.Name, fmt.Sprint(t.Term), stood.String()}
	v := rendering{json: t, header: []string{"range", "leader", "term", "stood"}, rows: [][]string{row}}
	v.simple = func(w io.Writer) {
		fmt.Fprintf(w, "r%d: %s leads in term %d; requests waited for %v\n", t.Range, t.Name, t.Term, stood)
	}
	v.fields = func(w *fieldWriter) {
		w.field("Range", t.Range)
		w.id("Leader", t.Leader)
		w.line("%q : %q", "Name", t.Name)
		w.field("Term", t.Term)
		w.field("StoodMicros", t.StoodMicros)
	}
	return p.show(v)
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

// stickyText says whether a range's left border stays, and for how long.
func stickyText(r rangeInfo) string {
	if r.Sticky && !r.StickyUntil.IsZero() {
		return "for " + max(time.Until(r.StickyUntil), 0).Round(time.Second).String()
	}
	return fmt.Sprint(r.Sticky)
}
