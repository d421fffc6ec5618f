package meta

import (
	"fmt"
	"testing"

	"pontoon/internal/auth"
	"pontoon/internal/pb"
)

// manyUsers is a leader of a cluster that begins with many users and a hundred roles.
func manyUsers(t *testing.T, users int) *env {
	m := &pb.AuthState{Serial: 1, Users: []*pb.AuthUser{{Name: auth.Root, Roles: []string{auth.Root}, NoPassword: true}}}
	for i := range 100 {
		role := fmt.Sprintf("role-%d", i)
		m.Roles = append(m.Roles, &pb.AuthRole{Name: role, Permissions: []*pb.AuthPermission{{Key: []byte(role), RangeEnd: []byte(role + "0")}}})
	}
	for i := range users {
		m.Users = append(m.Users, &pb.AuthUser{Name: fmt.Sprintf("user-%d", i), Roles: []string{fmt.Sprintf("role-%d", i%100)}, Hash: make([]byte, 60)})
	}
	e := newEnv(t, func(c *Config) { c.Bootstrap.Restored = &pb.MetaRestored{Digest: []byte("d"), Revision: 9, Auth: m} })
	e.lead(6)
	e.speakNewest()
	return e
}

// TestNewsOfAChangeAmongManyUsers: with ten thousand users, a node that says by which settings it goes is told of what was changed since, and so is one that
// waits in a call; also by another leader. One of an older build is told all there is.
func TestNewsOfAChangeAmongManyUsers(t *testing.T) {
	e := manyUsers(t, 10_000)
	const follower = 77
	news := func(known uint64, differences bool) *pb.PeerResponse {
		return e.must(&pb.PeerRequest{Settings: &pb.SettingsRequest{KnownVersion: known, Differences: differences}})
	}
	change := func(c *pb.MetaAuth) { e.must(&pb.PeerRequest{AuthChange: c}) }
	whole := news(0, true)
	known := whole.GetSettings().GetVersion()
	if n := len(whole.GetSettings().GetAuth().GetUsers()); n != 10_001 {
		t.Fatalf("who knows nothing is told of %d users", n)
	}
	waits := e.ask(&pb.PeerRequest{Settings: &pb.SettingsRequest{KnownVersion: known, Follower: follower, Differences: true}})
	e.settle()
	change(&pb.MetaAuth{Change: uint32(auth.RoleGrantPermission), Role: "role-7", Permission: &pb.AuthPermission{Key: []byte("k")}})
	e.until("the follower is told", waits.done)
	for who, resp := range map[string]*pb.PeerResponse{"who asks": news(known, true), "who waits": waits.resp} {
		if size := resp.SizeVT(); size > 200 || resp.GetSettingsDifference().GetVersion() != known+1 {
			t.Errorf("%s is told %d bytes of a change, version %d", who, size, resp.GetSettingsDifference().GetVersion())
		}
	}
	e.depose(7, 2)
	e.lead(8)
	if size := news(known, true).SizeVT(); size > 200 {
		t.Errorf("another leader tells %d bytes", size)
	}
	if resp := news(known, false); len(resp.GetSettings().GetAuth().GetUsers()) != 10_001 {
		t.Errorf("who does not take differences is told %d bytes", resp.SizeVT())
	}
	if resp := news(known+1, true); resp.Empty == nil {
		t.Errorf("who has the newest is told %v", resp)
	}
}
