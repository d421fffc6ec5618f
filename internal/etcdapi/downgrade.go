package etcdapi

import (
	"context"
	"log/slog"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
)

// Downgrade tells whether the cluster could go back to a target version, as far as etcd's API goes, and never begins it: no older build reads
// what this one writes. So nothing is ever under way, and to cancel it changes nothing; as in etcd the log alone says so then.
func (s *maintenanceServer) Downgrade(ctx context.Context, r *etcdserverpb.DowngradeRequest) (*etcdserverpb.DowngradeResponse, error) {
	var err error
	switch r.Action {
	case etcdserverpb.DowngradeRequest_VALIDATE:
		err = s.validateDowngrade(ctx, r.Version)
	case etcdserverpb.DowngradeRequest_ENABLE:
		if err = s.validateDowngrade(ctx, r.Version); err == nil {
			err = errNoOlderBuild
		}
		if err != nil {
			s.api.log.LogAttrs(ctx, slog.LevelWarn, "reject downgrade request", slog.String("error", rpctypes.ErrorDesc(err)))
		}
	case etcdserverpb.DowngradeRequest_CANCEL:
		s.api.log.LogAttrs(ctx, slog.LevelWarn, "failed to cancel downgrade", slog.String("error", rpctypes.ErrorDesc(rpctypes.ErrGRPCNoInflightDowngrade)))
	default:
		err = errUnknownMethod
	}
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.DowngradeResponse{Header: s.api.header(0), Version: version.Cluster(Version)}, nil
}

// validateDowngrade holds a target against the level of the API that the cluster has. As in etcd the format comes first, and then what only a
// member with a quorum is sure of.
func (s *maintenanceServer) validateDowngrade(ctx context.Context, target string) error {
	to, err := levelOf(target)
	if err != nil {
		return rpctypes.ErrGRPCWrongDowngradeVersionFormat
	}
	if _, err := s.api.cfg.KV.Current(ctx); err != nil {
		return toRPC(err)
	}
	level := semver.New(Version)
	if !to.Equal(semver.Version{Major: level.Major, Minor: level.Minor - 1}) {
		return rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	}
	return nil
}

// levelOf reads "3.6" or "3.6.0", of which the patch does not count.
func levelOf(s string) (semver.Version, error) {
	v, err := semver.NewVersion(s)
	if err != nil {
		v, err = semver.NewVersion(s + ".0")
	}
	if err != nil {
		return semver.Version{}, err
	}
	return semver.Version{Major: v.Major, Minor: v.Minor}, nil
}
