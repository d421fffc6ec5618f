package meta

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"pontoon/internal/auth"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// pushes are questions to nodes that wait for an answer.
type pushes struct {
	mu  sync.Mutex
	cbs map[shard.NodeID][]func(*pb.PeerResponse, error)
}

func (p *pushes) CallFunc(_ context.Context, to shard.NodeID, _ *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cbs == nil {
		p.cbs = map[shard.NodeID][]func(*pb.PeerResponse, error){}
	}
	p.cbs[to] = append(p.cbs[to], cb)
}

// answer answers all that a node has been asked: it goes by a version. 0: it cannot be reached.
func (p *pushes) answer(node shard.NodeID, version uint64) {
	p.mu.Lock()
	cbs := p.cbs[node]
	delete(p.cbs, node)
	p.mu.Unlock()
	for _, cb := range cbs {
		if version == 0 {
			cb(nil, shard.ErrUnavailable)
		} else {
			cb(&pb.PeerResponse{SettingsPush: &pb.SettingsPush{Version: version}}, nil)
		}
	}
}

// lending is a leader of a cluster whose users count, and which has led for so long that nobody has a loan of its predecessor.
func lending(t *testing.T) (*env, *pushes) {
	p := &pushes{}
	e := newEnv(t, func(c *Config) { c.Push = p })
	e.lead(6)
	e.speakNewest()
	for _, c := range []*pb.MetaAuth{
		{Change: uint32(auth.UserAdd), User: auth.Root, NoPassword: true},
		{Change: uint32(auth.RoleAdd), Role: auth.Root},
		{Change: uint32(auth.UserGrantRole), User: auth.Root, Role: auth.Root},
	} {
		e.must(&pb.PeerRequest{AuthChange: c})
	}
	enabled := e.ask(&pb.PeerRequest{AuthChange: &pb.MetaAuth{Change: uint32(auth.Enable), TokenKey: []byte("key")}})
	e.settle()
	if enabled.done() {
		t.Error("authentication was turned on before those have heard that go by older settings without a loan")
	}
	e.pass(time.Second)
	if !enabled.done() || enabled.err != nil {
		t.Fatalf("everybody has been silent for the time of a loan: %v, %v", enabled.done(), enabled.err)
	}
	return e, p
}

// pass lets time go on, in which it keeps the lead.
func (e *env) pass(d time.Duration) {
	e.advance(d)
	e.leased()
	e.settle()
}

// lend asks the oracle for a node, which goes by the settings of the answer.
func (e *env) lend(node shard.NodeID) *pb.OracleResponse {
	return e.must(&pb.PeerRequest{Oracle: &pb.OracleRequest{LendTo: uint64(node)}}).Oracle
}

// TestSettledWhenLoansHaveEnded: a change is acknowledged when each node that may go by what was before has confirmed it or its loan has ended, by the time
// of the answer that lent it.
func TestSettledWhenLoansHaveEnded(t *testing.T) {
	e, p := lending(t)
	if now := e.lend(2); now.LentMs != 1000 {
		t.Fatalf("lent: %v", now)
	}
	e.pass(400 * time.Millisecond)
	e.lend(3)
	version := e.lend(3).SettingsVersion
	change := e.ask(&pb.PeerRequest{AuthChange: &pb.MetaAuth{Change: uint32(auth.RoleAdd), Role: "r", Actor: auth.Root}})
	e.settle()
	if change.done() {
		t.Fatal("acknowledged, and two nodes have a loan")
	}
	p.answer(3, version) // of the settings before
	e.settle()
	if change.done() {
		t.Fatal("acknowledged, and a node has confirmed what was before")
	}
	e.pass(time.Millisecond) // a tick, which asks it again
	p.answer(2, 0)
	p.answer(3, version+1)
	e.settle()
	if change.done() {
		t.Fatal("acknowledged, and a node that has a loan is silent")
	}
	e.pass(598 * time.Millisecond)
	if change.done() {
		t.Fatal("acknowledged a millisecond before the loan ends")
	}
	e.pass(time.Millisecond)
	if !change.done() || change.err != nil {
		t.Errorf("the loan has ended: %v, %v", change.done(), change.err)
	}
}

// TestSettledEachTime: while authentication is off, members go by the settings without a loan, also where it was on before: each time that it is turned on they have to hear first.
func TestSettledEachTime(t *testing.T) {
	e, p := lending(t)
	turn := func(how auth.Kind) *answer {
		a := e.ask(&pb.PeerRequest{AuthChange: &pb.MetaAuth{Change: uint32(how), TokenKey: []byte("key"), Actor: auth.Root}})
		e.settle()
		return a
	}
	e.lend(2)
	off := turn(auth.Disable)
	e.pass(time.Second)
	if !off.done() || off.err != nil {
		t.Fatalf("turned off: %v, %v", off.done(), off.err)
	}
	if now := e.lend(2); now.LentMs != 0 {
		t.Fatalf("lent: %v", now)
	}
	on := turn(auth.Enable)
	version := e.lend(3).SettingsVersion
	p.answer(1, version)
	p.answer(2, version)
	e.settle()
	if on.done() {
		t.Fatal("acknowledged, and a member has not heard of it")
	}
	e.pass(time.Millisecond) // a tick
	p.answer(3, version)
	e.settle()
	if !on.done() || on.err != nil {
		t.Errorf("all have heard: %v, %v", on.done(), on.err)
	}
}

// TestSettledByANewLeader: it does not know what was lent, and acknowledges nothing before all of that has ended.
func TestSettledByANewLeader(t *testing.T) {
	e, _ := lending(t)
	e.lend(2)
	pending := e.ask(&pb.PeerRequest{AuthChange: &pb.MetaAuth{Change: uint32(auth.RoleAdd), Role: "r", Actor: auth.Root}})
	e.settle()
	e.depose(7, 2)
	if !pending.done() || !errors.Is(pending.err, shard.ErrAmbiguous) {
		t.Errorf("of a change that is in the log and was not acknowledged: %v", pending.err)
	}
	e.lead(8)
	again := e.ask(&pb.PeerRequest{AuthChange: &pb.MetaAuth{Change: uint32(auth.RoleAdd), Role: "s", Actor: auth.Root}})
	e.settle()
	e.pass(999 * time.Millisecond)
	if again.done() {
		t.Error("acknowledged by a leader that does not know what was lent")
	}
	e.pass(time.Millisecond)
	if !again.done() || again.err != nil {
		t.Errorf("everything that was lent has ended: %v, %v", again.done(), again.err)
	}
}

// TestSettledByANewLeaderThatTells: authentication was turned on in the log, and who led then may have told nobody. Members go by what was before without a loan, and ask nothing, so they are told.
func TestSettledByANewLeaderThatTells(t *testing.T) {
	e, p := lending(t)
	for node := range shard.NodeID(4) {
		p.answer(node, 0)
	}
	e.depose(7, 2)
	e.lead(8)
	e.settle()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.cbs) != 3 {
		t.Errorf("%d members are told by a new leader", len(p.cbs))
	}
}

// TestSettledOnceAFollowerSaysSo: who is no member, and called by nobody, waits in a call for a change. That it was told does not say that it goes by it: its
// next call does.
func TestSettledOnceAFollowerSaysSo(t *testing.T) {
	e, _ := lending(t)
	const gateway = 77
	version := e.lend(gateway).SettingsVersion
	follow := func(known uint64) *answer {
		return e.ask(&pb.PeerRequest{Settings: &pb.SettingsRequest{KnownVersion: known, Follower: gateway}})
	}
	former, waits := follow(version), follow(version)
	e.settle()
	if !former.done() || former.err != nil || waits.done() {
		t.Fatalf("two calls of one follower: the first is answered: %v, %v; the second: %v", former.done(), former.err, waits.done())
	}
	change := e.ask(&pb.PeerRequest{AuthChange: &pb.MetaAuth{Change: uint32(auth.RoleAdd), Role: "r", Actor: auth.Root}})
	e.settle()
	if !waits.done() || waits.resp.GetSettings().GetVersion() != version+1 {
		t.Fatalf("the follower is told: %v, %v", waits.done(), waits.resp)
	}
	if change.done() {
		t.Fatal("acknowledged, and the follower has not said that it goes by it")
	}
	late := follow(version) // of before, which was slow
	e.settle()
	if !late.done() || change.done() {
		t.Fatalf("who knows less is answered at once: %v; acknowledged: %v", late.done(), change.done())
	}
	waits = follow(version + 1)
	e.settle()
	if !change.done() || change.err != nil {
		t.Fatalf("the follower goes by it, and that is not acknowledged: %v", change.err)
	}
	e.pass(followHold - time.Millisecond)
	if waits.done() {
		t.Fatal("answered before its time, without news")
	}
	e.pass(time.Millisecond)
	if !waits.done() || waits.err != nil || waits.resp.GetSettings() != nil {
		t.Fatalf("a follower that has waited for long: %v, %v, %v", waits.done(), waits.resp, waits.err)
	}
	waits = follow(version + 1)
	e.settle()
	e.depose(7, 2)
	if !waits.done() || waits.err == nil {
		t.Error("a follower waits at a leader that is none")
	}
}
