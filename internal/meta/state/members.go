package state

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// RemovedMax is how many members are remembered that were forgotten. Ids are not given out again anyhow, for they depend on the time;
// who has one that is neither a member's nor remembered does not belong to the cluster either.
const RemovedMax = 1000

// members are who belongs to the cluster.
type members struct {
	list    []shard.Member // by id, those too that are leaving; what is in the slice is never written
	removed []shard.NodeID // the last that were forgotten, in that order
}

// first takes the members that a cluster is made of.
func (ms *members) first(list []shard.Member) {
	slices.SortFunc(list, func(a, b shard.Member) int { return cmp.Compare(a.ID, b.ID) })
	*ms = members{list: list}
}

// Members returns the members by id, those too that are leaving. The slice is shared and never written.
func (ms *members) Members() []shard.Member { return ms.list }

// Member returns one of them.
func (ms *members) Member(id shard.NodeID) (shard.Member, bool) {
	if i := shard.FindMember(ms.list, id); i >= 0 {
		return ms.list[i], true
	}
	return shard.Member{}, false
}

// WasRemoved reports whether a member is remembered that was forgotten.
func (ms *members) WasRemoved(id shard.NodeID) bool { return slices.Contains(ms.removed, id) }

// Placed is how many replicas are placed on a node, that of the meta group too, and those that an op under way is to bring there.
func (s *State) Placed(node shard.NodeID) int {
	n := s.ranges.placed[node]
	for i := range s.open {
		if s.open[i].To.Node == node && !mutate.On(mutate.MembersForgetComing) {
			n++
		}
	}
	if _, meta := s.group.Desc.ReplicaOn(node); meta {
		n++
	}
	return n
}

// apply applies an entry that changes the members; known is false for any other one.
func (ms *members) apply(s *State, e *pb.MetaEntry) (res Result, known bool) {
	if err := ms.EnoughStarted(e); err != nil && s.version.Active(clusterversion.Members) {
		return Result{Err: err}, true
	}
	switch {
	case e.MemberAttrs != nil:
		res.Err = ms.publish(s, e.MemberAttrs)
	case e.AddMember != nil:
		res.Member = shard.NodeID(e.AddMember.GetMember().GetId())
		res.Err = ms.add(s, e.AddMember)
	case e.RemoveMember != nil:
		res.Member = shard.NodeID(e.RemoveMember.Id)
		res.Err = ms.remove(s, res.Member)
	case e.UpdateMember != nil:
		res.Member = shard.NodeID(e.UpdateMember.Id)
		res.Err = ms.update(s, res.Member, e.UpdateMember.PeerUrls)
	case e.PromoteMember != nil:
		res.Member = shard.NodeID(e.PromoteMember.Id)
		res.Err = ms.promote(s, res.Member)
	case e.DrainMember != nil:
		res.Member = shard.NodeID(e.DrainMember.Id)
		res.Err = ms.drain(s, res.Member, e.DrainMember.Drain)
	case e.ForgetMember != nil:
		res.Member = shard.NodeID(e.ForgetMember.Id)
		res.Err = ms.forget(s, res.Member)
	default:
		return res, false
	}
	return res, true
}

// set replaces members, and tells of it with the next version of the map.
func (ms *members) set(s *State, list []shard.Member) {
	ms.list = list
	s.ranges.record(s.ranges.now, change{members: true})
}

// edit changes one member, and tells of it.
func (ms *members) edit(s *State, i int, change func(m *shard.Member)) {
	list := slices.Clone(ms.list)
	change(&list[i])
	ms.set(s, list)
}

// present finds a member that was not removed.
func (ms *members) present(s *State, id shard.NodeID) (int, error) {
	if !s.version.Active(clusterversion.Members) {
		return -1, tooOld(s, clusterversion.Members)
	}
	i := shard.FindMember(ms.list, id)
	if i < 0 || ms.list[i].State == shard.MemberLeaving {
		return -1, fmt.Errorf("%w: %v does not belong to the cluster", shard.ErrMemberNotFound, id)
	}
	return i, nil
}

// publish takes in what a member tells of itself.
func (ms *members) publish(s *State, a *pb.MetaMemberAttrs) error {
	i := shard.FindMember(ms.list, shard.NodeID(a.Id))
	if i < 0 {
		return fmt.Errorf("%w: %v is no member of this cluster", shard.ErrInvalid, shard.NodeID(a.Id))
	}
	if err := clusterversion.Version(a.Formats).Join(s.version); err != nil {
		return fmt.Errorf("%w: %v: %w", shard.ErrInvalid, shard.NodeID(a.Id), err)
	}
	m := ms.list[i]
	if m.Name == a.Name && slices.Equal(m.ClientURLs, a.ClientUrls) && m.Formats == a.Formats {
		return nil
	}
	ms.edit(s, i, func(m *shard.Member) { m.Name, m.ClientURLs, m.Formats = a.Name, a.ClientUrls, a.Formats })
	return nil
}

// counted are the voting members that are to stay, and how many of them have started.
func (ms *members) counted(without shard.NodeID) (voting, started int) {
	for _, m := range ms.list {
		if m.Learner || m.State == shard.MemberLeaving || m.ID == without {
			continue
		}
		voting++
		if m.Name != "" { // as etcd sees it: the first members count from the beginning
			started++
		}
	}
	return voting, started
}

// needStarted refuses where fewer than a majority of so many voting members have started.
func needStarted(voting, started int, strict bool) error {
	if quorum := voting/2 + 1; strict && started < quorum && !mutate.On(mutate.MembersUnstarted) {
		return fmt.Errorf("%w: of %d voting members %d would have started, and %d must", shard.ErrNotEnoughStarted, voting, started, quorum)
	}
	return nil
}

// EnoughStarted refuses a change that asks for it where fewer than a majority of the voting members would have started. Apply does the same.
func (ms *members) EnoughStarted(e *pb.MetaEntry) error {
	voting, started := ms.counted(0)
	switch {
	case e.AddMember != nil && !e.AddMember.GetMember().GetLearner():
		if voting == 1 && started == 1 { // the way back for a cluster whose other members are lost
			return nil
		}
		return needStarted(voting+1, started, e.AddMember.Strict)
	case e.RemoveMember != nil:
		if i := shard.FindMember(ms.list, shard.NodeID(e.RemoveMember.Id)); i >= 0 && ms.list[i].Learner {
			return nil
		}
		voting, started = ms.counted(shard.NodeID(e.RemoveMember.Id))
		return needStarted(voting, started, e.RemoveMember.Strict)
	case e.PromoteMember != nil:
		return needStarted(voting+1, started+1, e.PromoteMember.Strict)
	}
	return nil
}

// add lets a node belong to the cluster.
func (ms *members) add(s *State, a *pb.MetaAddMember) error {
	m := pb.ToMember(a.Member)
	m.State, m.Left, m.Formats, m.ClientURLs, m.Name = shard.MemberPresent, 0, 0, nil, ""
	if !s.version.Active(clusterversion.Members) {
		return tooOld(s, clusterversion.Members)
	}
	i, found := slices.BinarySearchFunc(ms.list, m.ID, func(o shard.Member, id shard.NodeID) int { return cmp.Compare(o.ID, id) })
	switch {
	case m.ID == 0 || ms.WasRemoved(m.ID) && !mutate.On(mutate.MembersAgain):
		return fmt.Errorf("%w: the id %v was removed for good", shard.ErrMemberNotFound, m.ID)
	case found:
		return fmt.Errorf("%w: %v", shard.ErrMemberExists, m.ID)
	case len(ms.list) >= shard.MembersMax:
		return fmt.Errorf("%w: the cluster has %d members, and there may not be more", shard.ErrInvalid, len(ms.list))
	}
	if err := ms.freeURLs(m.ID, m.PeerURLs); err != nil {
		return err
	}
	if learners := ms.learners(); m.Learner && a.LearnersMax > 0 && learners >= int(a.LearnersMax) {
		return fmt.Errorf("%w: there are %d, and --max-learners allows %d", shard.ErrTooManyLearners, learners, a.LearnersMax)
	}
	ms.set(s, slices.Insert(slices.Clone(ms.list), i, m))
	return nil
}

func (ms *members) learners() (n int) {
	for _, m := range shard.PresentMembers(ms.list) {
		if m.Learner {
			n++
		}
	}
	return n
}

// freeURLs refuses peer URLs that are none, or that another member has. One that is leaving does not count: whoever takes its place may
// well stand at its address.
func (ms *members) freeURLs(id shard.NodeID, urls []string) error {
	if err := CheckPeerURLs(urls); err != nil {
		return err
	}
	for _, m := range shard.PresentMembers(ms.list) {
		if m.ID == id || mutate.On(mutate.MembersSameURL) {
			continue
		}
		for _, u := range urls {
			if slices.Contains(m.PeerURLs, u) {
				return fmt.Errorf("%w: %s is %v's", shard.ErrPeerURLExists, u, m.ID)
			}
		}
	}
	return nil
}

// CheckPeerURLs refuses what etcd does not take for peer URLs: shard.ErrMemberBadURLs.
func CheckPeerURLs(urls []string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", shard.ErrMemberBadURLs, fmt.Sprintf(format, args...))
	}
	if len(urls) == 0 {
		return bad("no peer URL is given")
	}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return bad("%v", err)
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return bad(`URL address does not have the form "host:port": %s`, text)
			}
			if u.Path != "" {
				return bad("URL must not contain a path: %s", text)
			}
		case "unix", "unixs":
		default:
			return bad("URL scheme must be http, https, unix, or unixs: %s", text)
		}
	}
	return nil
}

// remove takes a member from what clients see. On which nothing is placed, it is forgotten at once.
func (ms *members) remove(s *State, id shard.NodeID) error {
	i, err := ms.present(s, id)
	if err != nil {
		return err
	}
	if !ms.list[i].Learner {
		if voting, _ := ms.counted(id); voting == 0 {
			return fmt.Errorf("%w: %v is the last voting member: add another one first", shard.ErrNotEnoughStarted, id)
		}
		if err := ms.needHeir(id); err != nil {
			return err
		}
	}
	at, _ := s.Position()
	ms.edit(s, i, func(m *shard.Member) { m.State, m.Left = shard.MemberLeaving, at })
	if s.Placed(id) == 0 {
		return ms.forget(s, id)
	}
	return nil
}

// forget ends a member that was removed, once nothing is placed on it: till then others have to find it.
func (ms *members) forget(s *State, id shard.NodeID) error {
	i := shard.FindMember(ms.list, id)
	placed := s.Placed(id)
	switch {
	case i < 0 || ms.list[i].State != shard.MemberLeaving && !mutate.On(mutate.MembersForgetPresent):
		return fmt.Errorf("%w: %v is no member that was removed", shard.ErrInvalid, id)
	case placed > 0 && !mutate.On(mutate.MembersForgetEarly):
		return fmt.Errorf("%w: %d replicas are placed on %v", shard.ErrInvalid, placed, id)
	}
	ms.removed = append(slices.Clone(ms.removed[max(len(ms.removed)+1-RemovedMax, 0):]), id)
	ms.set(s, slices.Delete(slices.Clone(ms.list), i, i+1))
	s.forgetAlarms(s.version, id)
	return nil
}

// Forgettable are the members that were removed and on which nothing is placed any more.
func (s *State) Forgettable() (ids []shard.NodeID) {
	for _, m := range s.list {
		if m.State == shard.MemberLeaving && s.Placed(m.ID) == 0 {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// update gives a member other peer URLs.
func (ms *members) update(s *State, id shard.NodeID, urls []string) error {
	i, err := ms.present(s, id)
	if err == nil {
		err = ms.freeURLs(id, urls)
	}
	if err != nil || slices.Equal(ms.list[i].PeerURLs, urls) {
		return err
	}
	ms.edit(s, i, func(m *shard.Member) { m.PeerURLs = urls })
	return nil
}

// promote makes a voting member of a learner. Whether it is in sync the leader has seen.
func (ms *members) promote(s *State, id shard.NodeID) error {
	i, err := ms.present(s, id)
	if err != nil {
		return err
	}
	if !ms.list[i].Learner {
		return fmt.Errorf("%w: %v is a voting member", shard.ErrNotLearner, id)
	}
	ms.edit(s, i, func(m *shard.Member) { m.Learner = false })
	return nil
}

// drain marks a member as one that is to hold nothing, or takes that back. What empties it is the planner.
func (ms *members) drain(s *State, id shard.NodeID, drain bool) error {
	i, err := ms.present(s, id)
	if err != nil {
		return err
	}
	state := shard.MemberPresent
	if drain {
		state = shard.MemberDraining
	}
	if ms.list[i].State == state {
		return nil
	}
	if drain {
		if err := ms.needHeir(id); err != nil {
			return err
		}
	}
	ms.edit(s, i, func(m *shard.Member) { m.State = state })
	return nil
}

// needHeir refuses where nobody would be left to take what is on a member.
func (ms *members) needHeir(id shard.NodeID) error {
	takes := func(m shard.Member) bool { return m.ID != id && !m.Learner && m.State == shard.MemberPresent }
	if slices.ContainsFunc(ms.list, takes) || mutate.On(mutate.MembersDrainAll) {
		return nil
	}
	return fmt.Errorf("%w: no other voting member takes replicas: add one, or undrain one (POST /pontoon/v1/nodes/NODE/undrain)", shard.ErrInvalid)
}

// isNew reports whether a member was added and has not started: nothing is known of its formats, and it is refused if it does not speak
// the cluster's.
func isNew(m *shard.Member) bool { return m.Name == "" && !m.HasStarted() }

// Announced is the lowest version of the formats that one of the members announces: who has said nothing
// speaks the first. Those that have yet to start for the first time do not count.
func Announced(members []shard.Member) clusterversion.Version {
	lowest := clusterversion.Version(0)
	for i := range members {
		if v := clusterversion.Version(members[i].Formats).OrFirst(); !isNew(&members[i]) && (lowest == 0 || v < lowest) {
			lowest = v
		}
	}
	return lowest.OrFirst()
}

// newID is an id that no member has or had: as etcd's, of the time, or of the next second in which there is one.
func (ms *members) newID(urls []string, now time.Time) shard.NodeID {
	for ; ; now = now.Add(time.Second) {
		id := shard.NewMemberID(urls, "", now)
		if shard.FindMember(ms.list, id) < 0 && !ms.WasRemoved(id) {
			return id
		}
	}
}

// ChangeOf is what is asked for as an entry of the log. now is the leader's time, from which the id of a member follows that is added.
// Peer URLs that are none are shard.ErrMemberBadURLs.
func ChangeOf(s *State, req *pb.ChangeMemberRequest, now time.Time) (*pb.MetaEntry, error) {
	switch shard.MemberChange(req.Change) {
	case shard.MemberAdd:
		if err := CheckPeerURLs(req.PeerUrls); err != nil {
			return nil, err
		}
		m := shard.Member{ID: s.newID(req.PeerUrls, now), PeerURLs: slices.Sorted(slices.Values(req.PeerUrls)), Learner: req.Learner}
		return &pb.MetaEntry{AddMember: &pb.MetaAddMember{Member: pb.FromMember(m), Strict: req.Strict, LearnersMax: req.LearnersMax}}, nil
	case shard.MemberRemove:
		return &pb.MetaEntry{RemoveMember: &pb.MetaRemoveMember{Id: req.Id, Strict: req.Strict}}, nil
	case shard.MemberUpdate:
		return &pb.MetaEntry{UpdateMember: &pb.MetaUpdateMember{Id: req.Id, PeerUrls: req.PeerUrls}}, CheckPeerURLs(req.PeerUrls)
	case shard.MemberPromote:
		return &pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: req.Id, Strict: req.Strict}}, nil
	case shard.MemberDrain, shard.MemberUndrain:
		return &pb.MetaEntry{DrainMember: &pb.MetaDrainMember{Id: req.Id, Drain: shard.MemberChange(req.Change) == shard.MemberDrain}}, nil
	}
	return nil, fmt.Errorf("%w: change %d of the members is not known here", shard.ErrInvalid, req.Change)
}
