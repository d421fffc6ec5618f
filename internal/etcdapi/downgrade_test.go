package etcdapi_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

// TestDowngrade: targets are judged as by etcd 3.7, nothing is begun, and to cancel is answered with the cluster's version.
func TestDowngrade(t *testing.T) {
	var logs bytes.Buffer
	f := start(t, func(c *etcdapi.Config) { c.Logger = slog.New(slog.NewJSONHandler(&logs, nil)) })
	for target, want := range map[string]error{
		"3.6": nil, "3.6.0": nil, "3.6.9": nil,
		"3.7": rpctypes.ErrInvalidDowngradeTargetVersion, "3.5": rpctypes.ErrInvalidDowngradeTargetVersion, "3.8.0": rpctypes.ErrInvalidDowngradeTargetVersion,
		"2.6": rpctypes.ErrInvalidDowngradeTargetVersion, "0.0": rpctypes.ErrInvalidDowngradeTargetVersion,
		"": rpctypes.ErrWrongDowngradeVersionFormat, "3": rpctypes.ErrWrongDowngradeVersionFormat, "v3.6": rpctypes.ErrWrongDowngradeVersionFormat,
		"3.6.0.0": rpctypes.ErrWrongDowngradeVersionFormat, "3.-6.0": rpctypes.ErrWrongDowngradeVersionFormat,
	} {
		resp, err := f.cli.Downgrade(f.ctx, clientv3.DowngradeValidate, target)
		if !errors.Is(err, want) {
			t.Errorf("validate %q: %v, want %v", target, err, want)
		}
		if want == nil && (resp.Version != "3.7" || resp.Header.GetMemberId() == 0) {
			t.Errorf("validate %q: %v", target, resp)
		}
		if want == nil {
			if _, err := f.cli.Downgrade(f.ctx, clientv3.DowngradeEnable, target); err == nil || !strings.Contains(err.Error(), "no older version of Pontoon") {
				t.Errorf("enable %q: %v", target, err)
			}
		} else if _, err := f.cli.Downgrade(f.ctx, clientv3.DowngradeEnable, target); !errors.Is(err, want) {
			t.Errorf("enable %q: %v, want %v", target, err, want)
		}
	}
	if resp, err := f.cli.Downgrade(f.ctx, clientv3.DowngradeCancel, ""); err != nil || resp.Version != "3.7" {
		t.Errorf("cancel: %v, %v", resp, err)
	}
	if st, err := f.cli.Status(f.ctx, f.addr); err != nil || st.DowngradeInfo.GetEnabled() || st.DowngradeInfo.GetTargetVersion() != "" {
		t.Errorf("status: %v, %v", st, err)
	}
	_, err := etcdserverpb.NewMaintenanceClient(f.conn(t)).Downgrade(f.ctx, &etcdserverpb.DowngradeRequest{Action: 7, Version: "3.6"})
	if status.Code(err) != codes.Unknown || rpctypes.ErrorDesc(err) != "etcdserver: unknown method" {
		t.Errorf("action 7: %v", err)
	}
	f.api.Close()
	for _, want := range []string{`"msg":"reject downgrade request","error":"etcdserver: invalid downgrade target version"`, `"msg":"failed to cancel downgrade","error":"etcdserver: no inflight downgrade job"`} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
}

// TestDowngradeWithoutQuorum: a node that cannot be sure of the cluster's state says so, and not that the target would do.
func TestDowngradeWithoutQuorum(t *testing.T) {
	s := apitest.New()
	s.Fail = func(call string) error {
		if call == "Current" {
			return shard.ErrUnavailable
		}
		return nil
	}
	f := startStore(t, s, nil)
	mc := etcdserverpb.NewMaintenanceClient(f.conn(t))
	if _, err := mc.Downgrade(f.ctx, &etcdserverpb.DowngradeRequest{Version: "3.6"}); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader) {
		t.Errorf("validate: %v", err)
	}
	if _, err := mc.Downgrade(f.ctx, &etcdserverpb.DowngradeRequest{Version: "x"}); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCWrongDowngradeVersionFormat) {
		t.Errorf("a format: %v", err)
	}
}
