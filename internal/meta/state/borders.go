package state

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"pontoon/internal/clusterversion"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Bounds of the borders that are to stay: a split that is to leave another one is refused.
const (
	BordersMax      = 1 << 16
	bordersBytesMax = 16 << 20
)

// Border is a border between two ranges that is to stay, because somebody has asked for it: nobody but people merges it away.
type Border struct {
	Key   []byte // the first of the right one
	Until int64  // Unix time in milliseconds; shard.Forever: until it is taken back
}

// borders are those, and how the key space was cut at first.
type borders struct {
	stay  []Border // by key; what is in the slice is never written
	first int      // ranges of the first layout
}

// Borders returns those that are to stay, by key; the time of some may be over. The slice is shared and never written.
func (b *borders) Borders() []Border { return b.stay }

// FirstRanges is how many ranges the first layout has had; 0: nobody knows any more.
func (b *borders) FirstRanges() int { return b.first }

// full says why another border cannot stay; nil: it can. now is the Unix time in milliseconds.
func (b *borders) full(key []byte, now int64) error {
	left, size := 0, len(key)
	for _, x := range b.stay {
		if x.Until > now {
			left++
			size += len(x.Key)
		}
	}
	if left >= BordersMax || size > bordersBytesMax {
		return fmt.Errorf("%w: %d borders stay already, with keys of %d bytes: take some back (see `client ranges unstick`), or split with --sticky=false",
			shard.ErrTooManyRequests, left, size-len(key))
	}
	return nil
}

// find is where a border is, or would be.
func find(stay []Border, key []byte) (int, bool) {
	return slices.BinarySearchFunc(stay, key, func(x Border, key []byte) int { return bytes.Compare(x.Key, key) })
}

// ended is told of an op that is over: the border that a split was to leave stays, and one that is merged away does not.
func (b *borders) ended(op *shard.Op) {
	switch {
	case op.Outcome() != shard.OpDone || mutate.On(mutate.BordersForget):
	case op.Kind == shard.OpSplit && op.Until != 0:
		next := make([]Border, 0, len(b.stay)+1)
		for _, x := range b.stay {
			if x.Until > op.Ended && !bytes.Equal(x.Key, op.Key) { // others have had their time
				next = append(next, x)
			}
		}
		i, _ := find(next, op.Key)
		b.stay = slices.Insert(next, i, Border{op.Key, op.Until})
	case op.Kind == shard.OpMerge:
		b.forget(op.Key)
	}
}

// forget takes back that a border is to stay, and reports whether it was.
func (b *borders) forget(key []byte) bool {
	i, found := find(b.stay, key)
	if found {
		b.stay = slices.Delete(slices.Clone(b.stay), i, i+1)
	}
	return found
}

// unstick does so for whoever asks.
func (b *borders) unstick(s *State, e *pb.MetaUnstick) Result {
	switch {
	case !s.version.Active(clusterversion.Borders):
		return Result{Err: tooOld(s, clusterversion.Borders)}
	case !b.forget(e.Key):
		return Result{Err: fmt.Errorf("%w: nobody has asked for a border at %q to stay (see `client ranges`)", shard.ErrInvalid, e.Key)}
	}
	return Result{}
}

// stickyUntil is until when a border is to stay for so many seconds from now on, in milliseconds: 0: it need not, below 0: for ever.
func stickyUntil(seconds, now int64) int64 {
	switch {
	case seconds < 0 || seconds > math.MaxInt64/2000:
		return shard.Forever
	case seconds == 0:
		return 0
	}
	return now + 1000*seconds
}

func fromBorders(bs []Border) []*pb.MetaBorder {
	var out []*pb.MetaBorder
	for _, b := range bs {
		out = append(out, &pb.MetaBorder{Key: b.Key, UntilMs: b.Until})
	}
	return out
}

// toBorders is the reverse.
func toBorders(in []*pb.MetaBorder) ([]Border, error) {
	var out []Border
	for _, b := range in {
		if len(b.Key) == 0 || b.UntilMs <= 0 || len(out) > 0 && bytes.Compare(out[len(out)-1].Key, b.Key) >= 0 {
			return nil, fmt.Errorf("%w: meta state: the border %q is not in its place", shard.ErrCorrupt, b.Key)
		}
		out = append(out, Border{b.Key, b.UntilMs})
	}
	return out, nil
}
