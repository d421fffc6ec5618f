package link

import (
	"errors"
	"fmt"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// LevelMax is how many gateways may stand one behind the other.
const LevelMax = 4

// wayMax bounds the gateways by way of which feeds may come.
const wayMax = 256

// NewWay is the way of feeds to a gateway, by way of others: those from which it has feeds. It is not to be written.
func NewWay(self shard.NodeID, by ...*pb.LinkWay) *pb.LinkWay {
	w := &pb.LinkWay{Gateways: []uint64{uint64(self)}, Level: 1}
	for _, u := range by {
		w.Gateways = append(w.Gateways, u.GetGateways()...)
		w.Level = max(w.Level, u.GetLevel()+1)
	}
	slices.Sort(w.Gateways)
	w.Gateways = slices.Compact(w.Gateways)
	return w
}

var (
	errRing = errors.New("it has feeds from this gateway itself: gateways that feed each other in a ring have none. Have --upstream lead to the members, at one of them at least")
	errDeep = fmt.Errorf("it is the last of %d gateways one behind the other, which is the most: give this one another --upstream, or none", LevelMax)
	errWide = fmt.Errorf("its feeds come by way of more than %d gateways: give it fewer --upstream", wayMax)
)

// CheckWay says why a gateway has no feeds from one to which they come by that way; nil: it may.
func CheckWay(self shard.NodeID, w *pb.LinkWay) error {
	switch {
	case slices.Contains(w.GetGateways(), uint64(self)) && !mutate.On(mutate.LinkRing):
		return errRing
	case w.GetLevel() >= LevelMax && !mutate.On(mutate.LinkDeep):
		return errDeep
	case len(w.GetGateways()) > wayMax:
		return errWide
	}
	return nil
}
