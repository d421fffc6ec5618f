package meta

import (
	"fmt"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// serveAuthChange decides a change of users and roles, and answers once nothing begins anywhere any more under what was before. Who may ask for it is
// decided where it applies, by what is in force there.
func serveAuthChange(c *call, req *pb.MetaAuth) {
	changeSettings(c, func() (*pb.MetaEntry, error) {
		if !c.m.state.ClusterVersion().Active(clusterversion.Settings) {
			return nil, fmt.Errorf("%w: a user or a role, as long as a member of the cluster does not speak version %d of the formats", shard.ErrUnimplemented, clusterversion.Settings.Since)
		}
		return &pb.MetaEntry{Auth: req}, nil
	}, func(state.Result) { c.reply(&pb.PeerResponse{Empty: &pb.Empty{}}, nil) })
}
