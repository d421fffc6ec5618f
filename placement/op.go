package placement

import (
	"fmt"
	"slices"
	"strings"

	"pontoon/shard"
)

// Kind is what an op does.
type Kind uint8

// The kinds.
const (
	// KindSplit cuts Range at At.
	KindSplit Kind = iota + 1
	// KindMerge makes Range and Right one.
	KindMerge
	// KindMove takes Range's replica from From to To; without From a replica is added, without To one is taken away.
	KindMove
	// KindTransfer hands Range's lead from From to To.
	KindTransfer
	// KindGiveUp makes the op Running impossible: nobody needs it any more, or it cannot end.
	KindGiveUp
	// KindBackOff changes nothing in the map: Range is unsplittable, and to be left alone until Until.
	KindBackOff
)

var kindNames = []string{"", "split", "merge", "move", "transfer", "give-up", "back-off"}

// String is the kind's name, as metrics and plans show it.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Rule is why an op was planned: a row of the planner's table.
type Rule uint8

// The rules, in the order in which their ops are planned.
const (
	RuleGiveUp    Rule = iota + 1 // an op's reason is gone
	RuleReplace                   // a replica's node is dead, or was removed and is dead
	RuleGrow                      // a range has fewer replicas than it should
	RuleShrink                    // a range has more replicas than there are members for it
	RuleHand                      // somebody asked for a border
	RuleDrainLead                 // leads leave a node that is to be empty
	RuleDrain                     // replicas leave a node that is to be empty
	RuleDomain                    // a range's replicas stand too near to each other
	RuleSize                      // a range is too large
	RuleLoad                      // a range is too busy
	RuleTail                      // a range grows at its end alone
	RuleMerge                     // two neighbours are small and idle
	RuleAlign                     // two neighbours are to become one, and lie on different nodes
	RulePrefer                    // a lead is not where leads are preferred
	RuleLead                      // a node leads too much
	RuleBalance                   // a node holds too much
)

var ruleNames = []string{"", "give-up", "replace", "grow", "shrink", "hand", "drain-lead", "drain", "domain", "size", "load", "tail",
	"merge", "align", "prefer", "lead", "balance"}

// String is the rule's name, as metrics and plans show it.
func (r Rule) String() string {
	if int(r) < len(ruleNames) {
		return ruleNames[r]
	}
	return fmt.Sprintf("rule-%d", uint8(r))
}

// RuleNamed is the reverse of String; false: there is none of that name.
func RuleNamed(name string) (Rule, bool) {
	i := slices.Index(ruleNames[1:], name)
	return Rule(i + 1), i >= 0
}

// Cut is where a split cuts.
type Cut uint8

// The places.
const (
	CutAtKey    Cut = iota // at Op.Key
	CutAtMiddle            // where half of the bytes lie before
	CutAtEnd               // behind the last key that is there
)

// Op is one step of a plan. Ids that a kind does not speak of are 0.
type Op struct {
	Kind            Kind
	Rule            Rule
	Range           shard.RangeID
	Generation      shard.Generation // of Range when this was planned: the op begins with it, or not at all
	Right           shard.RangeID
	RightGeneration shard.Generation
	From, To        shard.NodeID
	Leader          shard.NodeID // who is to lead after a move that takes the leader away
	At              Cut
	Key             []byte  // shares the snapshot's bytes
	Until           Seconds // how long a border stays, or a range is left alone
	For             Seconds // of KindBackOff: how long that is
	Running         uint64  // of KindGiveUp: the op
	Why             string  // the reason, in words
	Blocked         string  // why it may not begin now, in words; empty: it may
}

// Due says whether the op may begin now. One that may not is reported so that somebody can read what stands in
// its way.
func (o *Op) Due() bool { return o.Blocked == "" }

// String is one line for a reader: what, why, and what stands in its way.
func (o Op) String() string {
	var b strings.Builder
	switch o.Kind {
	case KindSplit:
		fmt.Fprintf(&b, "split %v %s", o.Range, [...]string{"at " + fmt.Sprintf("%q", o.Key), "in the middle", "at its end"}[o.At])
	case KindMerge:
		fmt.Fprintf(&b, "merge %v with %v", o.Range, o.Right)
	case KindMove:
		b.WriteString("move ")
		if o.Range == 0 {
			b.WriteString("any range")
		} else {
			b.WriteString(o.Range.String())
		}
		if o.From != 0 {
			fmt.Fprintf(&b, " from %v", o.From)
		}
		if o.To != 0 {
			fmt.Fprintf(&b, " to %v", o.To)
		}
		if o.Leader != 0 {
			fmt.Fprintf(&b, ", %v leads then", o.Leader)
		}
	case KindTransfer:
		fmt.Fprintf(&b, "transfer the lead of %v from %v to %v", o.Range, o.From, o.To)
	case KindGiveUp:
		fmt.Fprintf(&b, "give up op %d on %v", o.Running, o.Range)
	case KindBackOff:
		fmt.Fprintf(&b, "leave %v alone for %d s", o.Range, o.For)
	}
	fmt.Fprintf(&b, " (%v): %s", o.Rule, o.Why)
	if !o.Due() {
		fmt.Fprintf(&b, "; not now: %s", o.Blocked)
	}
	return b.String()
}
