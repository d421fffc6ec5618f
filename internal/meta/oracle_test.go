package meta

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func TestANewCluster(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	o := e.must(oracleReq(0)).Oracle
	if o.Revision != 1 || o.Epoch != 6 || o.RangesVersion != 1 || o.CompactRevision != 0 {
		t.Errorf("a new cluster: %v", o)
	}
	if first := e.allocate(1); first != 2 {
		t.Errorf("the first write gets %d", first)
	}
	if first := e.allocate(3); first != 3 {
		t.Errorf("three more from %d", first)
	}
	if now := e.allocate(0); now != 5 {
		t.Errorf("current %d", now)
	}
	d := e.must(&pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{}}).Descriptors
	if d.ClusterId != 77 || d.Version != 1 || len(d.Ranges) != 2 || len(d.Members) != 3 || len(d.Meta.Replicas) != 3 {
		t.Errorf("descriptors: %v", d)
	}
	d = e.must(&pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{KnownVersion: 1}}).Descriptors
	if d.Version != 1 || len(d.Ranges) != 0 {
		t.Errorf("nothing new: %v", d)
	}
}

// Who has a map is told what has changed since, where he takes that; who has none, or is an older build, everything.
func TestDescriptorsByDifferences(t *testing.T) {
	e := largeEnv(t, 2000)
	ask := func(known uint64, differences bool) *pb.DescriptorsResponse {
		t.Helper()
		return e.must(&pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{KnownVersion: known, Differences: differences}}).Descriptors
	}
	e.cut(7, 5, 9000)
	if d := ask(1, true); d.Version != 2 || d.BaseVersion != 1 || len(d.Ranges) != 2 || len(d.Members) != 0 {
		t.Errorf("differences: %v", d)
	}
	if d := ask(1, false); d.BaseVersion != 0 || len(d.Ranges) != 2001 || len(d.Members) != 3 || len(d.Meta.Replicas) != 3 {
		t.Errorf("an older build is told version %d since %d, %d ranges, %d members", d.Version, d.BaseVersion, len(d.Ranges), len(d.Members))
	}
	if d := ask(2, true); d.Version != 2 || d.BaseVersion != 0 || len(d.Ranges) != 0 {
		t.Errorf("nothing new: %v", d)
	}
	if d := ask(0, true); d.BaseVersion != 0 || len(d.Ranges) != 2001 {
		t.Errorf("who has none is told version %d since %d, %d ranges", d.Version, d.BaseVersion, len(d.Ranges))
	}
}

// Hazard 71: while a large answer is rendered the oracle answers and the map changes; and the answer is the map as it was.
func TestHazard71ALargeMapIsRenderedOutsideOfTheLock(t *testing.T) {
	e := largeEnv(t, 2000)
	for range renderingMax {
		e.m.rendering <- struct{}{} // as if answers were being rendered
	}
	a := e.ask(&pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{}})
	e.settle()
	if now, ok := e.m.ServeLeased(6, shard.Ask{Count: 1}, false); !ok || now.RangesVersion != 1 {
		t.Errorf("the oracle: %v %v", now, ok)
	}
	e.cut(7, 5, 9000)
	if got := e.must(&pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{KnownVersion: 1, Differences: true}}).Descriptors; got.BaseVersion != 1 {
		t.Errorf("differences while another answer is rendered: %v", got)
	}
	if a.done() {
		t.Fatal("a large answer did not wait for its turn")
	}
	<-e.m.rendering
	e.until("an answer", a.done)
	<-e.m.rendering
	if d := a.resp.Descriptors; d.Version != 1 || len(d.Ranges) != 2000 {
		t.Errorf("version %d, %d ranges", d.Version, len(d.Ranges))
	}
}

// Hazard 10: a new leader answers only after its own limit entry has applied, and above what the
// one before may have handed out.
func TestHazard10ANewLeaderIsSilentAtFirst(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	last := e.allocate(100) + 99
	e.depose(7, 2)
	e.elect(8)
	e.leased()
	a := e.ask(oracleReq(1))
	if a.done() {
		t.Fatalf("answered before its limit entry has applied: %v", a.resp)
	}
	e.settle()
	if !a.done() || a.err != nil || a.resp.Oracle.Revision <= last || a.resp.Oracle.Epoch != 8 {
		t.Errorf("after it: %v %v", a.resp, a.err)
	}
}

func TestHazard8AnswersNeedAProofNoOlderThanTheQuestion(t *testing.T) {
	for _, mode := range []OracleMode{ModeLease, ModeQuorum} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			e := newEnv(t, func(c *Config) { c.Mode = mode })
			e.lead(6)
			if mode == ModeLease {
				e.advance(time.Hour) // the lease has run out
				e.confirm(true)
			}
			for _, req := range []*pb.PeerRequest{oracleReq(0), oracleReq(1), aliveReq(1), infoReq(1),
				{LeaseList: &pb.LeaseListRequest{}}, {Descriptors: &pb.DescriptorsRequest{}}, compactReq(1, false), attachReq(1, "a", "b")} {
				a := e.ask(req)
				if a.done() {
					t.Errorf("%v was answered without proof: %v", req, a.resp)
				}
				e.confirm(false)
				wantErr(t, "without a quorum", a.err, shard.ErrUnavailable)
				a = e.ask(req)
				e.settle()
				if !a.done() || a.err == shard.ErrUnavailable {
					t.Errorf("%v with proof: %v", req, a.err)
				}
			}
		})
	}
}

// Those who wait share a round, and a round under way proves nothing for who comes later.
func TestRoundsAreShared(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Mode = ModeQuorum })
	e.lead(6)
	before := e.h.begun
	var asks []*answer
	for range roundsMax + 100 {
		asks = append(asks, e.ask(oracleReq(1)))
	}
	if n := e.h.begun - before; n != roundsMax {
		t.Errorf("%d rounds are under way", n)
	}
	e.confirm(true)
	if asks[roundsMax-1].count != 1 || asks[roundsMax].done() {
		t.Error("a round answered somebody who came after its start, or not who came before")
	}
	if n := e.h.begun - before; n != roundsMax+1 {
		t.Errorf("%d rounds for 100 that waited", n-roundsMax)
	}
	e.confirm(true)
	for i, a := range asks {
		if a.count != 1 || a.resp.Oracle.GetRevision() != int64(i+2) {
			t.Fatalf("ask %d: %v", i, a.resp)
		}
	}
}

func TestDemandRaisesTheLimit(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	next := int64(2)
	var asks []*answer
	for range 50 {
		asks = append(asks, e.ask(oracleReq(1000)))
	}
	e.settle()
	for i, a := range asks {
		if a.count != 1 || a.err != nil || a.resp.Oracle.Revision != next {
			t.Fatalf("ask %d: %v %v, want %d", i, a.resp, a.err, next)
		}
		next += 1000
	}
	if st := e.m.Status(); st.OracleLimit < next-1 {
		t.Errorf("limit %d, handed out %d", st.OracleLimit, next-1)
	}
	// A raise that is dropped is proposed again with time.
	e.h.dropped = shard.ErrTooManyRequests
	a := e.ask(oracleReq(1_000_000))
	e.settle()
	e.h.dropped = nil
	if a.done() {
		t.Fatal("answered above the limit")
	}
	e.m.Tick()
	e.settle()
	if a.count != 1 || a.resp.Oracle.GetRevision() != next {
		t.Errorf("after the raise: %v %v", a.resp, a.err)
	}
}

func TestLosingTheLead(t *testing.T) {
	e := newEnv(t)
	wantNotLeader(t, "before any leader", e.ask(oracleReq(0)).err, 0)
	e.depose(6, 2)
	wantNotLeader(t, "a follower", e.ask(grantReq(1, 10)).err, 2)
	e.lead(7)
	wantNotLeader(t, "somebody has seen a later epoch", e.ask(&pb.PeerRequest{Epoch: 8, Oracle: &pb.OracleRequest{}}).err, 0)

	proposed := e.ask(grantReq(1, 10))
	starving := e.ask(oracleReq(100_000))
	e.advance(time.Minute) // no lease
	waiting := e.ask(oracleReq(1))
	e.depose(8, 3)
	wantErr(t, "proposed", proposed.err, shard.ErrAmbiguous)
	wantNotLeader(t, "waits for room", starving.err, 3)
	e.confirm(true) // too late: it proves nothing about term 7
	wantNotLeader(t, "waits for proof", waiting.err, 3)

	e.lead(9)
	e.h.dropped = errors_("queue is full")
	_, err := e.call(grantReq(1, 10))
	e.h.dropped = nil
	wantErr(t, "dropped", err, shard.ErrUnavailable)
	if err := e.m.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "closed", e.ask(oracleReq(1)).err, shard.ErrUnavailable)
}

type errors_ string

func (e errors_) Error() string { return string(e) }

// A transfer leaves no gap; one that fails leaves none either, and the oracle speaks again.
func TestMoveLeader(t *testing.T) {
	e := newEnv(t)
	wantNotLeader(t, "a follower", e.m.MoveLeader(context.Background(), 2), 0)
	e.lead(6)
	last := e.allocate(10) + 9
	wantErr(t, "to a stranger", e.m.MoveLeader(context.Background(), 9), shard.ErrInvalid)
	if err := e.m.MoveLeader(context.Background(), 1); err != nil {
		t.Errorf("to itself: %v", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	moved := make(chan error, 1)
	go func() { moved <- e.m.MoveLeader(ctx, 2) }()
	e.until("the transfer begins", func() bool { e.h.mu.Lock(); defer e.h.mu.Unlock(); return e.h.transfer == 2 })
	if limit, _ := limitOf(e); limit != last {
		t.Errorf("exact value %d, handed out %d", limit, last)
	}
	a := e.ask(oracleReq(1))
	if a.done() {
		t.Fatal("answered after the exact value was written")
	}
	wantErr(t, "another transfer", e.m.MoveLeader(context.Background(), 3), shard.ErrTooManyRequests)
	cancel() // it does not move
	wantErr(t, "given up", <-moved, shard.ErrTimeout)
	e.until("the oracle speaks again", a.done)
	if a.resp.Oracle.GetRevision() != last+1 {
		t.Errorf("a gap: %v after %d", a.resp, last)
	}

	go func() { moved <- e.m.MoveLeader(context.Background(), 3) }()
	e.until("the transfer begins", func() bool { e.h.mu.Lock(); defer e.h.mu.Unlock(); return e.h.transfer == 3 })
	e.depose(7, 3)
	if err := <-moved; err != nil {
		t.Error(err)
	}
	e.lead(8)
	if first := e.allocate(1); first != last+2 {
		t.Errorf("a gap: %d after %d", first, last+1)
	}
}

func limitOf(e *env) (int64, uint64) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	return e.m.state.OracleLimit()
}

func TestRetireAlone(t *testing.T) {
	e := newEnv(t, func(c *Config) {
		c.Desc.Replicas, c.Bootstrap.Meta.Replicas = c.Desc.Replicas[:1], c.Bootstrap.Meta.Replicas[:1]
	})
	if err := e.m.Retire(context.Background()); err != nil {
		t.Errorf("a follower retires: %v", err)
	}
	e.lead(6)
	last := e.allocate(5) + 4
	done := make(chan error, 1)
	go func() { done <- e.m.Retire(context.Background()) }()
	var err error
	e.until("it retires", func() bool {
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.m.Close(); err != nil {
		t.Fatal(err)
	}
	e.open()
	e.lead(7)
	if first := e.allocate(1); first != last+1 {
		t.Errorf("a clean stop left a gap: %d after %d", first, last)
	}
}

func TestANilReplicaDoesNotLead(t *testing.T) {
	var m *Meta
	m.Handle(context.Background(), 1, oracleReq(0), func(r *pb.PeerResponse) {
		wantNotLeader(t, "nil", pb.ErrorFromPB(r.Error), 0)
	})
}

func TestMembersAlarmsStatus(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	attrs := &pb.MemberAttrsRequest{Id: 2, Name: "zwei", ClientUrls: []string{"http://two:2379"}}
	e.must(&pb.PeerRequest{MemberAttrs: attrs})
	d := e.must(&pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{KnownVersion: 1}}).Descriptors
	if d.Version != 2 || d.Members[1].Name != "zwei" || d.Members[1].ClientUrls[0] != "http://two:2379" {
		t.Errorf("members: %v", d)
	}
	if v := e.must(oracleReq(0)).Oracle.RangesVersion; v != 2 {
		t.Errorf("an oracle answer says version %d", v)
	}
	_, err := e.call(&pb.PeerRequest{MemberAttrs: &pb.MemberAttrsRequest{Id: 9}})
	wantErr(t, "a stranger", err, shard.ErrInvalid)
	_, err = e.call(&pb.PeerRequest{Alarm: &pb.AlarmRequest{Action: pb.AlarmRaise, MemberId: 3, Alarm: 1}})
	wantErr(t, "an alarm beside members that do not know settings", err, shard.ErrUnimplemented)
	e.speakNewest()
	alarm := func(action int32) []*pb.MetaAlarmMember {
		return e.must(&pb.PeerRequest{Alarm: &pb.AlarmRequest{Action: action, MemberId: 3, Alarm: 1}}).MetaStatus.Alarms
	}
	if got := len(alarm(0))*100 + len(alarm(1))*10 + len(alarm(0)); got != 11 {
		t.Errorf("alarms: %d", got)
	}
	if got := alarm(2); len(got) != 0 {
		t.Errorf("alarms: %v", got)
	}
	_, err = e.call(&pb.PeerRequest{Alarm: &pb.AlarmRequest{Action: 7}})
	wantErr(t, "an unknown action", err, shard.ErrInvalid)
	_, err = e.call(&pb.PeerRequest{})
	wantErr(t, "an unknown call", err, shard.ErrUnimplemented)
	st := e.must(&pb.PeerRequest{MetaStatus: &pb.MetaStatusRequest{}}).MetaStatus
	if st.Term != 6 || st.LeaderNode != 1 || st.Index == 0 {
		t.Errorf("status: %v", st)
	}
}

// A question whose answer was lost gets the same revisions when it is asked again, so that they are
// not left out; from another leadership it gets new ones.
func TestAQuestionAskedAgain(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	ask := func(asker, seq uint64, n uint32) int64 {
		return e.must(&pb.PeerRequest{Oracle: &pb.OracleRequest{Count: n, Asker: asker, Seq: seq}}).Oracle.Revision
	}
	first := ask(1, 1, 3)
	if again := ask(1, 1, 3); again != first {
		t.Errorf("asked again: %d, first %d", again, first)
	}
	if next := ask(1, 2, 1); next != first+3 {
		t.Errorf("the next question got %d, want %d", next, first+3)
	}
	if other := ask(2, 1, 1); other != first+4 {
		t.Errorf("another's question got %d, want %d", other, first+4)
	}
	if unnamed := ask(0, 0, 1); unnamed != first+5 || ask(0, 0, 1) != first+6 {
		t.Errorf("questions without a name share an answer")
	}
	for i := range uint64(2 * repliesMax) {
		ask(3, i+1, 1)
	}
	if n := len(e.m.revisions.replies.answers); n != repliesMax {
		t.Errorf("%d answers are remembered, want %d", n, repliesMax)
	}
	e.depose(7, 2)
	e.lead(8)
	if last := ask(3, 2*repliesMax, 1); last <= first+6+2*repliesMax {
		t.Errorf("another leadership gave %d again", last)
	}
}

// TestConditionOfAnAllocation: revisions are handed out under the settings that the asker has checked by, and for what makes the store grow only while no
// alarm forbids it; what is refused takes none.
func TestConditionOfAnAllocation(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.speakNewest()
	ask := func(a shard.Ask) Now {
		t.Helper()
		a.Count = 1
		now, ok := e.m.ServeLeased(6, a, false)
		for i := 0; !ok && i < 10; i++ { // the limit rises
			e.commit()
			now, ok = e.m.ServeLeased(6, a, false)
		}
		if !ok {
			t.Fatal("the oracle is silent")
		}
		return now
	}
	before := ask(shard.Ask{})
	known := shard.Ask{Conditional: true, Settings: before.SettingsVersion, Grows: true}
	if now := ask(known); now.Refused || now.Revision != before.Revision+1 {
		t.Errorf("under the settings that there are: %+v behind %+v", now, before)
	}
	e.must(&pb.PeerRequest{Alarm: &pb.AlarmRequest{Action: pb.AlarmRaise, MemberId: 3, Alarm: 1}})
	older := ask(known)
	if !older.Refused || older.SettingsVersion != before.SettingsVersion+1 {
		t.Errorf("under older settings: %+v", older)
	}
	newer := shard.Ask{Conditional: true, Settings: older.SettingsVersion, Grows: true}
	if now := ask(newer); !now.Refused {
		t.Errorf("for what grows, under the alarm: %+v", now)
	}
	shrinks := newer
	shrinks.Grows = false
	if now := ask(shrinks); now.Refused || now.Revision != before.Revision+2 {
		t.Errorf("for what does not grow: %+v, and refusals take no revision", now)
	}
	shrinks.Settings = before.SettingsVersion
	if now := ask(shrinks); !now.Refused {
		t.Errorf("for what does not grow, under older settings: %+v", now)
	}
	if now := ask(shard.Ask{}); now.Refused || now.Revision != before.Revision+3 {
		t.Errorf("without a condition: %+v", now)
	}
}
