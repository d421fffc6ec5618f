package state

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Bounds of the ops in the state.
const (
	// OpsUnderWayMax is how many there may be under way: another one is refused.
	OpsUnderWayMax = 64
	// OpsOverMax is how many that are over are remembered.
	OpsOverMax = 100
	// replicasMax is how many replicas a range may have.
	replicasMax = 8
	// LearnersMax is how many replicas of the meta group may learn beside those that vote.
	LearnersMax = 3
)

// ops are the changes of the range map that have been decided. A range is in one at a time, and an op is over only when its
// outcome is in the map.
type ops struct {
	open []shard.Op // under way, by id
	over []shard.Op // the last that ended, in the order of their ends
}

// Op returns one op, if it is remembered.
func (o *ops) Op(id shard.OpID) (shard.Op, bool) {
	for _, list := range [][]shard.Op{o.open, o.over} {
		if i := slices.IndexFunc(list, func(op shard.Op) bool { return op.ID == id }); i >= 0 {
			return list[i], true
		}
	}
	return shard.Op{}, false
}

// Ops returns the ops that are under way and the last that are over, by id.
func (o *ops) Ops() []shard.Op {
	all := slices.Concat(o.over, o.open)
	slices.SortFunc(all, func(a, b shard.Op) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// OpsUnderWay returns those that are under way, by id.
func (o *ops) OpsUnderWay() []shard.Op { return slices.Clone(o.open) }

// image renders them for a snapshot.
func (o *ops) image() []*pb.MetaOp {
	var out []*pb.MetaOp
	for _, list := range [][]shard.Op{o.over, o.open} {
		for i := range list {
			out = append(out, pb.FromOp(&list[i]))
		}
	}
	return out
}

// restore is the reverse of image.
func (o *ops) restore(in []*pb.MetaOp, next nextIDs) error {
	for _, m := range in {
		op := pb.ToOp(m)
		_, twice := o.Op(op.ID)
		switch {
		case op.ID == 0 || twice || uint64(op.ID) >= next.ops:
			return fmt.Errorf("%w: meta state: op %d stands twice or has an id that was not given out", shard.ErrCorrupt, op.ID)
		case op.Outcome() != shard.OpUnderWay:
			o.over = append(o.over, op)
		case len(o.open) > 0 && o.open[len(o.open)-1].ID > op.ID:
			return fmt.Errorf("%w: meta state: op %d is not in its place", shard.ErrCorrupt, op.ID)
		default:
			o.open = append(o.open, op)
		}
	}
	if len(o.over) > OpsOverMax || len(o.open) > OpsUnderWayMax {
		return fmt.Errorf("%w: meta state: %d ops under way and %d over", shard.ErrCorrupt, len(o.open), len(o.over))
	}
	return nil
}

// PlanSplit makes the entry that begins the split of the range that holds the key now, or says why there can be none.
// now is the Unix time in milliseconds. The bytes are shared.
func PlanSplit(s *State, split *pb.SplitOp, now int64) (*pb.MetaEntry, error) {
	if !s.Bootstrapped() {
		return nil, fmt.Errorf("%w: the cluster has not been laid out", shard.ErrUnavailable)
	}
	d := s.Map().Lookup(split.Key)
	op := shard.Op{Kind: shard.OpSplit, Range: d.ID, Generation: d.Generation, Key: split.Key, Reason: split.Reason, Until: stickyUntil(split.StickyS, now), Began: now}
	if _, err := s.refuses(s, &op); err != nil {
		return nil, err
	}
	return &pb.MetaEntry{BeginOp: &pb.MetaBeginOp{Op: pb.FromOp(&op)}}, nil
}

// PlanMove makes the entry that begins a move of a range's replica from one node to another, or says why there can be none. Without a node
// to come from the range gets one replica more, and without one to go to one less. With m.Learner the meta group gets one that learns, and goes on
// doing so; a move to where such a one is gives it a vote. generation is the one that the range must have; 0: any. now
// is the Unix time in milliseconds.
func PlanMove(s *State, m *pb.MoveOp, now int64) (*pb.MetaEntry, error) {
	if !s.Bootstrapped() {
		return nil, fmt.Errorf("%w: the cluster has not been laid out", shard.ErrUnavailable)
	}
	d, found := descriptor(s, shard.RangeID(m.RangeId))
	if !found {
		return nil, fmt.Errorf("%w: there is no range %v", shard.ErrInvalid, shard.RangeID(m.RangeId))
	}
	op := shard.Op{Kind: shard.OpMove, Range: d.ID, Generation: d.Generation, Reason: m.Reason, Began: now, To: shard.Replica{Node: shard.NodeID(m.To)}}
	if m.Learner {
		op.To.Role = shard.Learner
	}
	if m.Generation != 0 {
		op.Generation = shard.Generation(m.Generation)
	}
	if from := shard.NodeID(m.From); from != 0 {
		r, here := d.ReplicaOn(from)
		if !here {
			return nil, fmt.Errorf("%w: %v has no replica on node %v: it is on %s", shard.ErrInvalid, d.ID, from, nodesOf(d))
		}
		op.From = r
	}
	if _, err := s.refuses(s, &op); err != nil {
		return nil, err
	}
	return &pb.MetaEntry{BeginOp: &pb.MetaBeginOp{Op: pb.FromOp(&op)}}, nil
}

// PlanMerge makes the entry that begins the merge of the range that begins at key into its left neighbour, or says why there can be none.
func PlanMerge(s *State, key []byte, reason string, now int64) (*pb.MetaEntry, error) {
	if !s.Bootstrapped() {
		return nil, fmt.Errorf("%w: the cluster has not been laid out", shard.ErrUnavailable)
	}
	right := s.Map().Lookup(key)
	switch {
	case len(key) == 0:
		return nil, fmt.Errorf("%w: the range that begins at the empty key is the first: it has no left neighbour", shard.ErrInvalid)
	case !bytes.Equal(right.Span.Start, key):
		return nil, fmt.Errorf("%w: %q is no border: it lies in %v, which is %v; name the first key of the range that is to become part of its left neighbour",
			shard.ErrInvalid, key, right.ID, right.Span)
	}
	left, _ := s.Map().Before(key)
	op := shard.Op{Kind: shard.OpMerge, Range: left.ID, Generation: left.Generation, Key: key, Child: right.ID, ChildGeneration: right.Generation, Reason: reason, Began: now}
	if _, err := s.refuses(s, &op); err != nil {
		return nil, err
	}
	return &pb.MetaEntry{BeginOp: &pb.MetaBeginOp{Op: pb.FromOp(&op)}}, nil
}

// mergeable refuses a merge that the ranges do not allow.
func mergeable(s *State, left shard.Descriptor, op *shard.Op) error {
	right, found := s.Map().Get(op.Child)
	switch {
	case !found || right.Generation != op.ChildGeneration || !bytes.Equal(left.Span.End, right.Span.Start) || len(left.Span.End) == 0 || !bytes.Equal(op.Key, right.Span.Start):
		return fmt.Errorf("%w: %v is not the right neighbour of %v any more: look at the ranges again", shard.ErrOpInWay, op.Child, left.ID)
	case !shard.SameNodes(left.Replicas, right.Replicas):
		return fmt.Errorf("%w: %v is on %s and %v on %s: both must be on the same nodes (see `client ranges move`)", shard.ErrInvalid, left.ID, nodesOf(left), right.ID, nodesOf(right))
	}
	return allVoters(right)
}

// allVoters refuses a range whose configuration is being changed. The meta group alone has replicas that go on learning.
func allVoters(d shard.Descriptor) error {
	for _, r := range d.Replicas {
		if r.Role != shard.Voter && (r.Role != shard.Learner || d.ID != shard.MetaID) {
			return fmt.Errorf("%w: the replica of %v on node %v is %v: its configuration is being changed", shard.ErrOpInWay, d.ID, r.Node, r.Role)
		}
	}
	return nil
}

// takesPart reports whether a range is in an op.
func takesPart(op *shard.Op, id shard.RangeID) bool {
	return op.Range == id || op.Kind == shard.OpMerge && op.Child == id
}

func nodesOf(d shard.Descriptor) string {
	var on []string
	for _, r := range d.Replicas {
		on = append(on, r.Node.String())
	}
	return strings.Join(on, ", ")
}

// opFeatures are what the cluster must speak for an op of a kind.
var opFeatures = map[shard.OpKind]clusterversion.Feature{shard.OpSplit: clusterversion.Splits, shard.OpMove: clusterversion.Moves, shard.OpMerge: clusterversion.Merges}

// refuses says why an op may not begin, nil if it may, and what its range is.
func (o *ops) refuses(s *State, op *shard.Op) (d shard.Descriptor, err error) {
	if need := opFeatures[op.Kind]; !s.version.Active(need) {
		return d, tooOld(s, need)
	}
	d, found := descriptor(s, op.Range)
	i := slices.IndexFunc(o.open, func(other shard.Op) bool {
		return takesPart(&other, op.Range) || op.Kind == shard.OpMerge && takesPart(&other, op.Child)
	})
	switch {
	case !found:
		return d, fmt.Errorf("%w: there is no range %v", shard.ErrInvalid, op.Range)
	case i >= 0 && !mutate.On(mutate.OpsOverlap):
		return d, fmt.Errorf("%w: %v, the range %v, is %s by op %d: wait for its end (see `client ops`)",
			shard.ErrOpInWay, d.ID, d.Span, o.open[i].Kind.Doing(), o.open[i].ID)
	case op.Generation != d.Generation:
		return d, fmt.Errorf("%w: %v has changed: it is at generation %d, and the op is for generation %d: look at the ranges again",
			shard.ErrOpInWay, d.ID, d.Generation, op.Generation)
	}
	if err := fits(s, d, op); err != nil {
		return d, err
	}
	if len(o.open) >= OpsUnderWayMax {
		return d, fmt.Errorf("%w: %d ops are under way, and there may not be more: wait for the end of one (see `client ops`)", shard.ErrOpInWay, len(o.open))
	}
	return d, nil
}

// fits refuses an op that its range does not allow as it is.
func fits(s *State, d shard.Descriptor, op *shard.Op) error {
	if err := allVoters(d); err != nil { // of an op that was lost with a state of meta's, which must not happen
		return err
	}
	switch {
	case op.Kind == shard.OpSplit && d.ID == shard.MetaID:
		return fmt.Errorf("%w: the meta group holds no keys, and cannot be split", shard.ErrInvalid)
	case op.Kind == shard.OpSplit && op.Until != 0 && !s.version.Active(clusterversion.Borders):
		return tooOld(s, clusterversion.Borders)
	case op.Kind == shard.OpSplit:
		if err := insideOf(d, op.Key); err != nil || op.Until == 0 {
			return err
		}
		return s.full(op.Key, op.Began)
	case op.Kind == shard.OpMerge:
		return mergeable(s, d, op)
	}
	return movable(s, d, op)
}

// movable refuses a move that the range, or the members, do not allow.
func movable(s *State, d shard.Descriptor, op *shard.Op) error {
	to, learns := op.To.Node, op.To.Role == shard.Learner
	i := slices.IndexFunc(s.list, func(m shard.Member) bool { return m.ID == to })
	at, there := d.ReplicaOn(to)
	voters := votersOf(d)
	switch {
	case op.From == shard.Replica{} && to == 0:
		return fmt.Errorf("%w: a move from nowhere to nowhere: name the node that a replica is to leave, or the one that it is to come to, or both", shard.ErrInvalid)
	case op.From != shard.Replica{} && !slices.Contains(d.Replicas, op.From):
		return fmt.Errorf("%w: %v has no replica %d on node %v", shard.ErrInvalid, d.ID, op.From.ID, op.From.Node)
	case to != 0 && op.From.Role == shard.Learner:
		return fmt.Errorf("%w: the replica of %v on node %v learns: take it away, and add one on node %v", shard.ErrInvalid, d.ID, op.From.Node, to)
	case to == 0 && voters == 1 && op.From.Role == shard.Voter:
		return fmt.Errorf("%w: the replica of %v on node %v is its only one: name a node to move it to", shard.ErrInvalid, d.ID, op.From.Node)
	case to == 0:
		return nil
	case i < 0:
		return fmt.Errorf("%w: node %v is no member of the cluster: name one of them (see `client members`), or add it", shard.ErrInvalid, to)
	case s.list[i].State != shard.MemberPresent && !mutate.On(mutate.MembersMoveTo):
		return fmt.Errorf("%w: node %v is %v, and takes no replicas: name another one%s", shard.ErrInvalid, to, s.list[i].State, undrain(s.list[i].State))
	case learns && (d.ID != shard.MetaID || op.From != shard.Replica{}):
		return fmt.Errorf("%w: only the meta group has replicas that learn, beside those that vote", shard.ErrInvalid)
	case there && (learns || at.Role == shard.Voter):
		return fmt.Errorf("%w: node %v has a replica of %v already: name a node that has none, it is on %s", shard.ErrInvalid, to, d.ID, nodesOf(d))
	case learns && len(d.Replicas)-voters >= LearnersMax:
		return fmt.Errorf("%w: %v has %d replicas that learn, and may not have more", shard.ErrInvalid, d.ID, len(d.Replicas)-voters)
	case !learns && voters >= mostReplicas(d.ID) && op.From == shard.Replica{}:
		return fmt.Errorf("%w: %v has %d replicas, and may not have more", shard.ErrInvalid, d.ID, voters)
	}
	return nil
}

// undrain says how a member takes replicas again, where that is possible.
func undrain(as shard.MemberState) string {
	if as == shard.MemberDraining {
		return ", or let it take some again (`client nodes undrain`)"
	}
	return ""
}

// votersOf is how many replicas of a range vote.
func votersOf(d shard.Descriptor) (n int) {
	for _, r := range d.Replicas {
		if r.Votes() {
			n++
		}
	}
	return n
}

func mostReplicas(id shard.RangeID) int {
	if id == shard.MetaID {
		return shard.MetaVotersMax
	}
	return replicasMax
}

// insideOf refuses a key at which a range cannot be cut.
func insideOf(d shard.Descriptor, key []byte) error {
	switch {
	case len(key) == 0:
		return fmt.Errorf("%w: the key space begins at the empty key, and cannot be cut there: name the first key that the right part is to have", shard.ErrInvalid)
	case bytes.Equal(key, d.Span.Start):
		return fmt.Errorf("%w: %q is a border already: %v begins there", shard.ErrInvalid, key, d.ID)
	case !d.Span.Contains(key):
		return fmt.Errorf("%w: the key %q is not in %v, which is %v", shard.ErrInvalid, key, d.ID, d.Span)
	}
	return nil
}

// tooOld refuses what the cluster's version does not allow yet.
func tooOld(s *State, f clusterversion.Feature) error {
	return fmt.Errorf("%w: %s need version %d of the formats, and the cluster is at %d%s", shard.ErrUnimplemented,
		f.Name, f.Since, s.version, heldBack(s.list, f.Since))
}

// heldBack names the members that do not speak a version of the formats.
func heldBack(members []shard.Member, v clusterversion.Version) string {
	var names []string
	for _, m := range members {
		if !isNew(&m) && clusterversion.Version(m.Formats).OrFirst() < v {
			names = append(names, cmp.Or(m.Name, m.ID.String()))
		}
	}
	if len(names) == 0 {
		return "; it rises by itself now that all members speak it: try again"
	}
	return "; it rises by itself when all members run a release that speaks it, which these do not: " + strings.Join(names, ", ")
}

// begin takes an op in, and gives out the ids that it needs.
func (o *ops) begin(s *State, e *pb.MetaBeginOp) Result {
	op := pb.ToOp(e.Op)
	if _, known := opFeatures[op.Kind]; !known {
		return Result{Err: fmt.Errorf("%w: the meta group's log begins an %v, which this version does not know", shard.ErrCorrupt, op.Kind)}
	}
	d, err := o.refuses(s, &op)
	if err != nil {
		return Result{Err: err}
	}
	op.ID = shard.OpID(s.next.ops)
	s.next.ops++
	switch op.Kind {
	case shard.OpSplit:
		op.Child = shard.RangeID(s.next.ranges)
		s.next.ranges++
		op.Replicas = slices.Clone(d.Replicas)
		for i := range op.Replicas {
			s.next.replica(&op.Replicas[i])
		}
	case shard.OpMove:
		if op.To.Role != shard.Learner {
			op.To.Role = shard.Voter
		}
		if at, learns := d.ReplicaOn(op.To.Node); learns {
			op.To = shard.Replica{ID: at.ID, Node: at.Node, Role: shard.Joining} // which is there already
		} else if op.To.Node != 0 {
			s.next.replica(&op.To)
		}
	}
	op.Ended, op.Failure, op.Stood = 0, "", 0
	o.open = append(slices.Clip(o.open), op)
	return Result{Op: op}
}

// step takes in how far a move has come. What the map has already is taken in once more without an effect.
func (o *ops) step(s *State, e *pb.MetaStepOp) Result {
	i := slices.IndexFunc(o.open, func(op shard.Op) bool { return op.ID == shard.OpID(e.Id) })
	if i < 0 {
		return Result{Err: fmt.Errorf("%w: op %d is not under way", shard.ErrInvalid, e.Id)}
	}
	op, d := o.open[i], pb.ToDescriptor(e.Range)
	was, _ := descriptor(s, op.Range)
	switch {
	case op.Kind != shard.OpMove || d.ID != op.Range || !d.Span.Equal(was.Span) || !moving(&op, was, d):
		return Result{Err: fmt.Errorf("%w: op %d, a %v of %v, does not leave %s on its way", shard.ErrInvalid, op.ID, op.Kind, op.Range, describe([]shard.Descriptor{d}))}
	case d.Generation <= was.Generation && !mutate.On(mutate.OpsOlder):
		return Result{Op: op}
	}
	if err := take(s, []shard.Descriptor{d}); err != nil {
		return Result{Err: fmt.Errorf("op %d cannot come to %s: %w", op.ID, describe([]shard.Descriptor{d}), err)}
	}
	return Result{Op: op}
}

// end takes in what has become of an op, and the ranges that it has left. They must tile what they displace in the map, and
// none may be older than that.
func (o *ops) end(s *State, e *pb.MetaEndOp) Result {
	i := slices.IndexFunc(o.open, func(op shard.Op) bool { return op.ID == shard.OpID(e.Id) })
	if i < 0 {
		return Result{Err: fmt.Errorf("%w: op %d is not under way", shard.ErrInvalid, e.Id)}
	}
	op := o.open[i]
	ds := pb.ToDescriptors(e.Ranges)
	was, _ := descriptor(s, op.Range)      // which stays as it is while it is in an op
	right, _ := s.ranges.now.Get(op.Child) // of a merge: the same holds
	err := leftBy(&op, was, right.Span, ds, e.Failure != "")
	if err == nil {
		err = notOlder(&op, s.ranges.now, ds)
	}
	if err == nil {
		err = take(s, ds)
	}
	if err != nil && !mutate.On(mutate.OpsOverEarly) {
		return Result{Err: fmt.Errorf("op %d cannot end with %s: %w", op.ID, describe(ds), err)}
	}
	op.Ended = max(e.EndedMs, op.Began, 1)
	op.Failure, op.Stood = e.Failure, time.Duration(e.StoodUs)*time.Microsecond
	o.open = slices.Delete(slices.Clone(o.open), i, i+1)
	o.over = append(slices.Clip(o.over[max(len(o.over)+1-OpsOverMax, 0):]), op)
	s.borders.ended(&op)
	return Result{Op: op}
}

// leftBy checks that ranges are those that an op leaves of its range, and hold exactly its keys: a split both parts together, one
// that was given up the range as it was.
func leftBy(op *shard.Op, before shard.Descriptor, rightWas shard.Span, ds []shard.Descriptor, givenUp bool) error {
	was := before.Span
	if op.Kind == shard.OpMerge {
		return mergedTo(op, was, rightWas, ds, givenUp)
	}
	switch {
	case op.Kind == shard.OpMove && len(ds) == 1 && ds[0].ID == op.Range && ds[0].Span.Equal(was) && movedTo(op, before, ds[0], givenUp):
		return nil
	case op.Kind == shard.OpMove:
		return fmt.Errorf("%w: that is not what it leaves of %v, which is %v", shard.ErrInvalid, op.Range, was)
	case givenUp && len(ds) == 1 && ds[0].ID == op.Range && ds[0].Span.Equal(was):
		return nil
	case !givenUp && len(ds) == 2 && ds[0].ID == op.Range && ds[1].ID == op.Child &&
		ds[0].Span.Equal(shard.Span{Start: was.Start, End: op.Key}) && ds[1].Span.Equal(shard.Span{Start: op.Key, End: was.End}):
		return nil
	}
	return fmt.Errorf("%w: that is not what it leaves of %v, which is %v, with %v from %q on", shard.ErrInvalid, op.Range, was, op.Child, op.Key)
}

// mergedTo checks that a merge leaves one range with the keys of both, or, where it was given up, the left as it was, and the right if that was frozen.
func mergedTo(op *shard.Op, left, right shard.Span, ds []shard.Descriptor, givenUp bool) error {
	switch {
	case !givenUp && len(ds) == 1 && ds[0].ID == op.Range && ds[0].Span.Equal(shard.Span{Start: left.Start, End: right.End}) && ds[0].Generation > op.ChildGeneration:
		return nil
	case givenUp && (len(ds) == 1 || len(ds) == 2 && ds[1].ID == op.Child && ds[1].Span.Equal(right)) && ds[0].ID == op.Range && ds[0].Span.Equal(left):
		return nil
	}
	return fmt.Errorf("%w: that is not what it leaves of %v, which is %v, and %v, which is %v", shard.ErrInvalid, op.Range, left, op.Child, right)
}

// movedTo reports whether a range has the replicas that a move leaves, or, where it was given up, those that it began with.
func movedTo(op *shard.Op, was, d shard.Descriptor, givenUp bool) bool {
	as := shard.Voter
	if op.To.Role == shard.Learner {
		as = shard.Learner
	}
	came := op.To.ID == 0 || holds(d, op.To, as) != givenUp
	left := op.From.ID == 0 || holds(d, op.From, op.From.Role) == givenUp
	want := others(op, was)
	if op.To.ID != 0 && (!givenUp || op.To.Role == shard.Joining) {
		want++
	}
	if op.From.ID != 0 && givenUp {
		want++
	}
	return came && left && len(d.Replicas) == want && sameOthers(op, was, d)
}

// moving reports whether a range has the replicas that it has between two steps of a move, or that it began with.
func moving(op *shard.Op, was, d shard.Descriptor) bool {
	want := others(op, was)
	for _, r := range []struct {
		shard.Replica
		roles [2]shard.Role
	}{{op.From, [2]shard.Role{shard.Voter, shard.Leaving}}, {op.To, [2]shard.Role{shard.Learner, shard.Joining}}} {
		if r.ID != 0 && (holds(d, r.Replica, r.roles[0]) || holds(d, r.Replica, r.roles[1])) {
			want++
		}
	}
	stays := op.From.ID == 0 || holds(d, op.From, shard.Voter) || holds(d, op.From, shard.Leaving)
	return stays && len(d.Replicas) == want && sameOthers(op, was, d)
}

func holds(d shard.Descriptor, r shard.Replica, role shard.Role) bool {
	return slices.Contains(d.Replicas, shard.Replica{ID: r.ID, Node: r.Node, Role: role})
}

// others counts the replicas of a range that a move does not touch.
func others(op *shard.Op, d shard.Descriptor) (n int) {
	for _, r := range d.Replicas {
		if r.ID != op.From.ID && r.ID != op.To.ID {
			n++
		}
	}
	return n
}

// sameOthers reports whether the replicas that a move does not touch are as they were.
func sameOthers(op *shard.Op, was, d shard.Descriptor) bool {
	if mutate.On(mutate.OpsReplicas) {
		return true
	}
	for _, r := range was.Replicas {
		if r.ID != op.From.ID && r.ID != op.To.ID && !slices.Contains(d.Replicas, r) {
			return false
		}
	}
	return true
}

// notOlder refuses ranges that are older than what they displace, or at the generation at which the op may yet apply.
func notOlder(op *shard.Op, m *shard.Map, ds []shard.Descriptor) error {
	if mutate.On(mutate.OpsOlder) {
		return nil
	}
	for _, d := range ds {
		began := op.Generation
		if op.Kind == shard.OpMerge && d.ID == op.Child { // which has generations of its own
			began = op.ChildGeneration
		}
		if d.Generation <= began {
			return fmt.Errorf("%w: it may yet apply to %v at generation %d", shard.ErrInvalid, d.ID, began)
		}
		if d.ID == shard.MetaID { // which the map does not have: see take
			continue
		}
		for old := range m.Overlapping(d.Span) {
			if old.Generation > d.Generation || old.Generation == d.Generation && op.Kind != shard.OpMove { // a move is reported step by step
				return fmt.Errorf("%w: the map has %v %v at generation %d", shard.ErrInvalid, old.ID, old.Span, old.Generation)
			}
		}
	}
	return nil
}

// describe is for a message.
func describe(ds []shard.Descriptor) string {
	var out []string
	for _, d := range ds {
		out = append(out, fmt.Sprintf("%v %v at generation %d", d.ID, d.Span, d.Generation))
	}
	return cmp.Or(strings.Join(out, " and "), "no range")
}
