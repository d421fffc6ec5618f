package placement

import (
	"bytes"
	"sort"

	"pontoon/shard"
)

// Seconds is a time of the snapshot: seconds since an epoch that whoever makes snapshots has chosen once. 0 in a
// snapshot is "never".
type Seconds int32

// Forever is later than every other time.
const Forever Seconds = 1<<31 - 1

// None stands in a column of nodes where there is none, and for a leader that is not known.
const None = -1

// Liveness is what the cluster believes of a node.
type Liveness uint8

// The states of liveness.
const (
	// Up: the node answers.
	Up Liveness = iota
	// Suspect: it has been silent for a moment. It gets nothing new, and nothing is taken from it.
	Suspect
	// Dead: it is held to be gone; its replicas are replaced once it has been dead for PaceLimits.DeadAfter.
	Dead
)

// Node is one node of the cluster. How many replicas and leaders it holds, and how many ops it takes part
// in, follow from the columns and from the ops under way.
type Node struct {
	ID       shard.NodeID
	Liveness Liveness
	Since    Seconds // in this state of liveness
	// Draining: everything but its membership is to be moved elsewhere, because somebody asked for it.
	Draining bool
	// Removed: it is no member any more; it drains while it lives, and counts as dead at once when it does not.
	Removed bool
	// Left orders those that were removed: who was first goes first, because nobody counts on it any more.
	Left uint64
	// Learner: a member that may not hold replicas of ranges yet.
	Learner bool
	// Locality is its failure domain in tiers, the widest first: "region=eu,zone=a". Empty: not stated.
	Locality string
	DiskUsed float64 // bytes, of whatever
	DiskFree float64 // bytes
	CPU      float32 // share of its processors in use, 0 to 1, as the node measures it
	Cores    float32 // processors; 0 counts as 1
	Network  float32 // share of the rate that moves are allowed in use, 0 to 1
}

// processors is how many the node has.
func (n *Node) processors() float32 {
	if n.Cores <= 0 {
		return 1
	}
	return n.Cores
}

// processor is how much of one the node has, at most 1.
func (n *Node) processor() float32 { return min(n.processors(), 1) }

// exhausted tells whether the node has no processor time left.
func (n *Node) exhausted(l *Limits) bool { return n.CPU >= l.Split.NodeFull }

// Flags are the marks of a range.
type Flags uint8

// The marks.
const (
	// Untrimmed: its file still holds what a split gave away, so nobody knows how large it is, nor where its middle.
	Untrimmed Flags = 1 << iota
	// LoadUnknown: its leader is new and nobody has told its load; that counts as hot.
	LoadUnknown
	// CutByMerge: its last cut was a merge; otherwise it was a split.
	CutByMerge
	// MovedToAlign: its last move brought it to where its left neighbour is.
	MovedToAlign
	// LoadShort: its load has not been watched for as long as a merge needs.
	LoadShort
)

// Peaks are the highest loads of the last ten minutes. A report names the range, so a peak follows a change of the leader.
type Peaks struct {
	CPU    []float32 // ns a second at the leader
	Writes []float32 // a second
}

// History says when something was last done to each range. Nothing was ever moved or transferred of a range that has just come of a split: it was cut so
// that it can be.
type History struct {
	Moved  []Seconds // a replica came or went, or that was tried in vain
	Led    []Seconds // the lead was transferred on purpose, or that was tried in vain
	Cut    []Seconds // it was split or merged, or came of a split
	Sticky []Seconds // until when the border at its start stays, because somebody has asked for it; 0: it need not
}

// Ranges are all ranges in the order of their keys, as columns of one length. They tile the key space. Replicas, Leaders, Flags,
// Bytes and CPU are walked in every round, 16 bytes a range at three replicas; the others are looked up for a few.
type Ranges struct {
	IDs         []shard.RangeID
	Generations []shard.Generation
	// Keys holds the start keys one after the other; that of range i ends at KeyEnds[i].
	Keys    []byte
	KeyEnds []uint32
	// Width is how many places a range has in Replicas, at most 8, which holds positions in Snapshot.Nodes: the replicas
	// of a range first, then None. All of them are voters; a learner belongs to an op under way.
	Width    int
	Replicas []int16
	Leaders  []int8 // place in the range's row, or None
	Flags    []Flags
	Bytes    []float32 // in use, in its file
	CPU      []float32 // ns a second at the leader, smoothed over some minutes: what wavers faster is not worth an op
	Peak     Peaks
	At       History
}

// Len is the number of ranges.
func (r *Ranges) Len() int { return len(r.IDs) }

// Row is where range i is. It shares the column.
func (r *Ranges) Row(i int) []int16 { return r.Replicas[i*r.Width : (i+1)*r.Width : (i+1)*r.Width] }

// Start is the first key of range i. It shares the buffer.
func (r *Ranges) Start(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = r.KeyEnds[i-1]
	}
	return r.Keys[from:r.KeyEnds[i]:r.KeyEnds[i]]
}

// Find is the position of the range that holds key; there must be one range at least.
func (r *Ranges) Find(key []byte) int {
	n := sort.Search(r.Len(), func(i int) bool { return bytes.Compare(r.Start(i), key) > 0 })
	return max(n-1, 0)
}

// leader is the node that leads range i, as a position, or None.
func (r *Ranges) leader(i int) int16 {
	if l := r.Leaders[i]; l >= 0 {
		return r.Row(i)[l]
	}
	return None
}

// Running is an op that meta has logged and that is not over. Positions are those of this snapshot, None where
// there is nothing.
type Running struct {
	ID     uint64 // of the op
	Kind   Kind
	Range  int32 // position
	Right  int32 // position of the right range of a merge
	From   int16 // position of the node that is left
	To     int16 // position of the node that is gained
	Leader int16 // position of the node that is to lead
	Rule   Rule  // for which it was planned
	Begun  bool  // some entry of the range's log belongs to it
}

// SamplePoint is a key at which a hot range could be cut.
type SamplePoint struct {
	Key   []byte
	Left  float32 // share of the sampled load that lies before it, 0 to 1
	Cross float32 // share of the sampled transactions that would touch both sides, 0 to 1
}

// Sample is what the leader of a busy range has seen of where its load lies, at most 128 points.
type Sample struct {
	Range  int32   // position
	CPU    float32 // ns a second: the lowest of its last three windows of ten seconds
	Writes float32 // a second: the same
	Tail   float32 // share of the sampled writes beyond the last point, 0 to 1
	Points []SamplePoint
}

// Backoff is a range that was found to be unsplittable.
type Backoff struct {
	Range int32   // position
	Until Seconds // it is not looked at before
	For   Seconds // how long that is; the next one is twice as long
}

// Vain is a kind of op that was tried on a range, and has failed.
type Vain struct {
	Range int32 // position
	Kind  Kind
	Until Seconds // it is not tried again before
}

// HandSplit is a border that somebody asked for, and that is not there yet.
type HandSplit struct {
	Key   []byte
	Until Seconds // it stays until then; Forever: until it is taken back
}

// Snapshot is what a plan is made from. It is read, and never kept.
type Snapshot struct {
	Nodes  []Node // at most 32 767
	Ranges Ranges
	// Running are the ops under way, in any order.
	Running []Running
	// Samples and Backoffs are in the order of their ranges, one a range at most.
	Samples  []Sample
	Backoffs []Backoff
	// Vain is in the order of ranges.
	Vain  []Vain
	Asked []HandSplit
	// ReplicationFactor is how many replicas a range should have where there are enough members.
	ReplicationFactor int
	// Round is another number in every round: what is looked at first depends on it.
	Round uint64
}

// untoldMax is for how long the parts of a range that was cut are waited for to tell of themselves.
const untoldMax Seconds = 10

// Untold tells whether range i was cut a moment ago, and nobody has told of it since: what is to be done next with a busy range depends on it.
func (r *Ranges) Untold(i int, now Seconds) bool {
	return r.Leaders[i] < 0 && now < after(r.At.Cut[i], untoldMax)
}

func (s *Snapshot) sample(i int32) *Sample {
	n := sort.Search(len(s.Samples), func(k int) bool { return s.Samples[k].Range >= i })
	if n < len(s.Samples) && s.Samples[n].Range == i {
		return &s.Samples[n]
	}
	return nil
}

// vain tells until when a kind of op is not tried again on a range; 0: it may be.
func (s *Snapshot) vain(i int32, kind Kind) Seconds {
	n := sort.Search(len(s.Vain), func(k int) bool { return s.Vain[k].Range >= i })
	for ; n < len(s.Vain) && s.Vain[n].Range == i; n++ {
		if s.Vain[n].Kind == kind {
			return s.Vain[n].Until
		}
	}
	return 0
}

func (s *Snapshot) backoff(i int32) *Backoff {
	n := sort.Search(len(s.Backoffs), func(k int) bool { return s.Backoffs[k].Range >= i })
	if n < len(s.Backoffs) && s.Backoffs[n].Range == i {
		return &s.Backoffs[n]
	}
	return nil
}
