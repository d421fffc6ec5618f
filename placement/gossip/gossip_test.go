package gossip

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is one participant with its server.
type node struct {
	*Gossip
	srv *peertest.Server
	d   *peer.Dialer

	mu     sync.Mutex
	events []Event
}

// kill ends everything of the node at once and without a word.
func (n *node) kill() {
	n.srv.Stop()
	_ = n.d.Close()
	_ = n.Gossip.Close()
}

func (n *node) saw(of shard.NodeID, st State) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ev := range n.events {
		if ev.Member.Node == of && ev.Member.State == st {
			return true
		}
	}
	return false
}

func (n *node) state(of shard.NodeID) State {
	for _, m := range n.Members() {
		if m.Node == of {
			return m.State
		}
	}
	return StateUnknown
}

func launch(t *testing.T, pn *peertest.Net, id shard.NodeID, seeds ...shard.NodeID) *node {
	t.Helper()
	n := &node{d: pn.Dialer(t, id)}
	g, err := Start(Config{
		Node: id, Name: "node-" + id.String(), Addr: "host:" + id.String(), Locality: "zone=a",
		Seeds:         func() []shard.NodeID { return seeds },
		Dial:          n.d.For(peer.ClassGossip),
		ProbeInterval: 200 * time.Millisecond,
		OnChange: func(ev Event) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, ev)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Gossip = g
	t.Cleanup(func() { _ = g.Close() })
	n.srv = pn.Serve(t, id, nil, nil, g.Service())
	return n
}

func TestKillIsSeenAndHeals(t *testing.T) {
	pn := peertest.NewNet()
	ids := []shard.NodeID{0x11, 0x22, 0x33}
	nodes := map[shard.NodeID]*node{}
	for _, id := range ids {
		nodes[id] = launch(t, pn, id, ids...)
	}
	whole := func() bool {
		for _, n := range nodes {
			for _, id := range ids {
				if n.state(id) != StateAlive {
					return false
				}
			}
		}
		return true
	}
	peertest.Eventually(t, "all to find one another", whole)
	for _, m := range nodes[0x11].Members() {
		if m.Name != "node-"+m.Node.String() || m.Addr != "host:"+m.Node.String() || m.Locality != "zone=a" || m.Boot == 0 || m.Since.IsZero() {
			t.Errorf("member %+v", m)
		}
	}

	old := nodes[0x33].cfg.Boot
	nodes[0x33].kill()
	peertest.Eventually(t, "the others to see it dead", func() bool {
		return !nodes[0x11].Alive(0x33) && !nodes[0x22].Alive(0x33)
	})
	if !nodes[0x11].Alive(0x22) || !nodes[0x11].Alive(0x11) {
		t.Error("a living node is taken for dead")
	}
	if !nodes[0x11].saw(0x33, StateDead) || !nodes[0x11].saw(0x33, StateSuspect) {
		t.Error("no event of the death, or none of the suspicion")
	}

	nodes[0x33] = launch(t, pn, 0x33, ids...)
	peertest.Eventually(t, "it to come back", whole)
	for _, m := range nodes[0x11].Members() {
		if m.Node == 0x33 && m.Boot == old {
			t.Error("its new life is not seen")
		}
	}

	// Everybody dies; those that come back find one another again.
	for _, n := range nodes {
		n.kill()
	}
	for _, id := range ids {
		nodes[id] = launch(t, pn, id, ids...)
	}
	peertest.Eventually(t, "all to be back", whole)
}

func TestLeave(t *testing.T) {
	pn := peertest.NewNet()
	a, b := launch(t, pn, 1, 2), launch(t, pn, 2, 1)
	peertest.Eventually(t, "the two to meet", func() bool { return a.Alive(2) && b.Alive(1) })
	if err := b.Leave(8 * time.Second); err != nil {
		t.Errorf("leave: %v", err)
	}
	peertest.Eventually(t, "it to be gone", func() bool { return !a.Alive(2) })
	b.kill()
	if err := b.Leave(time.Second); err != nil {
		t.Errorf("leave after close: %v", err)
	}
}

func TestHintsAndLoadSpread(t *testing.T) {
	pn := peertest.NewNet()
	a, b := launch(t, pn, 1, 2), launch(t, pn, 2)
	led := map[shard.RangeID]uint64{}
	for i := range shard.RangeID(100) {
		led[i+1] = 7
	}
	a.SetLeaderHints(led) // before they meet: travels with the first exchange of states
	peertest.Eventually(t, "the hints", func() bool {
		for id := range led {
			if h, ok := b.LeaderHint(id); !ok || h != (Hint{Range: id, Node: 1, Term: 7}) {
				return false
			}
		}
		return true
	})
	b.SetLeaderHints(map[shard.RangeID]uint64{5: 8, 6: 6}) // a later term, an earlier one
	a.SetLoad(Load{Ranges: 100, Leaders: 99, Bytes: 1 << 30})
	a.SetLoad(Load{Ranges: 101})
	peertest.Eventually(t, "the later leader", func() bool { h, _ := a.LeaderHint(5); return h.Node == 2 && h.Term == 8 })
	if h, _ := b.LeaderHint(6); h.Node != 1 {
		t.Errorf("a lower term won: %+v", h)
	}
	peertest.Eventually(t, "the load", func() bool {
		for _, m := range b.Members() {
			if m.Node == 1 && m.HasLoad && m.Load == (Load{Ranges: 101}) {
				return true
			}
		}
		return false
	})
	if _, ok := a.LeaderHint(1000); ok {
		t.Error("a hint out of nothing")
	}
}

func TestStreamIsAConnection(t *testing.T) {
	pn := peertest.NewNet()
	quiet := func(shard.NodeID, bool) {}
	a := newTransport(1, pn.Dialer(t, 1).For(peer.ClassGossip), quiet)
	b := newTransport(2, pn.Dialer(t, 2).For(peer.ClassGossip), quiet)
	t.Cleanup(func() { _, _ = a.Shutdown(), b.Shutdown() })
	pn.Serve(t, 2, nil, nil, b)
	near, err := a.DialTimeout(addrOf(2).String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	far := <-b.StreamCh()
	if got := far.RemoteAddr().String(); got != addrOf(1).String() {
		t.Errorf("the far side sees %s", got)
	}
	want := make([]byte, 300_000)
	for i := range want {
		want[i] = byte(i * 7)
	}
	go func() { _, _ = near.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(far, got); err != nil || string(got) != string(want) {
		t.Fatalf("upwards: %v", err)
	}
	go func() { _, _ = far.Write(want[:100]); _ = far.Close() }()
	if got, err := io.ReadAll(near); err != nil || len(got) != 100 {
		t.Errorf("downwards: %d bytes, %v", len(got), err)
	}
	_ = near.Close()

	second, err := a.DialTimeout(addrOf(2).String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	far = <-b.StreamCh()
	if err := second.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := second.Read(got); !errorsAs(err, &timeout) || !timeout.Timeout() {
		t.Errorf("deadline: %v", err)
	}
	go func() { _, _ = second.Write(want[:100]); _ = second.Close() }()
	if got, _ := io.ReadAll(far); len(got) != 100 {
		t.Errorf("written before the close: %d bytes arrived", len(got))
	}
	_ = far.Close()
	if _, err := a.DialTimeout("10.0.0.1:5", time.Second); err == nil {
		t.Error("a foreign address was dialled")
	}
}
