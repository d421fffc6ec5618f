package meta

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func gatewayIDs(gs []*pb.Gateway) (ids []uint64) {
	for _, g := range gs {
		ids = append(ids, g.Id)
	}
	return ids
}

// TestGateways: who speaks is known, who is silent or says that it ends is forgotten, and there is a bound.
func TestGateways(t *testing.T) {
	g, now := &gateways{}, time.Unix(1000, 0)
	for _, id := range []uint64{7, 3} {
		if err := g.hear(&pb.Gateway{Id: id, Name: "g"}, false, now); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(gatewayForgotten - time.Second)
	if err := g.hear(&pb.Gateway{Id: 3, Name: "g3", Watchers: 5}, false, now); err != nil {
		t.Fatal(err)
	}
	all := g.list(now)
	if !slices.Equal(gatewayIDs(all), []uint64{3, 7}) || all[0].Watchers != 5 || all[0].AgeMs != 0 || all[1].AgeMs != 14000 {
		t.Errorf("known are %v", all)
	}
	now = now.Add(time.Second)
	if ids := gatewayIDs(g.list(now)); !slices.Equal(ids, []uint64{3}) {
		t.Errorf("after the silence of one: %v", ids)
	}
	if err := g.hear(&pb.Gateway{Id: 3}, true, now); err != nil || len(g.list(now)) != 0 {
		t.Errorf("after its end: %v, %v", g.list(now), err)
	}
	for id := range uint64(gatewaysMax) {
		if err := g.hear(&pb.Gateway{Id: id + 1}, false, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.hear(&pb.Gateway{Id: gatewaysMax + 1}, false, now); !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("one too many: %v", err)
	}
	if err := g.hear(&pb.Gateway{Id: 1}, false, now); err != nil {
		t.Errorf("a known one where there is no room: %v", err)
	}
	now = now.Add(gatewayForgotten)
	if err := g.hear(&pb.Gateway{Id: gatewaysMax + 1}, false, now); err != nil || len(g.heard) != 1 {
		t.Errorf("once the others are silent: %v, %d known", err, len(g.heard))
	}
	for _, bad := range []*pb.Gateway{{}, {Id: 1, Name: string(make([]byte, gatewayBytesMax))}} {
		if err := g.hear(bad, false, now); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%d bytes of id %d: %v", bad.SizeVT(), bad.Id, err)
		}
	}
}

// TestWhoIsNoMemberIsLentAlways: members hear of a change, so nothing is lent to them on which nothing depends; whoever is none hears of it by its own questions
// alone.
func TestWhoIsNoMemberIsLentAlways(t *testing.T) {
	e := newEnv(t)
	e.lead(3)
	for node, want := range map[uint64]bool{0: false, 1: false, 99: true} {
		r := e.must(&pb.PeerRequest{Oracle: &pb.OracleRequest{LendTo: node}}).Oracle
		if lent := r.LentMs > 0; lent != want {
			t.Errorf("lent to node %d: %v, want %v", node, lent, want)
		}
	}
}

// TestGatewaysCall: the leader answers with whom it has heard of, and knows nobody once it leads no more.
func TestGatewaysCall(t *testing.T) {
	e := newEnv(t)
	e.lead(3)
	own := &pb.GatewaysRequest{Own: &pb.Gateway{Id: 7, Name: "g"}}
	if r := e.must(&pb.PeerRequest{Gateways: own}); len(r.Gateways.Gateways) != 1 {
		t.Errorf("known: %v", r.Gateways)
	}
	e.depose(4, 2)
	if _, err := e.call(&pb.PeerRequest{Gateways: own}); err == nil {
		t.Error("answered by a replica that does not lead")
	}
	e.lead(5)
	if r := e.must(&pb.PeerRequest{Gateways: &pb.GatewaysRequest{}}); r.Gateways == nil || len(r.Gateways.Gateways) != 0 {
		t.Errorf("known to a new leader: %v", r.Gateways)
	}
}
