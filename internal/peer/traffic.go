package peer

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"pontoon/shard"
)

// Traffic counts what goes between this node and each of the other members, on the connections that it has made and on
// those that it has accepted, and is a collector of that under etcd's names, where members are their ids in hexadecimal
// digits. Members that have left are forgotten. It is safe for concurrent use; the zero value is not ready, NewTraffic's is.
type Traffic struct {
	self   shard.NodeID
	others func() []shard.NodeID
	rtt    *prometheus.HistogramVec

	mu    sync.RWMutex
	nodes map[shard.NodeID]*nodeTraffic // members only
}

// nodeTraffic is what goes between this node and one other.
type nodeTraffic struct {
	sent, received             atomic.Uint64 // bytes of messages
	sendFailures, recvFailures atomic.Uint64
	connections, disconnected  atomic.Int64 // of those that this node makes
}

// NewTraffic returns the count of a node. Others tells the other members that there are now; it must not block.
func NewTraffic(self shard.NodeID, others func() []shard.NodeID) *Traffic {
	return &Traffic{
		self: self, others: others, nodes: map[shard.NodeID]*nodeTraffic{},
		rtt: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "etcd_network_peer_round_trip_time_seconds", Help: "Round-Trip-Time histogram between peers.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14), // etcd's
		}, []string{"To"}),
	}
}

// of is the count of a member; nil: the node is none.
func (t *Traffic) of(node shard.NodeID) *nodeTraffic {
	t.mu.RLock()
	n := t.nodes[node]
	t.mu.RUnlock()
	if n != nil {
		return n
	}
	t.refresh()
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.nodes[node]
}

// refresh keeps the counts of the members that there are.
func (t *Traffic) refresh() {
	others := t.others()
	t.mu.Lock()
	defer t.mu.Unlock()
	is := make(map[shard.NodeID]*nodeTraffic, len(others))
	for _, node := range others {
		if is[node] = t.nodes[node]; is[node] == nil {
			is[node] = &nodeTraffic{}
		}
	}
	for node := range t.nodes {
		if is[node] == nil {
			t.rtt.DeleteLabelValues(formatID(uint64(node)))
		}
	}
	t.nodes = is
}

// RoundTrip notes how long a member took to answer a probe.
func (t *Traffic) RoundTrip(node shard.NodeID, took time.Duration) {
	if t.of(node) != nil {
		t.rtt.WithLabelValues(formatID(uint64(node))).Observe(took.Seconds())
	}
}

// unreachable notes that a connection to a node could not be made.
func (t *Traffic) unreachable(node shard.NodeID) {
	if t == nil {
		return
	}
	if n := t.of(node); n != nil {
		n.sendFailures.Add(1)
	}
}

// Accepted counts the streams that the other members have opened. It is an option of the peer port's server.
func (t *Traffic) Accepted() stats.Handler { return accepted{t} }

// dialled counts the streams of a connection to a node.
func (t *Traffic) dialled(node shard.NodeID) stats.Handler { return dialled{t, node} }

type dialled struct {
	t    *Traffic
	node shard.NodeID
}

// TagRPC implements stats.Handler.
func (d dialled) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (d dialled) HandleRPC(_ context.Context, s stats.RPCStats) {
	if n := d.t.of(d.node); n != nil {
		n.note(s, &n.sendFailures)
	}
}

// TagConn implements stats.Handler.
func (d dialled) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (d dialled) HandleConn(_ context.Context, s stats.ConnStats) {
	n := d.t.of(d.node)
	if n == nil {
		return
	}
	switch s.(type) {
	case *stats.ConnBegin:
		n.connections.Add(1)
	case *stats.ConnEnd:
		n.connections.Add(-1)
		n.disconnected.Add(1)
	}
}

type accepted struct{ t *Traffic }

// callerKey is where the context of an accepted stream has the count of its member.
type callerKey struct{}

// TagRPC implements stats.Handler. Who calls is what the caller says: a stream that is refused counts as its failure.
func (a accepted) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	id, err := parseID(first(md, keyFrom))
	if err != nil {
		return ctx
	}
	if n := a.t.of(shard.NodeID(id)); n != nil {
		return context.WithValue(ctx, callerKey{}, n)
	}
	return ctx
}

// HandleRPC implements stats.Handler.
func (a accepted) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if n, ok := ctx.Value(callerKey{}).(*nodeTraffic); ok {
		n.note(s, &n.recvFailures)
	}
}

// TagConn implements stats.Handler.
func (a accepted) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (a accepted) HandleConn(context.Context, stats.ConnStats) {}

// note counts a message, or the end of a stream.
func (n *nodeTraffic) note(s stats.RPCStats, failures *atomic.Uint64) {
	switch s := s.(type) {
	case *stats.OutPayload:
		n.sent.Add(uint64(s.WireLength))
	case *stats.InPayload:
		n.received.Add(uint64(s.WireLength))
	case *stats.End:
		if s.Error != nil && !errors.Is(s.Error, io.EOF) && status.Code(s.Error) != codes.Canceled {
			failures.Add(1)
		}
	}
}

var (
	sentBytes     = perPeer("peer_sent_bytes_total", "The total number of bytes sent to peers.", "To")
	receivedBytes = perPeer("peer_received_bytes_total", "The total number of bytes received from peers.", "From")
	sendFailures  = perPeer("peer_sent_failures_total", "The total number of send failures to peers: connections that could not be made, and streams that broke.", "To")
	recvFailures  = perPeer("peer_received_failures_total", "The total number of receive failures from peers.", "From")
	knownPeers    = perPeer("known_peers", "The current number of known peers.", "Local", "Remote")
	activePeers   = perPeer("active_peers", "The current number of active peer connections.", "Local", "Remote")
	disconnected  = perPeer("disconnected_peers_total", "The total number of disconnected peers.", "Local", "Remote")
)

func perPeer(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("etcd_network_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (t *Traffic) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sentBytes, receivedBytes, sendFailures, recvFailures, knownPeers, activePeers, disconnected} {
		ch <- d
	}
	t.rtt.Describe(ch)
}

// Collect implements prometheus.Collector.
func (t *Traffic) Collect(ch chan<- prometheus.Metric) {
	t.refresh()
	t.mu.RLock()
	nodes := t.nodes // never changed, only replaced
	t.mu.RUnlock()
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	local := formatID(uint64(t.self))
	gauge(knownPeers, 1, local, local) // as in etcd
	for node, n := range nodes {
		remote := formatID(uint64(node))
		counter(sentBytes, float64(n.sent.Load()), remote)
		counter(receivedBytes, float64(n.received.Load()), remote)
		counter(sendFailures, float64(n.sendFailures.Load()), remote)
		counter(recvFailures, float64(n.recvFailures.Load()), remote)
		gauge(knownPeers, 1, local, remote)
		gauge(activePeers, float64(min(n.connections.Load(), 1)), local, remote)
		counter(disconnected, float64(n.disconnected.Load()), local, remote)
	}
	t.rtt.Collect(ch)
}
