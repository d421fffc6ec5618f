package host

import (
	"log/slog"
	"slices"
	"testing"

	"google.golang.org/grpc"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/placement/gossip"
	"pontoon/shard"
)

// TestTheDirectoryIsFollowed: what is told to all goes to those who are members now, and calls go by way of those that
// gossip has alive now; that other parts find a member that moves, internal/peer shows.
func TestTheDirectoryIsFollowed(t *testing.T) {
	var asked []shard.NodeID
	mesh := peerrpc.New(peerrpc.Config{Node: 1, Dial: func(node shard.NodeID) (grpc.ClientConnInterface, error) {
		asked = append(asked, node)
		return nil, peer.ErrUnknownNode
	}})
	defer mesh.Close()
	h := &Host{log: slog.New(slog.DiscardHandler), net: network{mesh: mesh, directory: peer.NewDirectory(1, []shard.Member{{ID: 1}, {ID: 2}})}}
	h.cfg.Identity.Node = 1
	env := opening{Host: h}.closerEnv()
	for version, c := range []struct {
		members []shard.Member
		told    []shard.NodeID
	}{
		{nil, []shard.NodeID{2}},
		{[]shard.Member{{ID: 1}, {ID: 3}, {ID: 4}, {ID: 5}}, []shard.NodeID{3, 4, 5}},
		{[]shard.Member{{ID: 1}, {ID: 4}}, []shard.NodeID{4}},
	} {
		h.net.directory.SetMembers(uint64(version), c.members)
		for what, tell := range map[string]func(){
			"a push": func() { env.push(&pb.ClosedPush{Revision: 3}) }, "a question": func() { env.request(&pb.CloseRequest{Revision: 3}) },
		} {
			asked = nil
			if tell(); !slices.Equal(asked, c.told) {
				t.Errorf("version %d: %s went to %v, want %v", version, what, asked, c.told)
			}
		}
	}
	h.net.directory.SetMembers(9, []shard.Member{{ID: 1}, {ID: 3}, {ID: 4}, {ID: 5}})
	for node, state := range map[shard.NodeID]gossip.State{3: gossip.StateAlive, 4: gossip.StateSuspect, 5: gossip.StateDead} {
		h.memberChanged(gossip.Event{Member: gossip.Member{Node: node, State: state}})
	}
	if via := h.net.directory.Relays(4); !slices.Equal(via, []shard.NodeID{3}) {
		t.Errorf("a node that is cut off is reached by way of %v", via)
	}
	if via := h.net.directory.Relays(5); via != nil {
		t.Errorf("a dead node is reached by way of %v", via)
	}
}
