package state

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/lease"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// stateEnv is the state of one scenario.
type stateEnv struct {
	s     *State
	index uint64
	term  uint64 // of Raft
}

// TestStateScenarios runs testdata. Commands:
//
//	term t=N                          the Raft term of the entries that follow
//	bootstrap members=(1,2) keys=(m)  with replication factor 3
//	limit to=N [exact] [last=T] [carried=T]
//	grant id= ttl= / revoke id= [grant=] / forget id= [grant=]
//	attach id= [grant=] from= [to=]
//	compact at= / attrs id= name= url= [formats=] / version to= / alarm id= kind= [clear]
//	empty                             an entry of Raft's own
//	restart                           marshal and restore
//	show
func TestStateScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		e := &stateEnv{s: New(), index: 10, term: 6}
		datadriven.RunTest(t, path, e.run)
	})
}

func (e *stateEnv) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "term":
		d.ScanArgs(t, "t", &e.term)
		return ""
	case "show":
		return e.show()
	case "restart":
		raw, err := e.s.Image().Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Restore(raw)
		if err != nil {
			t.Fatal(err)
		}
		again, err := back.Image().Marshal()
		if err != nil || !bytes.Equal(raw, again) {
			t.Fatalf("the state is not what was written: %v", err)
		}
		e.s = back
		return "ok\n"
	}
	var entry *pb.MetaEntry
	if d.Cmd != "empty" {
		entry = entryOf(t, d)
		entry.Term = e.term
		d.MaybeScanArgs(t, "carried", &entry.Term)
	}
	e.index++
	r := e.s.Apply(e.index, e.term, entry)
	if r.Err != nil {
		return r.Err.Error() + "\n"
	}
	out := "ok"
	if r.Already {
		out += " already"
	}
	if r.Lease.ID != 0 {
		out += " " + leaseString(r.Lease)
	}
	return out + "\n"
}

func layout(members []shard.Member, keys [][]byte) *pb.MetaBootstrap {
	return placement.Bootstrap(placement.Layout{Members: members, SplitKeys: keys, ReplicationFactor: 3})
}

func entryOf(t *testing.T, d *datadriven.TestData) *pb.MetaEntry {
	var id, n, ttl int64
	var member, grant, kind uint64
	var name, url, from, to string
	switch d.Cmd {
	case "bootstrap":
		var ms []shard.Member
		for _, f := range vals(d, "members") {
			var id uint64
			fmt.Sscan(f, &id)
			ms = append(ms, shard.Member{ID: shard.NodeID(id), Name: "n" + f})
		}
		var keys [][]byte
		for _, k := range vals(d, "keys") {
			keys = append(keys, []byte(k))
		}
		b := layout(ms, keys)
		b.ClusterId = 77
		return &pb.MetaEntry{Bootstrap: b}
	case "limit":
		l := &pb.OracleLimit{Exact: d.HasArg("exact")}
		d.ScanArgs(t, "to", &l.Limit)
		d.MaybeScanArgs(t, "last", &l.LastTerm)
		return &pb.MetaEntry{OracleLimit: l}
	case "grant":
		d.ScanArgs(t, "id", &id)
		d.ScanArgs(t, "ttl", &ttl)
		return &pb.MetaEntry{Grant: &pb.MetaGrant{Id: id, Ttl: ttl}}
	case "revoke", "forget", "attach":
		d.ScanArgs(t, "id", &id)
		d.MaybeScanArgs(t, "grant", &grant)
		switch d.Cmd {
		case "revoke":
			return &pb.MetaEntry{Revoke: &pb.MetaRevoke{Id: id, GrantIndex: grant}}
		case "forget":
			return &pb.MetaEntry{Forget: &pb.MetaForget{Id: id, GrantIndex: grant}}
		}
		d.MaybeScanArgs(t, "from", &from)
		d.MaybeScanArgs(t, "to", &to)
		return &pb.MetaEntry{Attach: &pb.MetaAttach{Id: id, GrantIndex: grant, Span: &pb.Span{Start: []byte(from), End: []byte(to)}}}
	case "compact":
		d.ScanArgs(t, "at", &n)
		return &pb.MetaEntry{Compact: &pb.MetaCompact{Revision: n}}
	case "attrs":
		d.ScanArgs(t, "id", &member)
		d.ScanArgs(t, "name", &name)
		d.ScanArgs(t, "url", &url)
		d.MaybeScanArgs(t, "formats", &kind)
		return &pb.MetaEntry{MemberAttrs: &pb.MetaMemberAttrs{Id: member, Name: name, ClientUrls: []string{url}, Formats: uint32(kind)}}
	case "version":
		d.ScanArgs(t, "to", &kind)
		return &pb.MetaEntry{ClusterVersion: &pb.MetaClusterVersion{Version: uint32(kind)}}
	case "alarm":
		d.ScanArgs(t, "id", &member)
		d.ScanArgs(t, "kind", &kind)
		return &pb.MetaEntry{Alarm: &pb.MetaAlarm{MemberId: member, Alarm: int32(kind), Activate: !d.HasArg("clear")}}
	case "unknown":
		return &pb.MetaEntry{}
	}
	t.Fatalf("unknown command %s", d.Cmd)
	return nil
}

func vals(d *datadriven.TestData, key string) []string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return a.Vals
		}
	}
	return nil
}

func leaseString(l lease.Lease) string {
	out := fmt.Sprintf("lease %x ttl %d grant %d", l.ID, l.TTL, l.GrantIndex)
	if l.Revoking {
		out += " revoking"
	}
	return out + fmt.Sprintf(" spans %v", l.Spans)
}

func (e *stateEnv) show() string {
	var b strings.Builder
	index, term := e.s.Position()
	limit, by := e.s.OracleLimit()
	if v := e.s.ClusterVersion(); v > clusterversion.First || Announced(e.s.Members()) > clusterversion.First {
		fmt.Fprintf(&b, "version %d, announced %d\n", v, Announced(e.s.Members()))
	}
	fmt.Fprintf(&b, "at %d term %d, limit %d by term %d, compacted at %d, cluster %d\n", index, term, limit, by, e.s.CompactRevision(), e.s.ClusterID())
	for _, m := range e.s.Members() {
		fmt.Fprintf(&b, "member %v %s %v\n", m.ID, m.Name, m.ClientURLs)
	}
	if e.s.Bootstrapped() {
		fmt.Fprintf(&b, "meta on %v\n%v", e.s.Meta().Replicas, e.s.Map())
	}
	for _, l := range e.s.Leases() {
		fmt.Fprintln(&b, leaseString(l))
	}
	for _, a := range e.s.Settings().Alarms {
		fmt.Fprintf(&b, "alarm %d of %v\n", a.Kind, a.Member)
	}
	return b.String()
}

// An entry that this version does not know must stop the replica, not be skipped by it: another
// version may have applied it.
func TestUnknownEntryIsCorrupt(t *testing.T) {
	s := New()
	if r := s.Apply(11, 6, &pb.MetaEntry{Term: 6}); !errors.Is(r.Err, shard.ErrCorrupt) {
		t.Errorf("got %v", r.Err)
	}
}

func TestApplyPanicsOnAnIndexTwice(t *testing.T) {
	s := New()
	s.Apply(11, 6, nil)
	for _, pos := range [][2]uint64{{11, 6}, {10, 6}, {12, 5}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("entry %d of term %d was applied", pos[0], pos[1])
				}
			}()
			s.Apply(pos[0], pos[1], nil)
		}()
	}
}

func FuzzRestore(f *testing.F) {
	s := New()
	b := layout([]shard.Member{{ID: 1}, {ID: 2}, {ID: 3}}, shard.SplitKeys(4))
	s.Apply(11, 6, &pb.MetaEntry{Term: 6, Bootstrap: b})
	s.Apply(12, 6, &pb.MetaEntry{Term: 6, Grant: &pb.MetaGrant{Id: 5, Ttl: 9}})
	s.Apply(13, 6, &pb.MetaEntry{Term: 6, Attach: &pb.MetaAttach{Id: 5, Span: &pb.Span{}}})
	raw, err := s.Image().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Restore(raw)
		if err != nil {
			return
		}
		once, err := s.Image().Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Restore(once)
		if err != nil {
			t.Fatalf("what was restored cannot be restored again: %v", err)
		}
		if twice, err := back.Image().Marshal(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("not stable: %v", err)
		}
	})
}
