package etcdshim

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"pontoon/internal/etcdapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
	"pontoon/shard/router"
)

// frameBytes is up to where requests share a frame. It is far below what a node receives beyond
// its limit of one request, so that a frame is never refused for its size.
const frameBytes = 256 << 10

// openTimeout bounds the connecting to a node: less than reachPatienceMin, so that one that does
// not answer at all is found out within it.
const openTimeout = time.Second

// link is the direct way to one cluster: connections, what is known of the cluster, and the KV
// service on top of them, called in process.
type link struct {
	clusterID uint64
	contact   shard.NodeID   // who told of the cluster: headers name it
	members   []shard.Member // until the meta group has told of newer ones
	endpoints map[string]bool
	secure    bool

	dialer *peer.Dialer
	mesh   *peerrpc.Mesh
	client *metaclient.Client
	asks   *cluster
	kv     etcdserverpb.KVServer

	users sync.WaitGroup // requests that use it
}

func newLink(s *shim, d *pb.DiscoverResponse) (*link, error) {
	l := &link{
		clusterID: d.ClusterId, contact: shard.NodeID(d.NodeId), members: pb.ToMembers(d.Members),
		endpoints: map[string]bool{}, secure: s.secure(),
	}
	for _, ep := range s.cli.Endpoints() {
		l.endpoints[hostOf(ep)] = true
	}
	election := time.Duration(d.ElectionTimeoutMs) * time.Millisecond
	l.dialer = peer.NewDialer(peer.DialerConfig{
		Identity: peer.Identity{ClusterID: d.ClusterId, Node: peer.Client}, Resolve: l.resolve,
		Credentials: func(addr string) credentials.TransportCredentials { return l.credentials(addr, s.cfg.TLS) },
		Options:     dialOptions(s),
	})
	l.mesh = peerrpc.New(peerrpc.Config{
		Node: peer.Client, Dial: l.dialer.For(peer.ClassCalls), Open: peer.OpenClientCalls,
		FrameBytes: frameBytes, OpenTimeout: openTimeout,
		Hints: func() (int64, uint64) { return l.client.Revision(), uint64(l.client.Epoch()) },
		Learn: func(_ shard.NodeID, rev int64, epoch uint64) {
			l.client.NoteEpoch(shard.Epoch(epoch))
			l.client.NoteRevision(rev)
		},
	})
	patience := time.Duration(0) // without another way, as patient as a node
	if !s.strict {
		patience = max(reachPatienceMin, 2*election)
	}
	l.client = metaclient.New(metaclient.Config{
		Self: peer.Client, Calls: l.mesh, Meta: pb.ToDescriptor(d.Meta), Nodes: l.nodes, ElectionTimeout: election, OraclePatience: patience,
	})
	l.asks = &cluster{client: l.client, patience: patience}
	rt, err := router.New(router.Config{
		Peers:    newReach(l.mesh, patience, time.Now),
		Cluster:  l.asks,
		Patience: 5*time.Second + 2*election,
	})
	if err == nil {
		l.kv, err = etcdapi.NewKV(etcdapi.Config{
			KV: rt, Header: l,
			MaxRequestBytes: int(d.MaxRequestBytes), MaxTxnOps: int(d.MaxTxnOps),
		})
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// close ends the link; closing it again does no harm.
func (l *link) close() {
	// They only tear down: what is under way hears of it, and errors mean closed already.
	l.client.Close()
	_ = l.mesh.Close()
	_ = l.dialer.Close()
}

// dialOptions are those of the user's configuration. Without a keep-alive in it no pings are sent:
// the mesh notices silence itself.
func dialOptions(s *shim) []grpc.DialOption {
	alive := keepalive.ClientParameters{Time: math.MaxInt64, PermitWithoutStream: s.cfg.PermitWithoutStream}
	if s.cfg.DialKeepAliveTime > 0 {
		alive.Time, alive.Timeout = s.cfg.DialKeepAliveTime, s.cfg.DialKeepAliveTimeout
	}
	return append([]grpc.DialOption{grpc.WithKeepaliveParams(alive)}, s.cfg.DialOptions...)
}

// resolve finds the client address of a node.
func (l *link) resolve(node shard.NodeID) (string, bool) {
	for _, m := range l.currentMembers() {
		if m.ID == node {
			addr, _, ok := l.target(m)
			return addr, ok
		}
	}
	return "", false
}

// nodes are those that may know where the meta group is.
func (l *link) nodes() (ids []shard.NodeID) {
	for _, m := range l.currentMembers() {
		ids = append(ids, m.ID)
	}
	return ids
}

func (l *link) currentMembers() []shard.Member {
	if v := l.client.View(); v.Map != nil {
		return v.Members
	}
	return l.members
}

// target picks one of a member's client URLs: one that is among the endpoints, which the user can
// reach, else the first. One without TLS is left out where the endpoints are contacted with it.
func (l *link) target(m shard.Member) (addr string, withTLS, ok bool) {
	for _, raw := range m.ClientURLs {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || l.secure) {
			continue
		}
		host := hostOf(raw)
		if !ok || l.endpoints[host] {
			addr, withTLS, ok = host, u.Scheme == "https", true
		}
		if l.endpoints[host] {
			break
		}
	}
	return addr, withTLS, ok
}

func (l *link) credentials(addr string, cfg *tls.Config) credentials.TransportCredentials {
	for _, m := range l.currentMembers() {
		if a, withTLS, ok := l.target(m); ok && a == addr && !withTLS {
			return insecure.NewCredentials()
		}
	}
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return credentials.NewTLS(cfg)
}

// hostOf is host and port of an endpoint or URL; etcd's client port where none is stated.
func hostOf(endpoint string) string {
	host := endpoint
	if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
		host = u.Host
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		return net.JoinHostPort(host, "2379")
	}
	return host
}

// The link is the Header of the KV service in this process.

// ClusterID implements etcdapi.Header.
func (l *link) ClusterID() uint64 { return l.clusterID }

// MemberID implements etcdapi.Header.
func (l *link) MemberID() uint64 { return uint64(l.contact) }

// Term implements etcdapi.Header: the oracle's epoch is the meta group's term.
func (l *link) Term() uint64 { return uint64(l.client.Epoch()) }

// Revision implements etcdapi.Header.
func (l *link) Revision() int64 { return l.client.Revision() }

// errUnreachable ends the direct way of one request, which certainly was not sent.
func errUnreachable(what string, err error) error {
	return fmt.Errorf("%w: %s cannot be reached directly: %v", shard.ErrTimeout, what, err)
}

func isUnsent(err error) bool {
	return errors.Is(err, shard.ErrUnavailable) || errors.Is(err, shard.ErrTimeout)
}
