package mixin

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/rulefmt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"pontoon/test/e2e/harness"
)

// gatewayRules is what sites load that have gateways.
const gatewayRules = "../../docs/alerts/gateways.yml"

// shipped are the alerts of a file of rules.
func shipped(t *testing.T, file string) (out []alert) {
	t.Helper()
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, promQL, promslog.NewNopLogger())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			out = append(out, alert{r.Alert, r.Labels["severity"], time.Duration(r.For), r.Expr})
		}
	}
	return out
}

// gatewayFaults fire the alerts of gateways.
var gatewayFaults = []fault{
	{"two members are gone that a range needs", []string{"PontoonLinkLag/warning"}, false, 15 * time.Minute, noQuorum},
	{"all members are gone", []string{"PontoonFeedsStarved/critical"}, false, 15 * time.Minute, allGone},
	{"what is to be mirrored has no room", []string{"PontoonMirrorsVoid/warning"}, false, 15 * time.Minute, noRoom},
	{"clients take nothing", []string{"PontoonDeliveryMemory/warning"}, false, 15 * time.Minute, stuck},
}

// TestEveryGatewayAlertHasItsFault: none is left out.
func TestEveryGatewayAlertHasItsFault(t *testing.T) {
	everyAlertHasItsFault(t, shipped(t, gatewayRules), gatewayFaults)
}

// TestGatewayAlerts: under load none fires, each is fired by its fault, and resolves after it.
func TestGatewayAlerts(t *testing.T) {
	s := newGatewaySite(t)
	t.Run("everyday", func(t *testing.T) { everydayOf(t, s, s.w.alerts, nil) })
	for _, f := range gatewayFaults {
		t.Run(f.name, func(t *testing.T) { happens(t, s, f) })
	}
	t.Logf("fired: %v", s.w.fired())
}

// newGatewaySite is a site of five nodes whose ranges have three replicas each, and whose clients go through a gateway.
func newGatewaySite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	dir := t.TempDir()
	var err error
	if s.Cluster, err = harness.New(harness.Options{
		Kind: harness.Pontoon, Binary: nodeBinary(t), Dir: dir, Nodes: 5, Ranges: 8, Args: []string{"--replication-factor=3", "--placement=off"},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.keepLogs(t); _ = s.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	g, err := s.AddGateway("g1", "--mirror-prefixes="+mirrored, "--mirror-size=1MiB", "--delivery-memory=16MiB")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if s.w, err = watch(filepath.Join(dir, "prometheus"), []string{g.ClientURL}, shipped(t, gatewayRules)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.w.close(); err != nil {
			t.Error(err)
		}
	})
	s.clients = append(s.clients, s.client(t, g))
	s.everyday(t)
	return s
}

// noQuorum kills two of the three members that have a range: it has no leader any more, and the third is still asked for its feed. The meta group has
// three of its five replicas left.
func noQuorum(ctx context.Context, t *testing.T, s *site) func() {
	list, err := harness.Ops{ClientURL: s.Nodes[0].ClientURL}.Ranges(ctx)
	if err != nil || len(list) == 0 || len(list[0].Replicas) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	var gone []*harness.Node
	for _, r := range list[0].Replicas[:2] {
		gone = append(gone, s.Nodes[slices.IndexFunc(s.Nodes, func(n *harness.Node) bool { return n.Name == r.Name })])
	}
	return killed(t, s, gone)
}

func allGone(_ context.Context, t *testing.T, s *site) func() { return killed(t, s, s.Nodes) }

// killed kills members; the end starts them again.
func killed(t *testing.T, s *site, which []*harness.Node) func() {
	for _, n := range which {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, n := range which {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// mirrored is the prefix that the gateway has in memory, and unread that of what nobody takes.
const mirrored, unread = "m/", "u/"

// noRoom puts twice as much under the mirrored prefix as mirrors may take; the end deletes it.
func noRoom(ctx context.Context, t *testing.T, s *site) func() {
	value := strings.Repeat("v", 64<<10)
	for i := range 32 {
		mustPut(ctx, t, s, fmt.Sprintf("%s%d", mirrored, i), value)
	}
	return func() {
		if _, err := s.clients[0].Delete(ctx, mirrored, clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
	}
}

// stuck has watchers that are told of their watch and read nothing more: each of keys of its own, of which 2 MiB are due to it. The end is that of their
// connection.
func stuck(ctx context.Context, t *testing.T, s *site) func() {
	const watchers, values = 24, 32
	conn, err := grpc.NewClient(strings.TrimPrefix(s.Gateways[0].ClientURL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range watchers {
		w, err := etcdserverpb.NewWatchClient(conn).Watch(context.WithoutCancel(ctx))
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("%s%d/", unread, i)
		create := &etcdserverpb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(key))}
		if err := w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	value := strings.Repeat("v", 64<<10)
	for n := range values {
		for i := range watchers {
			mustPut(ctx, t, s, fmt.Sprintf("%s%d/%d", unread, i, n), value)
		}
	}
	return func() { _ = conn.Close() }
}

func mustPut(ctx context.Context, t *testing.T, s *site, key, value string) {
	t.Helper()
	if _, err := s.clients[0].Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
}
