package etcdapi

import (
	"context"
	"errors"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// unsettled are the settings where nobody tells any: of a store without a cluster.
var unsettled = &placement.Settings{Version: placement.FirstSettings}

// now is the newest that is known here.
func (g *Guard) now() *placement.Settings {
	if g.settings == nil {
		return unsettled
	}
	return g.settings()
}

// Checked says that a write may be carried out under the settings that are known here, for whom, and under which these are. Whoever gives it a revision asks
// for it under these.
func (g *Guard) Checked(ctx context.Context, op *pb.Op, keys LeaseKeys) (shard.Checked, error) {
	w, err := g.write(ctx, op, keys)
	if err != nil {
		return shard.Checked{}, err
	}
	s := g.now() // no older than what it was judged by
	err = s.Allows(w, op)
	if errors.Is(err, shard.ErrNoSpace) || errors.Is(err, shard.ErrClusterCorrupt) {
		// This node may not have heard yet that the alarm is over: what was told to somebody before the request came holds for it. An answer of the oracle
		// brings newer settings with it.
		if _, unknown := g.current(ctx); unknown == nil {
			s = g.now()
			err = s.Allows(w, op)
		}
	}
	if err != nil {
		return shard.Checked{}, err
	}
	return shard.Checked{Settings: s.Version, Who: w}, nil
}
