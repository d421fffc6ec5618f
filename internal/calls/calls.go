package calls

import (
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Kind is what a request asks for.
type Kind uint8

// The calls, in the order of their fields in pb.PeerRequest. None is a request that this version does not know.
const (
	None Kind = iota
	Write
	Fence
	Read
	History
	Hash
	LeaseKeys
	RangeStatus
	Close
	ClosedPush
	CompactRange
	Prepare
	Resolve
	Inquire
	Transfer
	Change
	PrepareSplit
	PrepareMerge
	Oracle
	Descriptors
	LeaseGrant
	LeaseRevoke
	LeaseKeepAlive
	LeaseInfo
	LeaseList
	LeaseAttach
	Compact
	MemberAttrs
	Alarm
	NodeStatus
	MetaStatus
	BeginOp
	Ops
	ChangeMember
	Members
	Plan
	Unstick
	Borders
	Gateways
	Settings
	SettingsPush
	Pin
	PinPage
	PinKeep
	Distrust
	AuthChange
	Kinds // how many there are
)

// Place is who serves a call.
type Place uint8

// The places. AtRange: the replica of the range that the request names; AtMeta: this node's replica of the meta group;
// AtNode: the node itself.
const (
	Nowhere Place = iota
	AtRange
	AtMeta
	AtNode
)

// Rule is whether a client, of which a node believes nothing, may make a call.
type Rule uint8

// The rules. Undecided is for no row of the table. NodesOnly: it is refused. Vetted: what of it was checked is
// made anew, and that is served.
const (
	Undecided Rule = iota
	NodesOnly
	Vetted
)

// Call is a row of the table.
type Call struct {
	// Name is that of the request's field.
	Name string
	// At is who serves it.
	At Place
	// Client is whether a client may make it.
	Client Rule
	// Slow calls read much, or in many places: they are served on goroutines of their own, but for the read of a single
	// key, so that the next call of the same peer does not wait.
	Slow bool
	// Reads calls change nothing: one whose answer is lost may be made again, or refused for good.
	Reads bool
}

// Table has every call.
var Table = [Kinds]Call{
	None: {Name: "none", Client: NodesOnly},

	Write:        {Name: "write", At: AtRange, Client: Vetted},
	Fence:        {Name: "fence", At: AtRange, Client: Vetted, Reads: true},
	Read:         {Name: "read", At: AtRange, Client: Vetted, Slow: true, Reads: true},
	History:      {Name: "history", At: AtRange, Client: NodesOnly, Slow: true, Reads: true},
	Hash:         {Name: "hash", At: AtRange, Client: NodesOnly, Slow: true, Reads: true},
	LeaseKeys:    {Name: "lease_keys", At: AtRange, Client: NodesOnly, Slow: true, Reads: true},
	RangeStatus:  {Name: "range_status", At: AtRange, Client: NodesOnly, Slow: true, Reads: true},
	CompactRange: {Name: "compact_range", At: AtRange, Client: NodesOnly, Slow: true},
	Prepare:      {Name: "prepare", At: AtRange, Client: NodesOnly},
	Resolve:      {Name: "resolve", At: AtRange, Client: NodesOnly},
	Inquire:      {Name: "inquire", At: AtRange, Client: NodesOnly}, // may decide what it asks about

	Transfer:     {Name: "transfer", At: AtRange, Client: Vetted},
	Change:       {Name: "change", At: AtRange, Client: NodesOnly}, // clients ask the meta group
	PrepareSplit: {Name: "prepare_split", At: AtRange, Client: NodesOnly},
	PrepareMerge: {Name: "prepare_merge", At: AtRange, Client: NodesOnly},

	Close:      {Name: "close", At: AtNode, Client: NodesOnly},
	ClosedPush: {Name: "closed_push", At: AtNode, Client: NodesOnly},
	NodeStatus: {Name: "node_status", At: AtNode, Client: NodesOnly, Slow: true, Reads: true},

	Pin:     {Name: "pin", At: AtNode, Client: NodesOnly, Slow: true},
	PinPage: {Name: "pin_page", At: AtNode, Client: NodesOnly, Slow: true, Reads: true},
	PinKeep: {Name: "pin_keep", At: AtNode, Client: NodesOnly},

	Oracle:         {Name: "oracle", At: AtMeta, Client: Vetted}, // to allocate is for nodes
	Descriptors:    {Name: "descriptors", At: AtMeta, Client: Vetted, Reads: true},
	LeaseGrant:     {Name: "lease_grant", At: AtMeta, Client: NodesOnly},
	LeaseRevoke:    {Name: "lease_revoke", At: AtMeta, Client: NodesOnly},
	LeaseKeepAlive: {Name: "lease_keep_alive", At: AtMeta, Client: NodesOnly},
	LeaseInfo:      {Name: "lease_info", At: AtMeta, Client: NodesOnly, Reads: true},
	LeaseList:      {Name: "lease_list", At: AtMeta, Client: NodesOnly, Reads: true},
	LeaseAttach:    {Name: "lease_attach", At: AtMeta, Client: NodesOnly},
	Compact:        {Name: "compact", At: AtMeta, Client: Vetted},
	MemberAttrs:    {Name: "member_attrs", At: AtMeta, Client: NodesOnly},
	Alarm:          {Name: "alarm", At: AtMeta, Client: NodesOnly},
	MetaStatus:     {Name: "meta_status", At: AtMeta, Client: NodesOnly, Reads: true},
	BeginOp:        {Name: "begin_op", At: AtMeta, Client: Vetted},
	Ops:            {Name: "ops", At: AtMeta, Client: Vetted, Reads: true},
	ChangeMember:   {Name: "change_member", At: AtMeta, Client: NodesOnly},
	Members:        {Name: "members", At: AtMeta, Client: NodesOnly, Reads: true},
	Plan:           {Name: "plan", At: AtMeta, Client: Vetted, Reads: true},
	Unstick:        {Name: "unstick", At: AtMeta, Client: Vetted},
	Borders:        {Name: "borders", At: AtMeta, Client: Vetted, Reads: true},
	Gateways:       {Name: "gateways", At: AtMeta, Client: NodesOnly, Reads: true},
	Settings:       {Name: "settings", At: AtMeta, Client: NodesOnly, Reads: true},
	SettingsPush:   {Name: "settings_push", At: AtNode, Client: NodesOnly, Reads: true},
	Distrust:       {Name: "distrust", At: AtNode, Client: NodesOnly},
	AuthChange:     {Name: "auth_change", At: AtMeta, Client: NodesOnly},
}

// Of returns what a request asks for, and the range that it names where a range serves it. A request that has several
// bodies, as no node sends one, is the first of them.
func Of(req *pb.PeerRequest) (Kind, shard.RangeID) {
	switch {
	case req.Write != nil:
		return Write, shard.RangeID(req.Write.RangeId)
	case req.Fence != nil:
		return Fence, shard.RangeID(req.Fence.RangeId)
	case req.Read != nil:
		return Read, shard.RangeID(req.Read.RangeId)
	case req.Oracle != nil:
		return Oracle, 0
	case req.History != nil:
		return History, shard.RangeID(req.History.RangeId)
	case req.Hash != nil:
		return Hash, shard.RangeID(req.Hash.RangeId)
	case req.LeaseKeys != nil:
		return LeaseKeys, shard.RangeID(req.LeaseKeys.RangeId)
	case req.RangeStatus != nil:
		return RangeStatus, shard.RangeID(req.RangeStatus.RangeId)
	case req.CompactRange != nil:
		return CompactRange, shard.RangeID(req.CompactRange.RangeId)
	case req.Prepare != nil:
		return Prepare, shard.RangeID(req.Prepare.RangeId)
	case req.Resolve != nil:
		return Resolve, shard.RangeID(req.Resolve.RangeId)
	case req.Inquire != nil:
		return Inquire, shard.RangeID(req.Inquire.RangeId)
	case req.Transfer != nil:
		return Transfer, shard.RangeID(req.Transfer.RangeId)
	case req.Change != nil:
		return Change, shard.RangeID(req.Change.RangeId)
	case req.PrepareSplit != nil:
		return PrepareSplit, shard.RangeID(req.PrepareSplit.RangeId)
	case req.PrepareMerge != nil:
		return PrepareMerge, shard.RangeID(req.PrepareMerge.RangeId)
	}
	return other(req), 0
}

// other are the calls that no range serves.
func other(req *pb.PeerRequest) Kind {
	switch {
	case req.Close != nil:
		return Close
	case req.ClosedPush != nil:
		return ClosedPush
	case req.NodeStatus != nil:
		return NodeStatus
	case req.Descriptors != nil:
		return Descriptors
	case req.LeaseGrant != nil:
		return LeaseGrant
	case req.LeaseRevoke != nil:
		return LeaseRevoke
	case req.LeaseKeepAlive != nil:
		return LeaseKeepAlive
	case req.LeaseInfo != nil:
		return LeaseInfo
	case req.LeaseList != nil:
		return LeaseList
	case req.LeaseAttach != nil:
		return LeaseAttach
	case req.Compact != nil:
		return Compact
	case req.MemberAttrs != nil:
		return MemberAttrs
	case req.Alarm != nil:
		return Alarm
	case req.MetaStatus != nil:
		return MetaStatus
	case req.BeginOp != nil:
		return BeginOp
	case req.Ops != nil:
		return Ops
	case req.ChangeMember != nil:
		return ChangeMember
	case req.Members != nil:
		return Members
	case req.Plan != nil:
		return Plan
	case req.Unstick != nil:
		return Unstick
	case req.Borders != nil:
		return Borders
	case req.Gateways != nil:
		return Gateways
	case req.Settings != nil:
		return Settings
	case req.SettingsPush != nil:
		return SettingsPush
	case req.Pin != nil:
		return Pin
	case req.PinPage != nil:
		return PinPage
	case req.PinKeep != nil:
		return PinKeep
	case req.Distrust != nil:
		return Distrust
	case req.AuthChange != nil:
		return AuthChange
	}
	return None
}
