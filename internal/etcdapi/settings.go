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

// settings are the newest that are known here.
func (a *API) settings() *placement.Settings {
	if a.cfg.Settings == nil {
		return unsettled
	}
	return a.cfg.Settings()
}

// checked says that a write may be carried out under the settings that are known here, for whom, and under which these are. Whoever gives it a revision asks
// for it under these.
func (a *API) checked(ctx context.Context, op *pb.Op) (shard.Checked, error) {
	w, err := a.guard.write(ctx, op, a.keysOf)
	if err != nil {
		return shard.Checked{}, err
	}
	s := a.settings() // no older than what it was judged by
	err = s.Allows(w, op)
	if errors.Is(err, shard.ErrNoSpace) || errors.Is(err, shard.ErrClusterCorrupt) {
		// This node may not have heard yet that the alarm is over: what was told to somebody before the request came holds for it. An answer of the oracle
		// brings newer settings with it.
		if _, unknown := a.cfg.KV.Current(ctx); unknown == nil {
			s = a.settings()
			err = s.Allows(w, op)
		}
	}
	if err != nil {
		return shard.Checked{}, err
	}
	return shard.Checked{Settings: s.Version, Who: w}, nil
}
