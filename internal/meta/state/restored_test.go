package state

import (
	"testing"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// TestRestored: a cluster that begins with a snapshot has its revision, whatever the first leader has raised the limit to before, its compaction and its
// leases, also behind a snapshot of the state; a second bootstrap changes nothing.
func TestRestored(t *testing.T) {
	plan := placement.Bootstrap(placement.Layout{Members: []shard.Member{{ID: 1, Name: "a"}}, ReplicationFactor: 1})
	plan.ClusterId = 7
	plan.Restored = &pb.MetaRestored{Revision: 500, Compact: 40, Auth: &pb.AuthState{Enabled: true, Revision: 5, Serial: 1, Users: []*pb.AuthUser{{Name: "root", Roles: []string{"root"}}}},
		Leases: []*pb.MetaLease{{Id: 9, Ttl: 60, Spans: []*pb.Span{{Start: []byte("a"), End: []byte("b")}}}}}
	s := New()
	for i, e := range []*pb.MetaEntry{{OracleLimit: &pb.OracleLimit{Limit: 1001}}, {Bootstrap: plan}, {Bootstrap: plan}} {
		e.Term = 2
		if r := s.Apply(uint64(i+2), 2, e); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	raw, err := s.Image().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Restore(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*State{s, again} {
		limit, _ := s.OracleLimit()
		l, ok := s.Lease(9)
		if now := s.Settings(); !now.Auth.Enabled() || now.Auth.Revision() != 5 || now.Version != placement.FirstSettings+1 {
			t.Errorf("users begin with %+v", now)
		}
		if limit != 500 || s.CompactRevision() != 40 || !ok || l.TTL != 60 || l.GrantIndex != RestoredGrant || !l.Covers(shard.Span{Start: []byte("a"), End: []byte("b")}) {
			t.Errorf("limit %d, compacted at %d, lease %+v", limit, s.CompactRevision(), l)
		}
	}
}
