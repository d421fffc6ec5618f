package meta

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// memberEnv is a leader of a cluster whose members have all started, and of which it reaches some.
func memberEnv(t testing.TB) (e *env, reached map[shard.NodeID]time.Duration) {
	reached = map[shard.NodeID]time.Duration{2: time.Hour, 3: time.Hour}
	e = newEnv(t, func(c *Config) {
		c.Reach = func() map[shard.NodeID]time.Duration {
			out := map[shard.NodeID]time.Duration{}
			for id, d := range reached {
				out[id] = d
			}
			return out
		}
		c.Wall = func() time.Time { return time.Unix(1700000000, 0) }
	})
	e.lead(3)
	for id := range uint64(3) {
		e.must(&pb.PeerRequest{MemberAttrs: &pb.MemberAttrsRequest{Id: id + 1, Name: fmt.Sprint("n", id+1), ClientUrls: []string{"http://c"}, Formats: uint32(clusterversion.Newest)}})
	}
	e.m.Tick()
	e.settle()
	return e, reached
}

func change(kind shard.MemberChange, id uint64, urls ...string) *pb.PeerRequest {
	return &pb.PeerRequest{ChangeMember: &pb.ChangeMemberRequest{Change: uint32(kind), Id: id, PeerUrls: urls, Strict: true, LearnersMax: 1}}
}

// learner makes an addition one of a learner.
func learner(req *pb.PeerRequest) *pb.PeerRequest {
	req.ChangeMember.Learner = true
	return req
}

// changed makes a change whose answer may come from a goroutine.
func (e *env) changed(req *pb.PeerRequest) (*pb.MembersResponse, error) {
	e.t.Helper()
	a := e.ask(req)
	e.until("an answer", a.done)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.resp.GetMembers(), a.err
}

// TestChangeMembers: what is decided is answered with all members; a removed one that holds replicas stays until they are gone, and is
// forgotten then.
func TestChangeMembers(t *testing.T) {
	e, _ := memberEnv(t)
	got, err := e.changed(change(shard.MemberAdd, 0, "http://four:2380"))
	if err != nil || len(got.Members) != 4 || got.Id != uint64(shard.NewMemberID([]string{"http://four:2380"}, "", time.Unix(1700000000, 0))) {
		t.Fatalf("%v, %v", got, err)
	}
	four := got.Id
	if got, err = e.changed(change(shard.MemberUpdate, four, "http://vier:2380")); err != nil || !strings.Contains(got.String(), "vier") {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err = e.changed(change(shard.MemberDrain, 2)); err != nil || !hasState(got, 2, shard.MemberDraining) {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err = e.changed(change(shard.MemberUndrain, 2)); err != nil || !hasState(got, 2, shard.MemberPresent) {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err = e.changed(change(shard.MemberRemove, four)); err != nil || len(got.Members) != 3 {
		t.Fatalf("a member without replicas is to be forgotten at once: %v, %v", got, err)
	}
	if got, err = e.changed(change(shard.MemberRemove, 3)); err != nil || !hasState(got, 3, shard.MemberLeaving) || got.Replicas[2] != 3 {
		t.Fatalf("one with replicas stays, and they are counted: %v, %v", got, err)
	}
	e.m.Tick()
	e.settle()
	if _, there := e.m.state.Member(3); !there {
		t.Fatal("it was forgotten with replicas on it")
	}
	// The replicas move away, as far as the map goes; that of the meta group stays.
	for d := range e.m.state.Map().All() {
		d.Generation++
		d.Replicas = slices.DeleteFunc(slices.Clone(d.Replicas), func(r shard.Replica) bool { return r.Node == 3 })
		if err := e.m.state.ApplyRanges(d); err != nil {
			t.Fatal(err)
		}
	}
	e.m.Tick()
	e.settle()
	if ms := e.must(&pb.PeerRequest{Members: &pb.MembersRequest{}}).Members; len(ms.Members) != 3 || ms.Replicas[2] != 1 {
		t.Fatalf("the meta group's replica counts as well: %v", ms)
	}
}

func hasState(ms *pb.MembersResponse, id uint64, s shard.MemberState) bool {
	return slices.ContainsFunc(ms.Members, func(m *pb.Member) bool { return m.Id == id && shard.MemberState(m.State) == s })
}

// TestChangeMembersHealth: whom the leader does not reach counts as etcd counts.
func TestChangeMembersHealth(t *testing.T) {
	for _, tc := range []struct {
		what    string
		edit    func(reached map[shard.NodeID]time.Duration)
		req     *pb.PeerRequest
		lenient bool
		is      error
	}{
		{"add", nil, change(shard.MemberAdd, 0, "http://x:1"), false, nil},
		{"add, just started", func(r map[shard.NodeID]time.Duration) { r[2], r[3] = time.Second, time.Second }, change(shard.MemberAdd, 0, "http://x:1"), false, shard.ErrUnhealthy},
		{"add, just started, not strict", func(r map[shard.NodeID]time.Duration) { r[2], r[3] = time.Second, time.Second }, change(shard.MemberAdd, 0, "http://x:1"), true, nil},
		{"add, one is down", func(r map[shard.NodeID]time.Duration) { delete(r, 2) }, change(shard.MemberAdd, 0, "http://x:1"), false, shard.ErrUnhealthy},
		{"add a learner, one is down", func(r map[shard.NodeID]time.Duration) { delete(r, 2) }, learner(change(shard.MemberAdd, 0, "http://x:1")), false, shard.ErrUnhealthy},
		{"add a learner, one is down, not strict", func(r map[shard.NodeID]time.Duration) { delete(r, 2) }, learner(change(shard.MemberAdd, 0, "http://x:1")), true, nil},
		{"remove", nil, change(shard.MemberRemove, 3), false, nil},
		{"remove the one that is down", func(r map[shard.NodeID]time.Duration) { delete(r, 3) }, change(shard.MemberRemove, 3), false, nil},
		{"remove another than the one that is down", func(r map[shard.NodeID]time.Duration) { delete(r, 2) }, change(shard.MemberRemove, 3), false, shard.ErrUnhealthy},
		{"the same, not strict", func(r map[shard.NodeID]time.Duration) { delete(r, 2) }, change(shard.MemberRemove, 3), true, nil},
		{"remove where ranges have lost their majority", func(r map[shard.NodeID]time.Duration) { clear(r) }, change(shard.MemberRemove, 3), false, shard.ErrUnhealthy},
		{"remove, just started", func(r map[shard.NodeID]time.Duration) { r[2], r[3] = time.Second, time.Second }, change(shard.MemberRemove, 3), false, shard.ErrUnhealthy},
		{"promote a voter", nil, change(shard.MemberPromote, 3), false, shard.ErrNotLearner},
		{"promote nobody", nil, change(shard.MemberPromote, 9), false, shard.ErrMemberNotFound},
		{"remove nobody", nil, change(shard.MemberRemove, 9), false, shard.ErrMemberNotFound},
	} {
		e, reached := memberEnv(t)
		if tc.edit != nil {
			tc.edit(reached)
		}
		tc.req.ChangeMember.Strict = !tc.lenient
		if _, err := e.changed(tc.req); !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}
