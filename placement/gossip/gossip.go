package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/grpc"

	"pontoon/internal/peer"
	"pontoon/shard"
)

// Config configures Start. Zero values take the defaults.
type Config struct {
	// Node, Name, Addr (host:port of the peer port) and Locality are told to the others.
	Node     shard.NodeID
	Name     string
	Addr     string
	Locality string
	// Boot tells the lives of this node's process apart and grows from one to the next.
	// Default: the time of the start.
	Boot uint64
	// Seeds returns nodes that are, or may be, members: those of the initial cluster, later
	// those of the meta group. Whoever of them is not alive is tried again, for ever.
	Seeds func() []shard.NodeID
	// Dial returns the connection to a node without blocking (peer.ClassGossip).
	Dial func(shard.NodeID) (grpc.ClientConnInterface, error)
	// OnChange is told of every member that came, went or restarted, on one goroutine, in
	// order. While it runs, further changes of one member may become one.
	OnChange func(Event)
	// ProbeInterval is how often one other member is probed, and the unit of all other
	// times: a dead node of a small cluster is found within about six of them. Default 500 ms.
	ProbeInterval time.Duration
	// Now is the clock of Member.Since. Default time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

const (
	rejoinMin      = 200 * time.Millisecond
	rejoinMax      = 2 * time.Second
	streamTimeout  = 2 * time.Second
	inboxMax       = 1024    // messages of others that wait; further ones are dropped
	inboxBytesMax  = 8 << 20 // of them
	broadcastsMax  = 512     // of ours that wait; the oldest are dropped
	hintsPerPacket = 32
	hintsPerSync   = 8192
)

// Gossip is this node's part in the protocol. All methods are safe for concurrent use.
type Gossip struct {
	cfg       Config
	meta      meta
	list      *memberlist.Memberlist
	transport *transport
	queue     *memberlist.TransmitLimitedQueue
	alive     atomic.Int64 // members, for the queue

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{}
	inbox  chan []byte
	queued atomic.Int64 // bytes of inbox
	closed atomic.Bool

	// box is where callbacks put what happened; run takes it from there.
	box struct {
		sync.Mutex
		members map[shard.NodeID]sighting // the latest of each
		links   map[shard.NodeID]bool
	}
	mu struct {
		sync.Mutex
		view *view
		seq  uint64 // of our load
	}
}

// sighting is what memberlist has said of a node.
type sighting struct {
	meta  meta
	alive bool
}

// Start joins the protocol. It does not wait for other members: seeds are tried in the
// background.
func Start(cfg Config) (*Gossip, error) {
	cfg.setDefaults()
	g := &Gossip{
		cfg:   cfg,
		meta:  meta{node: cfg.Node, boot: cfg.Boot, name: cfg.Name, addr: cfg.Addr, locality: cfg.Locality},
		wake:  make(chan struct{}, 1),
		inbox: make(chan []byte, inboxMax),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.box.members = make(map[shard.NodeID]sighting)
	g.box.links = make(map[shard.NodeID]bool)
	g.mu.view = newView(cfg.Node)
	g.alive.Store(1)
	g.transport = newTransport(cfg.Node, cfg.Dial, g.noteLink)
	g.queue = &memberlist.TransmitLimitedQueue{NumNodes: func() int { return int(g.alive.Load()) }, RetransmitMult: 3}
	list, err := memberlist.Create(g.listConfig())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("gossip: start: %w", err), g.transport.Shutdown())
	}
	g.list = list
	g.wg.Go(g.run)
	g.wg.Go(g.rejoin)
	return g, nil
}

func (c *Config) setDefaults() {
	if c.ProbeInterval <= 0 {
		c.ProbeInterval = 500 * time.Millisecond
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Boot == 0 {
		c.Boot = uint64(time.Now().UnixNano())
	}
	if c.Seeds == nil {
		c.Seeds = func() []shard.NodeID { return nil }
	}
	if c.OnChange == nil {
		c.OnChange = func(Event) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// listConfig tunes memberlist for nodes that are near one another. A dead node is noticed by
// the probe that hits it, suspected for three intervals if another node confirms it, and six
// at most.
func (g *Gossip) listConfig() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = nameOf(g.cfg.Node)
	c.Transport = g.transport
	c.Delegate = delegate{g}
	c.Events = delegate{g}
	c.ProbeInterval = g.cfg.ProbeInterval
	c.ProbeTimeout = g.cfg.ProbeInterval / 2
	c.SuspicionMult = 3
	c.SuspicionMaxTimeoutMult = 2
	c.AwarenessMaxMultiplier = 3
	c.GossipInterval = g.cfg.ProbeInterval / 5
	c.GossipToTheDeadTime = 20 * g.cfg.ProbeInterval
	c.PushPullInterval = 20 * g.cfg.ProbeInterval
	c.TCPTimeout = streamTimeout
	c.EnableCompression = false
	c.UDPBufferSize = 8 << 10 // it never meets a datagram
	c.Logger = log.New(logWriter{g.cfg.Logger}, "", 0)
	return c
}

// Service returns what the peer server needs to serve other nodes' gossip.
func (g *Gossip) Service() peer.GossipService { return g.transport }

// Alive reports whether a node is thought to be alive; suspects are.
func (g *Gossip) Alive(node shard.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return node == g.cfg.Node || g.mu.view.alive(node)
}

// Members returns all nodes that were heard of, this one included, ordered by id.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.view.all()
}

// SetLeaderHints tells the others which ranges this node leads, by the term that it leads.
// What was told before and is not repeated stays, until somebody states a higher term.
func (g *Gossip) SetLeaderHints(led map[shard.RangeID]uint64) {
	s := state{hints: make([]Hint, 0, len(led))}
	for id, term := range led {
		s.hints = append(s.hints, Hint{Range: id, Node: g.cfg.Node, Term: term})
	}
	g.mu.Lock()
	news := g.mu.view.merge(s)
	g.mu.Unlock()
	g.broadcast(news)
}

// LeaderHint returns who led a range in the highest term that was heard of. The node may be
// dead by now: see Alive.
func (g *Gossip) LeaderHint(id shard.RangeID) (Hint, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.mu.view.hints[id]
	return h, ok
}

// Leave tells the others that this node goes for good reason, and waits until somebody has
// heard it, for timeout at most. Close follows.
func (g *Gossip) Leave(timeout time.Duration) error {
	if g.closed.Load() {
		return nil
	}
	if err := g.list.Leave(timeout); err != nil {
		return fmt.Errorf("gossip: leave: %w", err)
	}
	return nil
}

// Close ends the protocol without a word to the others, and waits.
func (g *Gossip) Close() error {
	if g.closed.Swap(true) {
		return nil
	}
	g.cancel()
	err := g.list.Shutdown()
	g.wg.Wait()
	return err
}

// run applies what the callbacks have put down.
func (g *Gossip) run() {
	for {
		select {
		case <-g.wake:
			g.applyBox()
		case msg := <-g.inbox:
			g.taken(msg)
			g.applyMessage(msg)
		case <-g.ctx.Done():
			return
		}
	}
}

func (g *Gossip) applyBox() {
	g.box.Lock()
	members, links := g.box.members, g.box.links
	g.box.members, g.box.links = make(map[shard.NodeID]sighting), make(map[shard.NodeID]bool)
	g.box.Unlock()

	now := g.cfg.Now()
	var events []Event
	note := func(ev Event, changed bool) {
		if changed {
			events = append(events, ev)
		}
	}
	g.mu.Lock()
	for _, s := range members {
		note(g.mu.view.setMember(s.meta, s.alive, now))
	}
	for node, up := range links {
		note(g.mu.view.setLink(node, up, now))
	}
	alive := g.mu.view.aliveCount()
	g.mu.Unlock()
	g.alive.Store(int64(max(1, alive)))
	for _, ev := range events {
		g.cfg.OnChange(ev)
	}
}

// applyMessage takes in what another node has said, and passes on what was news.
func (g *Gossip) applyMessage(msg []byte) {
	s, err := decodeState(msg)
	if err != nil {
		g.cfg.Logger.Warn("a gossip message was dropped", "error", err)
		return
	}
	g.mu.Lock()
	news := g.mu.view.merge(s)
	g.mu.Unlock()
	g.broadcast(news)
}

// broadcast queues news for the others, in parts that fit a packet.
func (g *Gossip) broadcast(news state) {
	for _, l := range news.loads {
		name := "load of " + nameOf(l.node)
		g.queue.QueueBroadcast(broadcast{name, state{loads: []loadOf{l}}.encode()})
	}
	for hints := news.hints; len(hints) > 0; {
		n := min(len(hints), hintsPerPacket)
		g.queue.QueueBroadcast(broadcast{"", state{hints: hints[:n]}.encode()})
		hints = hints[n:]
	}
	if !news.empty() {
		g.queue.Prune(broadcastsMax)
	}
}

// rejoin looks for seeds that are not alive, for ever: also when everybody had died.
func (g *Gossip) rejoin() {
	pause := rejoinMin
	for {
		missing := g.missing()
		for _, node := range missing {
			if g.ctx.Err() != nil {
				return
			}
			if _, err := g.list.Join([]string{joinAddr(node)}); err != nil {
				g.cfg.Logger.Debug("a seed was not reached", "node", node.String(), "error", err)
			}
		}
		if len(missing) == 0 {
			pause = rejoinMin
		}
		timer := time.NewTimer(pause + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-g.ctx.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, rejoinMax)
	}
}

func (g *Gossip) missing() []shard.NodeID {
	var out []shard.NodeID
	for _, node := range g.cfg.Seeds() {
		if node != g.cfg.Node && !g.Alive(node) {
			out = append(out, node)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// logWriter passes memberlist's log on: its everyday troubles are not the operator's.
type logWriter struct{ logger *slog.Logger }

// Write implements io.Writer.
func (w logWriter) Write(p []byte) (int, error) {
	w.logger.Debug(strings.TrimSpace(string(p)))
	return len(p), nil
}

var _ io.Writer = logWriter{}
