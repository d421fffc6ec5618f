package state

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// cast is a state whose members change, beside what has to be true of them.
type cast struct {
	t     testing.TB
	r     *rand.Rand
	s     *State
	index uint64
	gone  map[shard.NodeID]bool // forgotten, for ever
	last  []shard.Member
	seen  map[string]int // what came of the changes
}

func newCast(t testing.TB, seed uint64) *cast {
	c := &cast{t: t, r: rand.New(rand.NewPCG(seed, 11)), s: laidOut(t, 6), index: 100, gone: map[shard.NodeID]bool{}, seen: map[string]int{}}
	c.s.version = clusterversion.Newest
	for i := range c.s.list {
		c.s.list[i].PeerURLs = []string{fmt.Sprintf("http://n%d:2380", i)}
	}
	c.last = c.s.list
	return c
}

func (c *cast) apply(e *pb.MetaEntry) Result {
	c.index++
	e.Term = 1
	return c.s.Apply(c.index, 1, e)
}

// anybody is a member, or was one, or never was.
func (c *cast) anybody() uint64 {
	all := []uint64{12345}
	for _, m := range c.s.list {
		all = append(all, uint64(m.ID), uint64(m.ID))
	}
	for id := range c.gone {
		all = append(all, uint64(id))
	}
	slices.Sort(all)
	return all[c.r.IntN(len(all))]
}

func (c *cast) url() string { return fmt.Sprintf("http://n%d:2380", c.r.IntN(12)) }

// step does something, and says what.
func (c *cast) step() {
	strict := c.r.IntN(3) > 0
	var e *pb.MetaEntry
	what := ""
	switch c.r.IntN(10) {
	case 9:
		c.begin()
		return
	case 0, 1:
		what = "add"
		m := &pb.Member{Id: c.r.Uint64(), PeerUrls: []string{c.url()}, Learner: c.r.IntN(4) == 0}
		if c.r.IntN(4) == 0 {
			m.Id = c.anybody()
		}
		e = &pb.MetaEntry{AddMember: &pb.MetaAddMember{Member: m, Strict: strict, LearnersMax: 2}}
	case 2:
		what = "remove"
		e = &pb.MetaEntry{RemoveMember: &pb.MetaRemoveMember{Id: c.anybody(), Strict: strict}}
	case 3:
		what = "update"
		e = &pb.MetaEntry{UpdateMember: &pb.MetaUpdateMember{Id: c.anybody(), PeerUrls: []string{c.url()}}}
	case 4:
		what = "promote"
		e = &pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: c.anybody(), Strict: strict}}
	case 5:
		what = "drain"
		e = &pb.MetaEntry{DrainMember: &pb.MetaDrainMember{Id: c.anybody(), Drain: c.r.IntN(3) > 0}}
	case 6:
		what = "forget"
		e = &pb.MetaEntry{ForgetMember: &pb.MetaForgetMember{Id: c.anybody()}}
	case 7:
		what = "publish"
		id := c.anybody()
		e = &pb.MetaEntry{MemberAttrs: &pb.MetaMemberAttrs{Id: id, Name: fmt.Sprintf("m%x", id), ClientUrls: []string{"http://c"}, Formats: uint32(clusterversion.Newest)}}
	case 8:
		c.move()
		return
	}
	before := c.s.Map().Version()
	res := c.apply(e)
	if res.Err == nil {
		what += " done"
	}
	c.seen[what]++
	if res.Err != nil && c.s.Map().Version() != before {
		c.t.Fatalf("%s was refused, and the version has changed: %v", what, res.Err)
	}
	c.check(what, e, res.Err)
}

// begin begins a move of a replica to somebody, which stays under way for ever, but not in all ranges.
func (c *cast) begin() {
	all := slices.Collect(c.s.Map().All())
	d := all[c.r.IntN(len(all)/2)]
	to := shard.NodeID(c.anybody())
	e, err := PlanMove(c.s, &pb.MoveOp{RangeId: uint64(d.ID), To: uint64(to)}, 1)
	if err != nil {
		c.seen["move"]++
		return
	}
	res := c.apply(e)
	if m, _ := c.s.Member(to); res.Err != nil || m.ID != to || m.State != shard.MemberPresent {
		c.t.Fatalf("a replica is to move to %v, who is %v: %v", to, m, res.Err)
	}
	c.seen["move done"]++
}

// move puts the replicas of a range elsewhere, as the planner will.
func (c *cast) move() {
	all := slices.Collect(c.s.Map().All())
	d := all[c.r.IntN(len(all))]
	d.Generation++
	d.Replicas = nil
	stay := slices.DeleteFunc(slices.Clone(c.s.list), func(m shard.Member) bool { return m.State != shard.MemberPresent && c.r.IntN(4) > 0 })
	for _, i := range c.r.Perm(len(stay))[:min(3, len(stay))] {
		d.Replicas = append(d.Replicas, shard.Replica{ID: shard.ReplicaID(c.s.next.replicas), Node: stay[i].ID})
		c.s.next.replicas++
	}
	if len(d.Replicas) == 0 {
		return
	}
	if err := c.s.ApplyRanges(d); err != nil {
		c.t.Fatal(err)
	}
	c.last = c.s.list
}

// check holds the members against what must be.
func (c *cast) check(what string, e *pb.MetaEntry, err error) {
	c.t.Helper()
	count := map[shard.NodeID]int{}
	for d := range c.s.Map().All() {
		for _, r := range d.Replicas {
			count[r.Node]++
		}
	}
	coming := map[shard.NodeID]bool{}
	for _, op := range c.s.OpsUnderWay() {
		coming[op.To.Node] = true
	}
	urls := map[string]bool{}
	takers, voting, started := 0, 0, 0
	for i, m := range c.s.list {
		if i > 0 && c.s.list[i-1].ID >= m.ID {
			c.t.Fatalf("after %s: not by id: %v", what, c.s.list)
		}
		if c.gone[m.ID] {
			c.t.Fatalf("after %s: %v is back", what, m.ID)
		}
		if m.State == shard.MemberLeaving {
			continue
		}
		if !m.Learner {
			voting++
			if m.Name != "" {
				started++
			}
			if m.State == shard.MemberPresent {
				takers++
			}
		}
		for _, u := range m.PeerURLs {
			if urls[u] {
				c.t.Fatalf("after %s: %s stands twice: %v", what, u, c.s.list)
			}
			urls[u] = true
		}
	}
	if takers == 0 {
		c.t.Fatalf("after %s: nobody takes replicas: %v", what, c.s.list)
	}
	strict := e.GetAddMember().GetStrict() && !e.AddMember.Member.Learner && voting > 2 || e.GetRemoveMember().GetStrict()
	if was, _ := memberOf(c.last, shard.NodeID(e.GetRemoveMember().GetId())); strict && err == nil && !was.Learner && started < voting/2+1 {
		c.t.Fatalf("after %s: %d of %d have started", what, started, voting)
	}
	for _, was := range c.last {
		now, here := c.s.Member(was.ID)
		switch {
		case !here && (count[was.ID] > 0 || onMeta(c.s, was.ID) || coming[was.ID]):
			c.t.Fatalf("after %s: %v was forgotten with replicas on it", what, was.ID)
		case !here && was.State != shard.MemberLeaving && e.RemoveMember == nil:
			c.t.Fatalf("after %s: %v was forgotten, and never removed", what, was.ID)
		case here && was.State == shard.MemberLeaving && now.State != was.State:
			c.t.Fatalf("after %s: %v is %v again", what, was.ID, now.State)
		}
		if !here {
			c.gone[was.ID] = true
		}
	}
	for _, id := range c.s.Forgettable() {
		if m, _ := c.s.Member(id); m.State != shard.MemberLeaving || count[id] > 0 || onMeta(c.s, id) {
			c.t.Fatalf("after %s: %v is to be forgotten", what, m)
		}
	}
	for id := range count {
		if c.s.ranges.placed[id] != count[id] {
			c.t.Fatalf("after %s: %d replicas on %v, counted %d", what, count[id], id, c.s.ranges.placed[id])
		}
	}
	if len(c.s.ranges.placed) != len(count) {
		c.t.Fatalf("after %s: counted %v, and there are %v", what, c.s.ranges.placed, count)
	}
	c.last = c.s.list
}

func onMeta(s *State, id shard.NodeID) bool {
	_, on := s.group.Desc.ReplicaOn(id)
	return on
}

func memberOf(ms []shard.Member, id shard.NodeID) (shard.Member, bool) {
	if i := shard.FindMember(ms, id); i >= 0 {
		return ms[i], true
	}
	return shard.Member{}, false
}

// restart writes the state and reads it.
func (c *cast) restart() {
	raw, err := c.s.Image().Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	back, err := Restore(raw)
	if err != nil {
		c.t.Fatal(err)
	}
	again, err := back.Image().Marshal()
	if err != nil || !bytes.Equal(raw, again) {
		c.t.Fatalf("the state is not what was written: %v", err)
	}
	c.s = back
	c.last = c.s.list
}

// TestMembers: whatever is asked, in any order, somebody is there to take replicas, nobody is forgotten on whom something is placed, no
// id comes back, and the counts of replicas are right.
func TestMembers(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	seen := map[string]int{}
	for seed := range uint64(40) {
		c := newCast(t, seed)
		for i := range 300 {
			c.step()
			if i%50 == 49 {
				c.restart()
			}
		}
		for what, n := range c.seen {
			seen[what] += n
		}
	}
	for _, what := range []string{"add", "remove", "update", "promote", "drain", "forget", "publish"} {
		if seen[what] < 50 || seen[what+" done"] < 20 {
			t.Errorf("%s: %d refused, %d done", what, seen[what], seen[what+" done"])
		}
	}
}

// TestMemberMutants: the rules of members taken out one by one, each must be noticed.
func TestMemberMutants(t *testing.T) {
	mutatetest.Each(t, mutate.MemberNames(), time.Minute, func(out string) string { return fmt.Sprintf("noticed: %.200s", out) }, "-test.run=^TestMembers$")
}

// TestMembersRefused: each refusal is etcd's, and says more beside it.
func TestMembersRefused(t *testing.T) {
	three := func() *cast {
		c := newCast(t, 1)
		c.s.list = []shard.Member{}
		for id := range shard.NodeID(3) {
			c.s.list = append(c.s.list, shard.Member{ID: id + 1, Name: fmt.Sprint("n", id+1), PeerURLs: []string{fmt.Sprintf("http://n%d:2380", id+1)}})
		}
		return c
	}
	add := func(id uint64, strict, learner bool, urls ...string) *pb.MetaEntry {
		return &pb.MetaEntry{AddMember: &pb.MetaAddMember{Member: &pb.Member{Id: id, PeerUrls: urls, Learner: learner}, Strict: strict, LearnersMax: 1}}
	}
	remove := func(id uint64, strict bool) *pb.MetaEntry {
		return &pb.MetaEntry{RemoveMember: &pb.MetaRemoveMember{Id: id, Strict: strict}}
	}
	promote := func(id uint64) *pb.MetaEntry {
		return &pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: id, Strict: true}}
	}
	update := func(id uint64, urls ...string) *pb.MetaEntry {
		return &pb.MetaEntry{UpdateMember: &pb.MetaUpdateMember{Id: id, PeerUrls: urls}}
	}
	drain := func(id uint64) *pb.MetaEntry {
		return &pb.MetaEntry{DrainMember: &pb.MetaDrainMember{Id: id, Drain: true}}
	}
	for _, tc := range []struct {
		what  string
		first []*pb.MetaEntry // accepted
		e     *pb.MetaEntry
		is    error
		says  string
	}{
		{"add with a URL in use", nil, add(9, true, false, "http://n2:2380"), shard.ErrPeerURLExists, "n2"},
		{"add without a URL", nil, add(9, true, false), shard.ErrMemberBadURLs, "no peer URL"},
		{"add with a path", nil, add(9, true, false, "http://n9:2380/x"), shard.ErrMemberBadURLs, "path"},
		{"add without a port", nil, add(9, true, false, "http://n9"), shard.ErrMemberBadURLs, "host:port"},
		{"add with another scheme", nil, add(9, true, false, "ftp://n9:2380"), shard.ErrMemberBadURLs, "scheme"},
		{"add an id in use", nil, add(2, true, false, "http://n9:2380"), shard.ErrMemberExists, "2"},
		{"add two learners", []*pb.MetaEntry{add(9, true, true, "http://n9:2380")}, add(10, true, true, "http://n10:2380"), shard.ErrTooManyLearners, "max-learners"},
		{"add one, and others have not started", []*pb.MetaEntry{add(9, true, false, "http://n9:2380"), add(10, true, false, "http://n10:2380")},
			add(11, true, false, "http://n11:2380"), shard.ErrNotEnoughStarted, "3 would have started"},
		{"add a removed id", []*pb.MetaEntry{add(9, true, false, "http://n9:2380"), remove(9, true)}, add(9, true, false, "http://n9:2380"), shard.ErrMemberNotFound, "for good"},
		{"remove one that is not there", nil, remove(9, true), shard.ErrMemberNotFound, "9"},
		{"remove one twice", []*pb.MetaEntry{remove(3, true)}, remove(3, true), shard.ErrMemberNotFound, "3"},
		{"remove one, and the others have not started", []*pb.MetaEntry{add(9, true, false, "http://n9:2380"), remove(3, false)},
			remove(2, true), shard.ErrNotEnoughStarted, "2 must"},
		{"remove the last", []*pb.MetaEntry{remove(3, true), remove(2, true)}, remove(1, false), shard.ErrNotEnoughStarted, "add another one first"},
		{"remove the last that takes replicas", []*pb.MetaEntry{drain(1), remove(2, true)}, remove(3, false), shard.ErrInvalid, "undrain"},
		{"update one that is not there", nil, update(9, "http://n9:2380"), shard.ErrMemberNotFound, "9"},
		{"update to a URL in use", nil, update(1, "http://n2:2380"), shard.ErrPeerURLExists, "n2"},
		{"promote a voter", nil, promote(1), shard.ErrNotLearner, "voting"},
		{"promote one that is not there", nil, promote(9), shard.ErrMemberNotFound, "9"},
		{"drain everybody", []*pb.MetaEntry{drain(1), drain(2)}, drain(3), shard.ErrInvalid, "undrain"},
		{"drain one that is leaving", []*pb.MetaEntry{remove(3, true)}, drain(3), shard.ErrMemberNotFound, "3"},
		{"publish for one that is not there", nil, &pb.MetaEntry{MemberAttrs: &pb.MetaMemberAttrs{Id: 9, Name: "x"}}, shard.ErrInvalid, "no member"},
	} {
		c := three()
		for _, e := range tc.first {
			if res := c.apply(e); res.Err != nil {
				t.Fatalf("%s: before it: %v", tc.what, res.Err)
			}
		}
		if res := c.apply(tc.e); !errors.Is(res.Err, tc.is) || !strings.Contains(res.Err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.what, res.Err)
		}
		c.s.version = clusterversion.First
		if res := c.apply(tc.e); tc.e.MemberAttrs == nil && !errors.Is(res.Err, shard.ErrUnimplemented) {
			t.Errorf("%s, in a cluster of an old version: %v", tc.what, res.Err)
		}
	}
}

// TestMemberAddedDoesNotHoldBack: who was added and has not started says nothing about the formats; the first members do.
func TestMemberAddedDoesNotHoldBack(t *testing.T) {
	for _, tc := range []struct {
		ms   []shard.Member
		want clusterversion.Version
	}{
		{nil, 1},
		{[]shard.Member{{ID: 1, Name: "n1"}}, 1},
		{[]shard.Member{{ID: 1, Name: "n1", Formats: 2}, {ID: 2, Name: "n2"}}, 1},
		{[]shard.Member{{ID: 1, Name: "n1", Formats: 2}, {ID: 2}}, 2},
		{[]shard.Member{{ID: 1, Name: "n1", Formats: 2}, {ID: 2, ClientURLs: []string{"http://c"}}}, 1},
	} {
		if got := Announced(tc.ms); got != tc.want {
			t.Errorf("%v announce %d", tc.ms, got)
		}
	}
}

// TestRemovedIsBounded: the oldest are forgotten.
func TestRemovedIsBounded(t *testing.T) {
	c := newCast(t, 1)
	for id := range uint64(RemovedMax + 5) {
		for _, e := range []*pb.MetaEntry{
			{AddMember: &pb.MetaAddMember{Member: &pb.Member{Id: id + 100, PeerUrls: []string{"http://x:1"}}}},
			{RemoveMember: &pb.MetaRemoveMember{Id: id + 100}},
		} {
			if res := c.apply(e); res.Err != nil {
				t.Fatal(res.Err)
			}
		}
	}
	if n := len(c.s.removed); n != RemovedMax || c.s.WasRemoved(104) || !c.s.WasRemoved(105) || !c.s.WasRemoved(RemovedMax+104) {
		t.Errorf("%d are remembered, from %v on", n, c.s.removed[0])
	}
}

// TestMemberIDs: the ids are etcd's.
func TestMemberIDs(t *testing.T) {
	req := &pb.ChangeMemberRequest{Change: uint32(shard.MemberAdd), PeerUrls: []string{"http://b:2380", "http://a:2380"}, Strict: true, LearnersMax: 1}
	at := time.Unix(1700000000, 5)
	s := newCast(t, 1).s
	e, err := ChangeOf(s, req, at)
	if err != nil {
		t.Fatal(err)
	}
	// sha1("http://a:2380http://b:23801700000000")
	if id := shard.NodeID(e.AddMember.Member.Id); id.String() != "6466ba996ba1abbc" || fmt.Sprint(e.AddMember.Member.PeerUrls) != "[http://a:2380 http://b:2380]" {
		t.Errorf("%v %v", id, e.AddMember.Member.PeerUrls)
	}
	s.removed = append(s.removed, shard.NodeID(e.AddMember.Member.Id))
	if again, err := ChangeOf(s, req, at); err != nil || shard.NodeID(again.AddMember.Member.Id) != shard.NewMemberID(req.PeerUrls, "", at.Add(time.Second)) {
		t.Errorf("in the same second: %v, %v", again, err)
	}
	if _, err := ChangeOf(s, &pb.ChangeMemberRequest{Change: 77}, at); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("an unknown change: %v", err)
	}
}
