package placement

import (
	"fmt"
	"slices"
)

// Mode is how much the planner does by itself.
type Mode uint8

// The modes. What somebody asked for (a border, a drain, the removal of a member) is planned in all of them.
const (
	// ModeOn plans everything.
	ModeOn Mode = iota
	// ModeRepair replaces what is missing and mends failure domains; it neither cuts nor balances.
	ModeRepair
	// ModeOff plans only what was asked for.
	ModeOff
)

var modeNames = []string{"on", "repair", "off"}

// String is the mode's name, as the flag has it.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode-%d", uint8(m))
}

// ModeNamed is the reverse of String; false: there is none of that name.
func ModeNamed(name string) (Mode, bool) {
	i := slices.Index(modeNames, name)
	return Mode(max(i, 0)), i >= 0
}

// SplitLimits say when a range is cut. Bytes are those in use in its file.
type SplitLimits struct {
	Bytes        float32 // from this size on
	HardBytes    float32 // from this size on in spite of a merge a moment ago
	CPU          float32 // ns a second at its leader, in three windows; of a node with less than a processor that share of it
	Writes       float32 // a second, in three windows
	NodeCPU      float32 // share of its node's processors, 0 to 1, from which load alone is reason enough
	NodeLead     float32 // share by which its node is above the idlest: reason enough, too
	NodeFull     float32 // share of its node's processors from which that has no time left
	NodeIdle     float32 // and up to which another is all but idle
	FullShare    float32 // share of CPU from which a range is cut where one node has no time left and another is idle
	FullPart     float32 // and the share, of what each node would do if all did as much, that a range must be
	Balance      float32 // the smaller side's share of the load, at least
	Cross        float32 // share of transactions that would touch both sides, at most
	Tail         float32 // share of writes beyond the last point from which a range grows at its end
	DiskFactor   float32 // free disk of every replica's node, as a multiple of the right part
	Backoff      Seconds // how long an unsplittable range is left alone at first
	BackoffMax   Seconds
	CutCooldown  Seconds // between a merge and a split of the same range
	TailLeadGain float32 // how much less its other load a node must have, as a share of the mean, to get a tail's leader
}

// MergeLimits say when two neighbours become one.
type MergeLimits struct {
	Bytes     float32 // both together stay below it
	Load      float32 // both together stay below this share of a split's loads, for ten minutes
	Cooldown  Seconds // no op on either
	RangesMin int     // not below so many ranges: as many as were asked for when the cluster was laid out
}

// MoveLimits say when replicas and leads are moved for balance.
type MoveLimits struct {
	Tolerance     float64 // share of the mean that a node may be away from it
	Cooldown      Seconds // between two moves of a range for balance
	LeadCooldown  Seconds // between two transfers of a range's lead
	MetaLeadAfter Seconds // for how long a node has led the meta group before it gives that up for having no processor time left
	MetaLeadGain  float32 // and how much less of its processors' time another node must use for that
	FollowerCPU   float64 // what a follower spends, as a share of its leader's CPU
	CPUNoise      float64 // share of a processor, as a mean over nodes, below which CPU counts less and less
	DiskNoise     float64 // bytes, as a mean over nodes, below which disk counts less and less
	DiskFull      float64 // share of a disk: with less free a node gives replicas away
	DiskFullEnd   float64 // share of a disk that stays free on the target of a move for balance
	PreferredTier string  // leaders belong on nodes with this tier in their locality, such as "zone=a"; empty: anywhere
}

// Full reports whether less of a disk is free than must be for a replica to come to it: what is there already grows, too. free is what the node may
// still use, in bytes, and used is what is in use, by whoever: what a file system keeps back for itself is no part of the disk.
func (l *MoveLimits) Full(free, used int64) bool {
	return float64(free) < l.DiskFull*float64(free+used)
}

// PaceLimits bound what goes on at a time.
type PaceLimits struct {
	OpsPerNode int     // a node takes part in at most so many
	Farewells  int     // and beside them in so many by which a lead leaves a node that is to be empty: each takes milliseconds
	Ops        int     // the cluster has at most so many
	DeadAfter  Seconds // how long a node is dead before its replicas are replaced
	BlockedMax int     // ops that are due and may not begin: so many are reported
}

// Limits are the numbers of the planner's rules.
type Limits struct {
	Mode  Mode
	Split SplitLimits
	Merge MergeLimits
	Move  MoveLimits
	Pace  PaceLimits
}

// DefaultLimits are the limits that a cluster has if nobody says otherwise.
func DefaultLimits() Limits {
	return Limits{
		Split: SplitLimits{
			Bytes: 256 << 20, HardBytes: 512 << 20, CPU: 250e6, Writes: 2000, NodeCPU: 0.6, NodeLead: 0.2, NodeFull: 0.9, NodeIdle: 0.4, FullShare: 0.5, FullPart: 0.35, Balance: 0.35,
			Cross: 0.1, Tail: 0.8, DiskFactor: 2, Backoff: 300, BackoffMax: 3600, CutCooldown: 600, TailLeadGain: 0.1,
		},
		Merge: MergeLimits{Bytes: 64 << 20, Load: 0.25, Cooldown: 600, RangesMin: 1},
		Move: MoveLimits{
			Tolerance: 0.05, Cooldown: 600, LeadCooldown: 120, MetaLeadAfter: 30, MetaLeadGain: 0.4, FollowerCPU: 0.25, CPUNoise: 0.05, DiskNoise: 1 << 30,
			DiskFull: 0.15, DiskFullEnd: 0.2,
		},
		Pace: PaceLimits{OpsPerNode: 4, Farewells: 16, Ops: 64, DeadAfter: 300, BlockedMax: 64},
	}
}
