package mutate

// The mutations, each a way to get the protocol wrong.
const (
	OracleReissue   = "oracle-reissues-after-failover"
	FenceInFlight   = "fence-ignores-requests-in-flight"
	FollowerNoFence = "follower-read-without-fence"
	MergerNoWait    = "merger-does-not-wait"
	UnsyncedLog     = "unsynced-log-acknowledged"
	SnapshotShort   = "snapshot-without-last-batch"
	ProgressHigh    = "progress-one-too-high"
	ResolveTwice    = "resolve-applied-twice"
	LockLost        = "lock-lost-at-leader-change"
	AnchorNoIndex   = "anchor-read-before-its-fence"
	BarrierNoDrain  = "barrier-without-drain"
	DrainHasty      = "drain-does-not-know-how-long-requests-take"
	DrainKeepsLocks = "drain-ignores-locks"
)

// The mutations of ranges that are cut.
const (
	ChangeAnyGeneration = "change-at-any-generation"
	SplitKeepsLocks     = "split-ignores-locks"
	RecordStays         = "record-stays-behind"
	BorderLateMarks     = "border-closed-by-the-left-part-alone"
	ResolveNoKey        = "resolve-acknowledged-for-any-key"
	InquireNoKey        = "inquiry-answered-for-any-key"
	ExpireNoSpan        = "expiry-of-whatever-is-held"
	CompactNoSpan       = "compaction-of-whatever-is-held"
	ApplyNoSpan         = "write-carried-out-wherever-it-comes"
	FenceNoSpan         = "fence-of-whatever-is-held"
)

// The mutations of what happens when configurations change, which package raftgroup tries itself.
const (
	CommitNotSaved     = "commit-index-not-written-with-entries"
	SnapshotOverAgreed = "snapshot-replaces-entries-that-agree"
	StateOverAgreed    = "state-replaces-entries-that-agree"
	LeaseOverChange    = "lease-counts-after-a-configuration"
	ConfBehindState    = "configuration-older-than-the-state"
	ConfBehindSnapshot = "configuration-older-than-its-snapshot"
	SnapshotForgotten  = "what-comes-behind-a-delivered-snapshot-is-dropped"
	ChangeFromAnywhere = "change-starts-from-any-configuration"
	TombstoneIgnored   = "replica-id-used-again"
	OneHalf            = "proof-by-one-half-of-a-joint-configuration"
	ChildReplayed      = "child-replayed-from-the-beginning-of-its-log"
	BirthForgetsVote   = "birth-forgets-term-and-vote"
	BirthOverPresent   = "birth-over-a-replica-that-has-a-state"
	BirthOnce          = "leader-of-the-parent-stands-for-the-child-once"
	BirthHasty         = "leader-of-the-parent-does-not-wait-for-votes"
	LaterLeads         = "leader-that-waits-to-apply-keeps-the-lead"
	LaterNoSnapshot    = "snapshot-waits-for-entries-that-wait"
)

// GroupNames lists those of the groups' configurations.
func GroupNames() []string {
	return []string{CommitNotSaved, SnapshotOverAgreed, StateOverAgreed, LeaseOverChange, OneHalf, ConfBehindState, ConfBehindSnapshot, SnapshotForgotten, ChangeFromAnywhere, TombstoneIgnored,
		ChildReplayed, BirthForgetsVote, BirthOverPresent, BirthOnce, BirthHasty, LaterLeads, LaterNoSnapshot}
}

// The mutations of reads of ranges whose borders change, which packages replica and router try themselves.
const (
	SpanBeforeStore = "read-checks-its-span-before-the-store"
	CutUnannounced  = "cut-is-told-behind-the-store"
	RemapSpins      = "router-asks-again-at-once"
	VanishedAsked   = "router-asks-a-range-that-is-no-more"
	AckedStays      = "child-inherits-no-answers"
	// SharedLate lets a reader join others that read its key already.
	SharedLate = "reader-joins-late"
	// RecallUnchecked answers a read with what was remembered of its key, whatever the oracle has given its range since.
	RecallUnchecked = "remembered-answer-not-checked"
	// HomeUnchecked reads what is here, whatever the oracle has given its range since it was final.
	HomeUnchecked = "replica-read-at-the-current-revision-unchecked"
	MovedUnfenced = "moved-part-not-fenced-again"
	MovedNewer    = "moved-part-at-a-newer-revision"
	MovedEnds     = "part-ends-where-its-range-does"
	MovedCounted  = "moved-part-counted-as-a-whole"
	HashUnspanned = "hash-of-whatever-is-held"
	// Of a cut through all ranges.
	ExportMoment   = "export-reads-ranges-at-two-moments"
	ExportUnfenced = "export-pins-before-the-fence"
	CutWithoutFile = "parent-goes-on-without-the-file-of-its-child"
	BirthUnflushed = "child-served-before-its-parent-is-past-the-cut"
)

// The mutations of replicas that move, which package replica tries itself.
const (
	PromoteBehind = "learner-votes-without-the-log"
	LeaderLeaves  = "leader-leaves-without-handing-over"
)

// The mutations of ranges that merge, which package replica tries itself.
const (
	FrozenGoesOn      = "entries-behind-a-freeze-have-an-effect"
	FrozenServes      = "frozen-range-answers"
	MergeDropsLeases  = "merge-keeps-the-left-halves-alone"
	MergeDropsRecords = "merge-drops-the-right-records"
	MergeMajority     = "merge-though-one-is-not-frozen"
	PrepareAny        = "two-parts-of-a-transaction-in-one-range"
	ThawFirst         = "thawed-before-the-left-has-risen"
	MergeReplaced     = "merge-of-a-store-that-was-replaced"
	MergeWidens       = "merge-attaches-where-one-half-is-not"
	MergeNoGap        = "merge-without-a-gap-in-the-feed"
	MergeHasty        = "merge-takes-what-is-not-open-yet-for-gone"
	MergeClosed       = "merge-closed-at-the-higher-of-both"
	MergeStands       = "frozen-range-stands-while-a-node-is-down"
	FreezeUntold      = "left-that-waits-hears-of-no-freeze"
	CopyHogs          = "level-copy-keeps-its-turn"
)

// DetourStays is the mutation of how calls go by way of other nodes, which package peerrpc tries itself.
const DetourStays = "detour-by-the-first-node-for-ever"

// The mutations of what a replica tells of its load, which package replica tries itself.
const (
	LoadStays     = "load-stays-with-what-was-cut"
	LoadNoCross   = "sample-ignores-what-would-cross"
	LoadNoTail    = "sample-ignores-a-tail"
	LoadFollowers = "follower-counts-as-a-leader"
)

// The mutations of who may do what, which packages auth, token and etcdapi try themselves.
const (
	AuthApart      = "intervals-that-touch-stay-apart"
	AuthTokensStay = "token-outlives-its-password"
	AuthPrevUnread = "previous-values-need-no-right-to-read"
	AuthOneBranch  = "one-branch-judged"
	AuthUnsummed   = "difference-of-users-to-anything"
	TokenUnsealed  = "token-with-a-wrong-seal"
	TokenForever   = "token-that-does-not-expire"
	AuthWatchStays = "watch-outlives-its-right"
	AuthReadOnce   = "read-judged-before-the-oracle-alone"
	AuthWatchEnd   = "watch-judged-by-its-span"
	HeldMarker     = "held-marker-speaks-for-a-new-watch"
	HeldEvents     = "held-events-outlive-their-watch"
)

// AuthNames lists them.
func AuthNames() []string {
	return []string{AuthApart, AuthTokensStay, AuthPrevUnread, AuthOneBranch, AuthUnsummed}
}

// AccessNames lists those of the API.
func AccessNames() []string {
	return []string{AuthWatchStays, AuthReadOnce, AuthWatchEnd, HeldMarker, HeldEvents}
}

// TokenNames lists those of tokens.
func TokenNames() []string { return []string{TokenUnsealed, TokenForever} }

// ReplicaNames lists those that the tests of a replica notice.
func ReplicaNames() []string {
	return []string{SpanBeforeStore, CutUnannounced, BorderLateMarks, CutWithoutFile, BirthUnflushed, PromoteBehind, LeaderLeaves,
		FrozenGoesOn, FrozenServes, MergeDropsLeases, MergeDropsRecords, MergeMajority, PrepareAny, ThawFirst, MergeReplaced, MergeWidens, MergeNoGap, MergeHasty, FreezeUntold, MergeClosed, MergeStands, CopyHogs, LoadStays, LoadNoCross, LoadNoTail, LoadFollowers}
}

// RouterNames lists those that the tests of the router notice.
func RouterNames() []string {
	return []string{RemapSpins, VanishedAsked, AckedStays, SharedLate, RecallUnchecked, HomeUnchecked, MovedUnfenced, MovedNewer, MovedEnds, MovedCounted, HashUnspanned, ExportMoment, ExportUnfenced}
}

// Names lists those that the simulation of whole clusters tries.
func Names() []string {
	return []string{OracleReissue, FenceInFlight, FollowerNoFence, MergerNoWait, UnsyncedLog, SnapshotShort, ProgressHigh, ResolveTwice, LockLost, AnchorNoIndex,
		ConditionDropped, NewsUnfetched, LoansUnnoted, ConfirmEarly, SettledAtOnce, LinkOvertakes, LinkBeginsWhole, LinkGapStays, ResumeBlind, MirrorTip, MirrorTorn, MirrorStale, MirrorUnclosed, MirrorKeeps,
		GrantsForgotten, GrantsUnnamed, RecallUnchecked, HomeUnchecked, CoverIgnored, NarrowBorder, NarrowEarly, AlarmsStay}
}

// LeaderNames lists those that the tests of a range's leader notice.
func LeaderNames() []string { return []string{BarrierNoDrain, DrainKeepsLocks, DrainHasty} }

// SplitNames lists those of ranges that are cut.
func SplitNames() []string { return []string{ChangeAnyGeneration, SplitKeepsLocks, RecordStays} }

// CutNames lists those that the tests of a leader notice whose range is cut.
func CutNames() []string {
	return []string{ResolveNoKey, InquireNoKey, ExpireNoSpan, CompactNoSpan, ApplyNoSpan, FenceNoSpan, RecordStays}
}

// The mutations of settings: of conditions on the oracle, of loans, and of what a node takes from an answer.
const (
	ConditionDropped  = "oracle-ignores-the-condition"
	ConditionOlder    = "oracle-takes-older-settings"
	ConditionAlarm    = "oracle-ignores-alarms"
	ConditionEarly    = "range-asks-again-while-asks-are-out"
	ConditionUnjudged = "range-asks-again-without-checking-again"
	NewsUnfetched     = "answer-handed-on-before-its-settings-are-known"
	LoansForgotten    = "new-leader-forgets-what-was-lent"
	LoansUnnoted      = "leader-does-not-note-what-it-lends"
	LoansOverlap      = "loan-of-newer-settings-ends-older-ones"
	LoanOfOld         = "answer-older-than-the-view-lends"
	LoanFromAnswer    = "loan-counted-from-the-answer"
	FollowerAnswered  = "answer-to-a-follower-counts-as-its-word"
	ConfirmEarly      = "confirmed-before-the-view-is-swapped"
	SettledAtOnce     = "change-acknowledged-before-it-is-settled"
	LendsOnce         = "members-without-a-loan-are-waited-for-once"
	HeardUnheeded     = "member-judges-by-settings-of-which-it-has-heard-that-there-are-newer"
	LendsUntold       = "new-leader-tells-nobody-that-authentication-is-on"
	AlarmsStay        = "difference-of-settings-leaves-alarms-as-they-were"
)

// The mutations of what the oracle tells of whom it gave revisions to.
const (
	GrantsForgotten = "oracle-knows-what-others-gave"
	GrantsUnnamed   = "revisions-for-anywhere-are-nobodys"
	GrantsFirst     = "borders-of-which-the-group-has-not-heard-are-like-any-other"
	GrantsUnsettled = "first-revision-after-a-change-of-the-map-is-like-any-other"
)

// GrantedNames lists those that the tests of the oracle's memory notice.
func GrantedNames() []string {
	return []string{GrantsForgotten, GrantsUnnamed, GrantsFirst, GrantsUnsettled}
}

// ConditionNames lists those that the tests of a range's leader notice.
func ConditionNames() []string { return []string{ConditionEarly, ConditionUnjudged} }

// OracleNames lists those that the tests of the meta group notice.
func OracleNames() []string { return []string{ConditionDropped, ConditionOlder, ConditionAlarm} }

// LearnedNames lists those that the tests of a client of the meta group notice.
func LearnedNames() []string {
	return []string{NewsUnfetched, LoanFromAnswer, ConfirmEarly, HeardUnheeded}
}

// SettledNames lists those that the tests of the meta group notice of how a change is acknowledged.
func SettledNames() []string {
	return []string{SettledAtOnce, LoansUnnoted, LoansForgotten, FollowerAnswered, LendsOnce, LendsUntold}
}

// SettingsNames lists those that the simulation of settings tries.
func SettingsNames() []string {
	return []string{LoansForgotten, LoansUnnoted, LoansOverlap, LoanOfOld, LoanFromAnswer, ConfirmEarly, SettledAtOnce}
}

// The mutations of what a node holds, which package host tries itself.
const (
	StartByMap      = "map-brings-ranges-that-were-cut-off"
	StartByFlags    = "meta-group-begins-again-by-flags"
	FrozenByMap     = "frozen-replica-removed-by-the-map"
	FrozenUnder     = "range-comes-over-a-frozen-replica"
	FrozenBlocks    = "frozen-replica-keeps-its-heir-out"
	MergedStays     = "replica-stays-though-its-range-was-merged"
	RemoveUnnoted   = "replica-removed-without-a-tombstone"
	RemoveUnasked   = "replica-removed-by-a-map-that-may-be-old"
	OrphanForgotten = "child-whose-group-had-not-begun-is-forgotten"
	OrphanTrusted   = "replica-without-a-log-goes-on"
	WaitOverlapping = "replica-waits-beside-one-that-cuts-it-off"
	WaitAnyReplica  = "replica-waits-that-the-map-does-not-have"
	BirthBeside     = "replica-waits-beside-its-birth"
	RemovedComesIn  = "removed-node-is-let-in"
	RemovedByHint   = "removed-by-the-word-of-a-node-alone"
	LeavesEarly     = "removed-node-stops-with-replicas-on-it"
	MergeReplayed   = "replica-that-cannot-merge-goes-on-from-its-log"
)

// HostNames lists them.
func HostNames() []string {
	return []string{MetaWaitsAgain, MetaOldState, MetaSavedDeletes, MetaKnownSilent, StartByMap, StartByFlags, OrphanForgotten, OrphanTrusted, WaitOverlapping, WaitAnyReplica, BirthBeside,
		FrozenByMap, FrozenUnder, FrozenBlocks, MergedStays, RemoveUnnoted, RemoveUnasked, RemovedComesIn, RemovedByHint, LeavesEarly, MergeReplayed}
}

// The mutations of the ops of the meta group, which package meta/state tries itself.
const (
	OpsOverlap    = "op-begins-in-a-range-that-is-in-another"
	OpsOverEarly  = "op-is-over-without-its-outcome-in-the-map"
	OpsOlder      = "op-ends-with-ranges-that-are-older"
	OpsReplicas   = "move-leaves-any-replicas"
	MetaReported  = "meta-group-is-where-a-report-says"
	BordersForget = "border-made-by-hand-does-not-stay"
)

// OpsNames lists those of the ops in the state.
func OpsNames() []string {
	return []string{OpsOverlap, OpsOverEarly, OpsOlder, OpsReplicas, MetaReported, BordersForget}
}

// The mutations of the meta group's own moves. Of these package meta tries the first itself, and LeaderLeaves and PromoteBehind, and package
// host the others.
const (
	MetaRemovedServes = "oracle-answers-on-a-removed-replica"
	MetaWaitsAgain    = "voter-of-meta-that-has-lost-its-files-waits"
	MetaOldState      = "meta-replica-waits-over-the-state-of-an-old-one"
	MetaSavedDeletes  = "meta-replica-removed-by-a-saved-descriptor"
	MetaKnownSilent   = "node-without-meta-says-nothing-of-where-it-is"
	PromoteUnsynced   = "learner-promoted-without-its-replica-in-sync"
	MetaMoveUnfiled   = "move-of-meta-told-before-its-file-has-it"
)

// MetaMoveNames lists those that package meta tries itself.
func MetaMoveNames() []string {
	return []string{MetaRemovedServes, LeaderLeaves, PromoteBehind, PromoteUnsynced, MetaMoveUnfiled}
}

// The mutations of the members, which package meta/state tries itself.
const (
	MembersUnstarted     = "members-change-without-a-majority-started"
	MembersAgain         = "removed-id-added-again"
	MembersSameURL       = "two-members-with-one-peer-url"
	MembersForgetEarly   = "member-forgotten-with-replicas-on-it"
	MembersForgetPresent = "member-forgotten-that-was-not-removed"
	MembersDrainAll      = "every-member-drained"
	MembersMoveTo        = "replica-moved-to-a-member-that-drains"
	MembersForgetComing  = "member-forgotten-with-replicas-on-their-way"
)

// The mutations of when a removal is answered, which package meta tries itself.
const (
	RemovedAtOnce  = "removal-answered-as-soon-as-it-is-decided"
	RemovedCounts  = "removed-member-counts-for-the-majority-of-others"
	RemovedBehind  = "removal-answered-by-the-map-alone"
	RemovedUnfiled = "removal-answered-before-the-file-of-meta-has-it"
)

// RemovedNames lists them.
func RemovedNames() []string {
	return []string{RemovedAtOnce, RemovedCounts, RemovedBehind, RemovedUnfiled}
}

// JoinWiped is the mutation of how a node joins, which package config tries itself.
const JoinWiped = "node-without-its-data-joins-under-its-id"

// MemberNames lists those of the members in the state.
func MemberNames() []string {
	return []string{MembersUnstarted, MembersAgain, MembersSameURL, MembersForgetEarly, MembersForgetPresent, MembersDrainAll, MembersMoveTo, MembersForgetComing}
}

// The mutations of splits by size, which package meta tries itself.
const (
	SizeOfFollower = "split-by-the-size-of-any-replica"
	SizeUntrimmed  = "split-by-size-though-not-trimmed"
	SizeOldMap     = "split-by-the-size-of-an-earlier-generation"
	SizeMoved      = "split-by-size-of-whatever-has-the-key"
)

// SizeNames lists them.
func SizeNames() []string {
	return []string{SizeOfFollower, SizeUntrimmed, SizeOldMap, SizeMoved}
}

// The mutations of what the planner is fed with, and of what becomes of its ops, which package meta tries itself.
const (
	PlannerHasty     = "plan-takes-silent-nodes-for-dead"
	PlannerImpatient = "planner-calls-a-node-silent-that-missed-one-question"
	PlannerTwice     = "plan-counts-both-ends-of-a-move"
	PlannerAnyAge    = "plan-replaces-at-the-first-silence"
	PlannerUndoes    = "plan-takes-back-what-others-have-just-led"
	PlannerFast      = "plan-asks-nodes-all-the-time"
	PlannerNews      = "plan-believes-a-load-at-once"
)

// PlannerNames lists them.
func PlannerNames() []string {
	return []string{PlanVain, PlanGroupStays, PlannerHasty, PlannerTwice, PlannerAnyAge, PlannerUndoes, PlannerFast, PlannerNews, PlannerImpatient}
}

// The mutations of the planner, whose checks are those of placement/plansim.
const (
	PlanReplace      = "plan-replaces-nothing"
	PlanDrain        = "plan-drains-nothing"
	PlanDomain       = "plan-ignores-failure-domains"
	PlanQuorum       = "plan-ignores-majorities"
	PlanDisk         = "plan-ignores-disks"
	PlanOneOp        = "plan-takes-ranges-twice"
	PlanPace         = "plan-ignores-ops-per-node"
	PlanPaceAll      = "plan-ignores-ops-per-cluster"
	PlanUnderWay     = "plan-forgets-ops-under-way"
	PlanCooldown     = "plan-moves-without-cooldown"
	PlanLeadCooldown = "plan-transfers-without-cooldown"
	PlanTolerance    = "plan-without-tolerance"
	PlanSize         = "plan-cuts-no-large-range"
	PlanLoad         = "plan-cuts-no-busy-range"
	PlanBackoff      = "plan-does-not-back-off"
	PlanMemory       = "plan-merges-what-was-busy"
	PlanAlone        = "plan-balances-nothing"
	PlanLeads        = "plan-transfers-nothing"
	PlanVain         = "plan-tries-again-at-once"
	PlanGroupStays   = "plan-leaves-the-meta-group-where-it-is"
	// The next two package placement tries itself.
	PlanGroupStuck = "plan-moves-the-meta-group-without-a-majority"
	PlanAnyFirst   = "plan-takes-any-removed-member-first"
)

// PlanNames lists them.
func PlanNames() []string {
	return []string{PlanReplace, PlanDrain, PlanDomain, PlanQuorum, PlanDisk, PlanOneOp, PlanPace, PlanPaceAll, PlanUnderWay, PlanCooldown,
		PlanLeadCooldown, PlanTolerance, PlanSize, PlanLoad, PlanBackoff, PlanMemory, PlanAlone, PlanLeads}
}

// The mutations of what a hub does where ranges change.
const (
	BorderNoWait     = "border-whose-child-holds-nothing-back"
	BorderLateFeed   = "border-whose-child-is-heard-late"
	BorderOldMarks   = "marks-from-before-a-border-count-behind-it"
	BorderEarly      = "feed-joined-by-an-old-map"
	BorderLosses     = "losses-from-before-a-border-count-behind-it"
	MapJumps         = "map-jumps-over-generations"
	MergeKeepsClosed = "merged-feed-keeps-what-the-left-had-closed"
	MapNotAsked      = "map-that-items-wait-for-is-not-asked-for"
	CoverIgnored     = "watch-served-by-a-feed-that-does-not-bring-its-keys"
	CoverRing        = "what-is-remembered-serves-keys-that-did-not-come"
	CoverShrinks     = "watch-stays-live-whose-keys-come-no-more"
)

// The mutations of links between processes, which package link tries itself, and some of them the simulation.
const (
	LinkOvertakes     = "mark-overtakes-events-on-a-link"
	LinkClosesAll     = "mark-of-a-link-excepts-nobody"
	LinkOldGeneration = "feed-goes-on-in-another-generation-unattached"
	LinkLostCloses    = "feed-that-lost-something-goes-on"
	LinkDropsLast     = "full-link-drops-what-comes"
	LinkNoHeirs       = "link-attaches-no-child-behind-a-border"
	LinkHeirAhead     = "child-attached-ahead-of-its-border"
	LinkSilent        = "silent-link-lives"
	LinkBeginsWhole   = "link-begins-a-feed-without-a-gap"
	LinkVoidUntold    = "attachment-that-is-over-untold"
	LinkRing          = "gateways-feed-each-other-in-a-ring"
	LinkDeep          = "any-number-of-gateways-one-behind-the-other"
	MoveEarly         = "feed-moves-before-the-old-source-has-come-as-far"
	MoveTwice         = "moved-feed-brings-twice-what-has-come"
	MoveOver          = "feed-moves-over-a-change-of-its-range"
	ResumeOver        = "feed-goes-on-over-a-change-of-its-range"
	ResumeBlind       = "feed-goes-on-at-another-source-as-if-nothing-had-passed"
	LinkGapStays      = "gap-not-passed-down"
	LinkHeirInVain    = "child-that-does-not-come-behind-its-border-untold"
	NarrowBorder      = "source-leaves-out-the-first-key-of-a-span"
	NarrowHeir        = "child-of-a-narrow-feed-is-told-to-be-whole"
	NarrowEarly       = "added-span-counts-from-before-it-came"
	NarrowBlind       = "feed-takes-up-spans-as-if-nothing-had-passed"
	NarrowStale       = "attachment-of-another-subscription-counts"
	NarrowPassed      = "narrow-feed-passed-on"
)

// LinkNames lists them.
func LinkNames() []string {
	return []string{LinkOvertakes, LinkClosesAll, LinkOldGeneration, LinkLostCloses, LinkDropsLast, LinkNoHeirs, LinkHeirAhead, LinkSilent, LinkBeginsWhole, LinkVoidUntold, LinkHeirInVain, LinkRing, LinkDeep, LinkGapStays, MoveEarly, MoveTwice, MoveOver, ResumeOver, ResumeBlind,
		NarrowBorder, NarrowHeir, NarrowEarly, NarrowBlind, NarrowStale, NarrowPassed}
}

// The mutations of what a hub remembers of feeds.
const (
	RingOverHole = "ring-serves-across-a-hole"
	RingForgets  = "ring-forgets-that-it-has-forgotten"
	RingInherits = "child-remembers-what-its-parent-has-forgotten"
)

// The mutations of what may wait for the readers of a hub.
const (
	DeliveryUnbounded = "queues-of-all-streams-unbounded"
	GroupUnbounded    = "queues-of-a-connection-unbounded"
	CountsEachTime    = "event-counted-for-each-who-waits"
	ShedAnybody       = "queues-given-up-whoever-is-behind"
	ShedRefills       = "queue-given-up-fills-again"
	ShedLoses         = "queue-given-up-is-lost"
	ShedMarkers       = "marker-for-what-was-given-up"
)

// HubNames lists them.
func HubNames() []string {
	return []string{DeliveryUnbounded, GroupUnbounded, CountsEachTime, ShedAnybody, ShedRefills, ShedLoses, ShedMarkers, RingOverHole, RingForgets, RingInherits, BorderNoWait, BorderLateFeed, BorderOldMarks, BorderEarly, BorderLosses, MapJumps, MergeKeepsClosed, MapNotAsked, CoverIgnored, CoverRing, CoverShrinks}
}

// The mutations of how lists are let in.
const (
	ListsUnbounded = "lists-enter-whatever-is-in"
	ListsOneLine   = "lists-of-all-in-one-line"
	ListsBlind     = "list-that-grows-uncounted"
	ListsStuck     = "list-that-grows-waits-even-if-first"
)

// ListsNames lists them.
func ListsNames() []string {
	return []string{ListsUnbounded, ListsOneLine, ListsBlind, ListsStuck}
}

// The mutation of a stop, which package etcdapi tries itself.
const DrainAtOnce = "streams-end-all-at-once"

// The mutations of a store that is cut in two, which package mvcc tries itself.
const (
	CutRead       = "cut-keys-are-read"
	CutLease      = "cut-keys-of-a-lease"
	CutHash       = "cut-keys-are-hashed"
	CutSnapshot   = "cut-keys-in-snapshots"
	CutKeys       = "cut-keys-are-counted"
	CutStart      = "cut-keys-are-loaded"
	CutSettle     = "cut-keys-are-settled"
	CutSweep      = "cut-keys-are-swept"
	CutUnnoticed  = "reader-overlooks-the-cut"
	TrimNoFile    = "trim-before-the-file-says-so"
	TrimNoPins    = "trim-under-a-reader"
	TrimForgotten = "trim-forgotten-at-a-start"
	TrimMemory    = "trim-leaves-memory"
	SplitDead     = "split-copies-the-dead"
	SplitHistory  = "split-without-history"
	SplitLate     = "split-without-late-inserts"
	SplitLeases   = "split-without-later-leases"
	SplitCount    = "split-without-later-keys"
	SplitFloor    = "split-settles-past-the-floor"
	SplitPart     = "split-settles-a-part-and-takes-it-for-all"
	SplitLost     = "split-goes-on-though-lost"
	SplitPin      = "split-without-pin"
	// Of two stores that are copied into one.
	MergeHistory   = "merge-without-right-history"
	MergeSettle    = "merge-settles-what-may-come"
	MergeCount     = "merge-counts-left-keys-only"
	MergeSwept     = "merge-swept-as-the-higher"
	MergeCompact   = "merge-compacted-as-the-lower"
	MergeGarbage   = "merge-copies-what-was-cut-off"
	MergeUnsettled = "merge-without-old-unsettled"
	MergeLate      = "merge-takes-what-is-too-late"
	MergeTwice     = "merge-takes-a-revision-twice"
	MergeFloor     = "merge-settles-past-the-floor"
	MergeBeyond    = "merge-settled-beyond-its-last"
	// Of where a range is cut by its size.
	MiddleByPages  = "middle-counts-pages-not-bytes"
	MiddleNoMemory = "middle-forgets-what-is-not-settled"
	// Of a file that is written anew.
	DefragmentWritten  = "file-written-beside-its-defragmentation"
	DefragmentReplaced = "defragmentation-of-a-replaced-file"
	DefragmentHolds    = "defragmentation-holds-any-amount-in-memory"
	// Of a moment that is exported.
	ExportUnpinned   = "export-pins-nothing"
	ExportAbove      = "export-of-versions-above-the-cut"
	ExportTombstones = "export-of-deletes-that-are-compacted"
)

// StoreNames lists them.
func StoreNames() []string {
	return []string{CutRead, CutLease, CutHash, CutSnapshot, CutKeys, CutStart, CutSettle, CutSweep, CutUnnoticed, TrimNoFile, TrimNoPins,
		TrimForgotten, TrimMemory, SplitDead, SplitHistory, SplitLate, SplitLeases, SplitCount, SplitFloor, SplitPart, SplitLost, SplitPin,
		MergeHistory, MergeSettle, MergeCount, MergeSwept, MergeCompact, MergeGarbage, MergeUnsettled, MergeLate, MergeTwice, MergeFloor, MergeBeyond,
		MiddleByPages, MiddleNoMemory, DefragmentWritten, DefragmentReplaced, DefragmentHolds, ExportUnpinned, ExportAbove, ExportTombstones}
}

// The mutations of mirrors, which package mirror tries itself.
const (
	MirrorTip        = "mirror-answers-with-what-is-newest"
	MirrorBase       = "mirror-begins-below-where-its-feed-is-whole"
	MirrorTorn       = "list-of-several-mirrors-at-several-revisions"
	MirrorStale      = "list-by-an-answer-from-before-the-request"
	MirrorUnclosed   = "list-of-mirrors-that-are-not-closed-so-far"
	MirrorKeeps      = "mirror-stands-after-a-gap"
	MirrorGeneration = "mirror-follows-any-generation"
	MirrorBorder     = "mirror-keeps-keys-behind-a-border"
	MirrorJoinsLate  = "list-joins-a-read-that-has-begun"
	MirrorDeaf       = "mirror-that-is-to-be-built-does-not-listen"
	MirrorUnfenced   = "mirror-built-of-a-replica-that-lags"
	MirrorForgotten  = "mirror-answers-at-revisions-that-it-has-forgotten"
)

// The mutations of the choice of what is mirrored by itself, which package auto tries itself.
const (
	AutoGreedy   = "range-mirrored-by-itself-may-have-what-there-is-no-room-for"
	AutoFlaps    = "range-mirrored-by-itself-gives-way-to-one-that-is-listed-as-much"
	AutoStubborn = "range-mirrored-by-itself-is-kept-whose-mirror-does-not-hold"
	AutoHasty    = "range-mirrored-by-itself-is-tried-again-at-once"
	AutoNarrow   = "range-mirrored-by-itself-goes-where-it-would-not-be-taken"
)

// AutoNames lists them.
func AutoNames() []string {
	return []string{AutoGreedy, AutoFlaps, AutoStubborn, AutoHasty, AutoNarrow}
}

// MirrorNames lists them.
func MirrorNames() []string {
	return []string{MirrorTip, MirrorBase, MirrorTorn, MirrorStale, MirrorUnclosed, MirrorKeeps, MirrorGeneration, MirrorBorder, MirrorJoinsLate, MirrorDeaf, MirrorUnfenced, MirrorForgotten}
}
