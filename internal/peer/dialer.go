package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"pontoon/shard"
)

// Class is a kind of traffic. Each has a connection of its own to every peer, so that a bulky
// one never stands in the way of an urgent one.
type Class uint8

// The classes of traffic between two nodes.
const (
	ClassRaft   Class = iota // Raft frames
	ClassCalls               // calls and their answers
	ClassBulk                // snapshots
	ClassFeed                // links
	ClassGossip              // packets and streams of the membership protocol
	classes
)

// Limits of one message and of flow control. A frame is far smaller; MessageBytesMax is for a
// single call that carries one huge transaction or page.
const (
	MessageBytesMax  = 512 << 20
	streamWindow     = 8 << 20
	connectionWindow = 32 << 20
	ioBufferBytes    = 64 << 10
)

// How soon a dead connection is noticed and a returned peer is found again.
const (
	dialTimeout      = time.Second
	handshakeTimeout = 3 * time.Second // until a connection with TLS is there: it takes processor time on both sides
	redialMin        = 25 * time.Millisecond
	redialMax        = 120 * time.Millisecond
	clientPingEvery  = 10 * time.Second // gRPC's lowest; services with urgent traffic have probes of their own
	serverPingEvery  = 2 * time.Second
	pingPatience     = 3 * time.Second // also bounds unacknowledged data, where the system has TCP_USER_TIMEOUT
	serverPingFloor  = time.Second
	connectionStatic = "passthrough:///"
)

// Unacknowledged is how long a peer may leave data unacknowledged; its connection is dead then. Whoever accepts
// connections for a Server sees to it where gRPC cannot.
const Unacknowledged = pingPatience

// ErrUnknownNode is returned for a node whose address is not known (yet).
var ErrUnknownNode = errors.New("peer: no address is known for the node")

// errClosed is returned by a dialer that has been closed.
var errClosed = errors.New("peer: the dialer is closed")

// DialerConfig configures a Dialer.
type DialerConfig struct {
	Identity Identity
	// Resolve returns the address of a node, as Directory has it. Asked at every Conn, so a
	// member that moves is found at its new address. Must not block.
	Resolve func(shard.NodeID) (addr string, ok bool)
	// Credentials for that address, such as SecureBy. Nil: no TLS.
	Credentials func(addr string) credentials.TransportCredentials
	// Refused, if set, hears that nobody listens at a node's address: its process is gone, or is
	// only starting. Called at every attempt, from the connection's goroutine; must not block.
	Refused func(shard.NodeID)
	// Traffic counts what goes over the connections. Nil: nobody counts.
	Traffic *Traffic
	// Options are added last to those of every connection.
	Options []grpc.DialOption
}

type connKey struct {
	node  shard.NodeID
	class Class
}

type connEntry struct {
	addr string
	conn *grpc.ClientConn
	raw  syscall.RawConn // of the last that was dialled; nil: none was
}

// Dialer keeps one connection per peer and class. It is safe for concurrent use.
type Dialer struct {
	cfg DialerConfig
	mu  struct {
		sync.Mutex
		conns  map[connKey]connEntry
		closed bool
	}
}

// NewDialer returns a dialer; nothing is dialled until a connection is used.
func NewDialer(cfg DialerConfig) *Dialer {
	d := &Dialer{cfg: cfg}
	d.mu.conns = make(map[connKey]connEntry)
	return d
}

// Conn returns the connection to a node for a class of traffic. It neither blocks nor waits
// for the connection to be up. Streams of a connection whose node has moved are broken.
func (d *Dialer) Conn(node shard.NodeID, class Class) (grpc.ClientConnInterface, error) {
	addr, ok := d.cfg.Resolve(node)
	if !ok || addr == "" {
		d.Forget(node)
		return nil, fmt.Errorf("%w: %v", ErrUnknownNode, node)
	}
	key := connKey{node, class}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.closed {
		return nil, errClosed
	}
	old, ok := d.mu.conns[key]
	if ok && old.addr == addr {
		return old.conn, nil
	}
	conn, err := grpc.NewClient(connectionStatic+placeOf(addr).name, d.options(key, addr)...)
	if err != nil {
		return nil, fmt.Errorf("peer: connection to node %v at %s: %w", node, addr, err)
	}
	d.mu.conns[key] = connEntry{addr: addr, conn: conn}
	if old.conn != nil {
		// It only tears down: errors mean that it was closed already.
		_ = old.conn.Close()
	}
	return conn, nil
}

// Forget ends the connections to a node that has left.
func (d *Dialer) Forget(node shard.NodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for class := range classes {
		if e, ok := d.mu.conns[connKey{node, class}]; ok {
			delete(d.mu.conns, connKey{node, class})
			_ = e.conn.Close() // it only tears down
		}
	}
}

// For returns Conn bound to one class, which is what the services take.
func (d *Dialer) For(class Class) func(shard.NodeID) (grpc.ClientConnInterface, error) {
	return func(node shard.NodeID) (grpc.ClientConnInterface, error) { return d.Conn(node, class) }
}

// Close ends all connections and everything on them.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.closed = true
	var errs []error
	for _, e := range d.mu.conns {
		errs = append(errs, e.conn.Close())
	}
	clear(d.mu.conns)
	return errors.Join(errs...)
}

// dialled notes a connection, of which Acknowledged asks the system.
func (d *Dialer) dialled(key connKey, addr string, conn net.Conn) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, used := d.mu.conns[key]; used && e.addr == addr {
		e.raw = raw
		d.mu.conns[key] = e
	}
}

// Acknowledged returns how long ago the system at the other end of the connection to a node has acknowledged anything: its process may be too busy to
// answer all the same, or be stopped. false: there is no connection, or this system does not tell.
func (d *Dialer) Acknowledged(node shard.NodeID, class Class) (ago time.Duration, known bool) {
	d.mu.Lock()
	raw := d.mu.conns[connKey{node, class}].raw
	d.mu.Unlock()
	if raw == nil {
		return 0, false
	}
	return acknowledged(raw)
}

func (d *Dialer) options(key connKey, addr string) []grpc.DialOption {
	at, creds, connect := placeOf(addr), insecure.NewCredentials(), dialTimeout
	if d.cfg.Credentials != nil {
		creds = d.cfg.Credentials(addr)
	}
	if creds.Info().SecurityProtocol == "tls" {
		connect = handshakeTimeout
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithChainStreamInterceptor(d.cfg.Identity.interceptor(key.node)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, at.network, at.at)
			if d.cfg.Refused != nil && errors.Is(err, syscall.ECONNREFUSED) {
				d.cfg.Refused(key.node)
			}
			if err != nil && ctx.Err() == nil {
				d.cfg.Traffic.unreachable(key.node)
			}
			d.dialled(key, addr, conn)
			return conn, err
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: redialMin, Multiplier: 1.6, Jitter: 0.3, MaxDelay: redialMax},
			MinConnectTimeout: connect,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPingEvery, Timeout: pingPatience, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(MessageBytesMax),
			grpc.MaxCallSendMsgSize(MessageBytesMax),
		),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithReadBufferSize(ioBufferBytes),
		grpc.WithWriteBufferSize(ioBufferBytes),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
	}
	if d.cfg.Traffic != nil {
		opts = append(opts, grpc.WithStatsHandler(d.cfg.Traffic.dialled(key.node)))
	}
	return append(opts, d.cfg.Options...)
}

// ServerOptions returns what the gRPC server of the peer port must be built with. Credentials
// are the caller's to add. Its streams live as long as the connection, so it is ended with
// Stop, never with GracefulStop.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(MessageBytesMax),
		grpc.MaxSendMsgSize(MessageBytesMax),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(ioBufferBytes),
		grpc.WriteBufferSize(ioBufferBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPingEvery, Timeout: pingPatience}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: serverPingFloor, PermitWithoutStream: true}),
	}
}

// Backoff returns how long to wait before the next attempt to open a stream, with jitter. A
// refusal waits longer: it ends only when an operator changes something.
func Backoff(err error) time.Duration {
	base := 50 * time.Millisecond
	if Refused(err) {
		base = time.Second
	}
	return base + rand.N(base)
}
