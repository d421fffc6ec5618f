package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

func metricsOf(ctx context.Context, n *harness.Node) (harness.Series, error) {
	return harness.ReadSeries(ctx, n, nil)
}

// TestMetricsOfEtcdsAlerts: what the rules and panels ask for that sites have for etcd is there from the start, and moves where something happens.
func TestMetricsOfEtcdsAlerts(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, 2*time.Minute)
	cl := newClient(t, c)
	for _, n := range c.Nodes {
		s, err := metricsOf(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, zero := range [][]string{
			{"grpc_server_handled_total", "grpc_method", "Put", "grpc_code", "Unavailable"},
			{"etcd_server_proposals_failed_total"}, {"etcd_server_proposals_pending"},
			{"etcd_server_request_duration_seconds", "type", "Put", "success", "true"},
		} {
			if v, err := s.Value(zero[0], zero[1:]...); err != nil || v != 0 {
				t.Errorf("%s: %v is %v, %v", n.Name, zero, v, err)
			}
		}
	}
	for i, prefix := range loadPrefixes() {
		own := newClient(t, c, c.Nodes[i%len(c.Nodes)].ClientURL)
		for range 2 {
			if _, err := own.Put(ctx, prefix+"/metrics", "v"); err != nil {
				t.Fatal(err)
			}
		}
		read, err := own.Get(ctx, prefix+"/metrics")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := own.Compact(ctx, read.Header.Revision, clientv3.WithCompactPhysical()); err != nil { // which every replica writes to its file
			t.Fatal(err)
		}
	}
	list, err := cl.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, m := range list.Members {
		ids[m.Name] = strconv.FormatUint(m.ID, 16)
	}
	for _, n := range c.Nodes {
		eventually(t, limit(20*time.Second), n.Name+" shows what it does", func() error {
			s, err := metricsOf(ctx, n)
			if err != nil {
				return err
			}
			names := [][]string{
				{"etcd_disk_wal_fsync_duration_seconds"}, {"etcd_disk_wal_write_bytes_total"}, {"etcd_disk_backend_commit_duration_seconds"},
				{"etcd_server_id", "server_id", ids[n.Name]}, {"etcd_server_has_leader"},
				{"etcd_mvcc_put_total"}, {"etcd_mvcc_range_total"}, {"etcd_server_range_duration_seconds", "success", "true"},
				{"etcd_server_request_duration_seconds", "type", "Put", "success", "true"}, {"os_fd_used"}, {"os_fd_limit"},
			}
			for name, id := range ids {
				if name != n.Name {
					names = append(names, []string{"etcd_network_peer_sent_bytes_total", "To", id}, []string{"etcd_network_peer_received_bytes_total", "From", id},
						[]string{"etcd_network_peer_round_trip_time_seconds", "To", id}, []string{"etcd_network_active_peers", "Remote", id, "Local", ids[n.Name]})
				}
			}
			for _, name := range names {
				if err := s.Positive(name[0], name[1:]...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	peerDownShows(ctx, t, c, ids)
}

// peerDownShows: a member that is gone is one that the others fail to send to, and is no more once it is back.
func peerDownShows(ctx context.Context, t *testing.T, c *harness.Cluster, ids map[string]string) {
	t.Helper()
	gone, other := c.Nodes[2], c.Nodes[0]
	failures := func() (float64, error) {
		s, err := metricsOf(ctx, other)
		if err != nil {
			return 0, err
		}
		return s.Value("etcd_network_peer_sent_failures_total", "To", ids[gone.Name])
	}
	before, err := failures()
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(10*time.Second), "sending to a dead member fails", func() error {
		now, err := failures()
		if err == nil && now < before+5 {
			err = fmt.Errorf("%v failures, %v before", now, before)
		}
		return err
	})
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	if err := gone.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(20*time.Second), "sending to it fails no more", func() error {
		was, err := failures()
		if err != nil {
			return err
		}
		time.Sleep(time.Second)
		now, err := failures()
		if err == nil && now != was {
			err = fmt.Errorf("%v failures, %v a second before", now, was)
		}
		return err
	})
}
