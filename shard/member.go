package shard

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MembersMax is how many members a cluster may have.
const MembersMax = 1000

// MemberState is what is being done with a member. The numbers are those of the log.
type MemberState uint8

// The states. MemberDraining: it belongs to the cluster, and is to hold neither leaders nor replicas. MemberLeaving: it was removed, and
// clients do not see it any more; replicas may still be on it. When there is none it is forgotten.
const (
	MemberPresent MemberState = iota
	MemberDraining
	MemberLeaving
)

// String names the state.
func (s MemberState) String() string {
	switch s {
	case MemberPresent:
		return "present"
	case MemberDraining:
		return "draining"
	case MemberLeaving:
		return "leaving"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// MemberChange is a change of who belongs to the cluster. The numbers are those of the call.
type MemberChange uint32

// The changes.
const (
	MemberAdd MemberChange = iota + 1
	MemberRemove
	MemberUpdate
	MemberPromote
	MemberDrain
	MemberUndrain
)

// Member is one node of the cluster as clients see it: an etcd member. Values are immutable
// once shared.
type Member struct {
	ID         NodeID
	Name       string // empty from when it was added until it has started
	PeerURLs   []string
	ClientURLs []string // empty until the member has published them
	Learner    bool
	Formats    uint32      // the newest version of the formats that it announces; 0: the first
	Locality   string      // failure domain, such as "zone=a,rack=3"; empty when none is stated
	State      MemberState `json:",omitempty"` // files from before there were any say nothing
	// Left is where in the meta group's log it was removed, 0 before: whoever was removed first may have died first.
	Left uint64 `json:",omitempty"`
}

// HasStarted reports whether the member has ever told of itself: it may have voted, and acknowledged writes.
func (m *Member) HasStarted() bool { return len(m.ClientURLs) > 0 || m.Formats > 0 }

// Equal reports whether both say the same.
func (m *Member) Equal(o *Member) bool {
	return m.ID == o.ID && m.Name == o.Name && slices.Equal(m.PeerURLs, o.PeerURLs) && slices.Equal(m.ClientURLs, o.ClientURLs) &&
		m.Learner == o.Learner && m.Formats == o.Formats && m.Locality == o.Locality && m.State == o.State && m.Left == o.Left
}

// FindMember returns the place of a member in a list; -1 if it is not there.
func FindMember(ms []Member, id NodeID) int {
	return slices.IndexFunc(ms, func(m Member) bool { return m.ID == id })
}

// PresentMembers are those that have not been removed. The slice is ms itself where that is all.
func PresentMembers(ms []Member) []Member {
	leaving := func(m Member) bool { return m.State == MemberLeaving }
	if !slices.ContainsFunc(ms, leaving) {
		return ms
	}
	return slices.DeleteFunc(slices.Clone(ms), leaving)
}

// NewMemberID derives a member's id as etcd does, from its peer URLs and the cluster's token; or, where it is added to a cluster, from
// them and the time.
func NewMemberID(peerURLs []string, token string, at time.Time) NodeID {
	text := strings.Join(slices.Sorted(slices.Values(peerURLs)), "") + token
	if !at.IsZero() {
		text += strconv.FormatInt(at.Unix(), 10)
	}
	sum := sha1.Sum([]byte(text))
	return NodeID(binary.BigEndian.Uint64(sum[:8]))
}

// Why a change of the members is refused, by etcd's rules. None was applied. What clients of etcd see is etcd's text; what is wrapped
// around it is for people who look closer.
var (
	// ErrMemberNotFound is returned for a member that does not belong to the cluster (any more).
	ErrMemberNotFound = errors.New("member not found")
	// ErrMemberExists is returned where an id is in use.
	ErrMemberExists = errors.New("member ID already exist")
	// ErrPeerURLExists is returned where another member has one of the peer URLs.
	ErrPeerURLExists = errors.New("Peer URLs already exists")
	// ErrMemberBadURLs is returned for peer URLs that are none.
	ErrMemberBadURLs = errors.New("given member URLs are invalid")
	// ErrNotEnoughStarted is returned where fewer than a majority of the voting members would have started.
	ErrNotEnoughStarted = errors.New("re-configuration failed due to not enough started members")
	// ErrUnhealthy is returned where too few members are, or have been for long enough, within reach.
	ErrUnhealthy = errors.New("unhealthy cluster")
	// ErrNotLearner is returned where a voting member is to be promoted.
	ErrNotLearner = errors.New("can only promote a learner member")
	// ErrLearnerNotReady is returned where a learner is to be promoted that lags behind, or has not started.
	ErrLearnerNotReady = errors.New("can only promote a learner member which is in sync with leader")
	// ErrTooManyLearners is returned where there would be more learners than there may be.
	ErrTooManyLearners = errors.New("too many learner members in cluster")
)
