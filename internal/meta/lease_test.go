package meta

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func TestGrantAndKeepAlive(t *testing.T) {
	ids := []int64{-5, 0, 7, 7, 9}
	e := newEnv(t, func(c *Config) {
		c.RandomID = func() int64 { id := ids[0]; ids = ids[1:]; return id }
	})
	e.lead(6)
	l := e.must(grantReq(7, 1)).LeaseInfo.Leases[0]
	if l.Id != 7 || l.Ttl != 2 || l.GrantedTtl != 2 || l.GrantIndex == 0 {
		t.Errorf("granted: %v", l)
	}
	_, err := e.call(grantReq(7, 10))
	wantErr(t, "granted twice", err, shard.ErrLeaseExists)
	_, err = e.call(grantReq(8, 9_000_000_001))
	wantErr(t, "for ever", err, shard.ErrLeaseTTLTooLarge)
	if l := e.must(grantReq(0, 60)).LeaseInfo.Leases[0]; l.Id != 9 { // 7 is in use
		t.Errorf("the cluster chose %d", l.Id)
	}

	e.advance(1500 * time.Millisecond)
	if l := e.lease(7); l.Ttl != 0 || l.GrantedTtl != 2 {
		t.Errorf("info: %v", l)
	}
	if l := e.must(aliveReq(7)).LeaseInfo.Leases[0]; l.Ttl != 2 {
		t.Errorf("renewed: %v", l)
	}
	if l := e.lease(7); l.Ttl != 2 {
		t.Errorf("info: %v", l)
	}
	if l := e.must(aliveReq(4)).LeaseInfo.Leases[0]; l.Ttl != 0 {
		t.Errorf("keep-alive of no lease: %v", l)
	}
	if l := e.lease(4); l.Ttl != -1 {
		t.Errorf("info of no lease: %v", l)
	}
	if got := e.must(&pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}}).LeaseList.Ids; !slices.Equal(got, []int64{7, 9}) {
		t.Errorf("by expiry: %v", got)
	}
}

func TestAttach(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	grant := e.must(grantReq(7, 60)).LeaseInfo.Leases[0].GrantIndex
	if got := e.must(attachReq(7, "a", "m")).LeaseAttach.GrantIndex; got != grant {
		t.Errorf("attached to grant %d, want %d", got, grant)
	}
	logged := len(e.seen)
	e.must(attachReq(7, "c", "d"))
	if len(e.seen) != logged {
		t.Error("what is attached already was logged again")
	}
	e.must(attachReq(7, "m", ""))
	if l := e.lease(7); len(l.Spans) != 1 || string(l.Spans[0].Start) != "a" || len(l.Spans[0].End) != 0 {
		t.Errorf("spans: %v", l.Spans)
	}
	_, err := e.call(attachReq(8, "a", "b"))
	wantErr(t, "no lease", err, shard.ErrLeaseNotFound)
	other := attachReq(7, "a", "b")
	other.LeaseAttach.GrantIndex = grant + 1
	_, err = e.call(other)
	wantErr(t, "another grant", err, shard.ErrLeaseNotFound)
	_, err = e.call(&pb.PeerRequest{LeaseAttach: &pb.LeaseAttachRequest{Id: 7}})
	wantErr(t, "no span", err, shard.ErrInvalid)
}

// Hazard 5: from the decision to the end a lease exists, takes no span, is not renewed, and is
// forgotten only after every range that may hold its keys has dropped them.
func TestHazard5ALeaseEndsInOrder(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.must(grantReq(7, 10))
	e.must(attachReq(7, "a", "c"))
	e.ranges.mu.Lock()
	e.ranges.stuck[7] = true
	e.ranges.mu.Unlock()
	e.advance(10 * time.Second) // the leader lease, too, is over: the decision needs a round
	if len(e.h.log) != 0 {
		t.Fatal("expired without proof")
	}
	e.settle()
	e.until("a first attempt", func() bool { e.ranges.mu.Lock(); defer e.ranges.mu.Unlock(); return e.ranges.tries[7] > 0 })
	if l := e.lease(7); !l.Revoking || l.GrantedTtl != 10 {
		t.Errorf("info: %v", l)
	}
	alive := e.ask(aliveReq(7))
	both := e.must(aliveReq(7, 8)).LeaseInfo.Leases
	if !both[0].Revoking || both[0].Ttl != 0 || both[1].Revoking {
		t.Errorf("in a batch: %v", both)
	}
	_, err := e.call(grantReq(7, 10))
	wantErr(t, "grant", err, shard.ErrLeaseExists)
	_, err = e.call(attachReq(7, "x", "y"))
	wantErr(t, "attach", err, shard.ErrLeaseNotFound)
	_, err = e.call(attachReq(7, "a", "b"))
	wantErr(t, "attach what was attached", err, shard.ErrLeaseNotFound)
	revoke := e.ask(revokeReq(7))
	e.settle()
	if alive.done() || revoke.done() {
		t.Fatal("answered before the outcome")
	}
	e.ranges.mu.Lock()
	e.ranges.stuck[7] = false
	e.ranges.mu.Unlock()
	e.retry(7)
	e.until("the lease is gone", func() bool { return alive.done() && revoke.done() })
	if alive.err != nil || alive.resp.LeaseInfo.Leases[0].Ttl != 0 {
		t.Errorf("keep-alive: %v %v", alive.resp, alive.err)
	}
	wantErr(t, "revoke", revoke.err, shard.ErrLeaseNotFound)
	if got := fmt.Sprint(e.ranges.expired); got != `[7[["a","c")]]` {
		t.Errorf("ranges were told %s", got)
	}
	if l := e.lease(7); l.Ttl != -1 {
		t.Errorf("info: %v", l)
	}
	if e.m.Status().Ending != 0 {
		t.Error("something is still ending")
	}
}

func TestRevokeAnswersAfterTheEnd(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	_, err := e.call(revokeReq(7))
	wantErr(t, "no lease", err, shard.ErrLeaseNotFound)
	e.must(grantReq(7, 10))
	e.must(revokeReq(7)) // without keys no range is asked
	if len(e.ranges.tries) != 0 {
		t.Errorf("ranges were asked: %v", e.ranges.tries)
	}
	e.must(grantReq(7, 10))
	e.must(attachReq(7, "a", "c"))
	a := e.ask(revokeReq(7))
	e.until("revoked", a.done)
	if a.err != nil || e.lease(7).Ttl != -1 {
		t.Errorf("revoke: %v", a.err)
	}
}

// Who asks for leases waits for those whose keys are being removed, also by an earlier leader: who has seen
// that they are gone must not find the lease. One that cannot be removed is shown.
func TestAQuestionWaitsForLeasesThatEnd(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		e := newEnv(t)
		e.lead(6)
		e.ranges.held = make(chan struct{})
		letGo := sync.OnceFunc(func() { close(e.ranges.held) })
		t.Cleanup(letGo) // before the replica is closed, which waits
		e.ranges.stuck[7] = stuck
		for id := int64(7); id <= 8; id++ {
			e.must(grantReq(id, 10))
			e.must(attachReq(id, "a", "c"))
		}
		revoked := e.ask(revokeReq(7))
		e.settle()
		ask := func() (list, info *answer) {
			t.Helper()
			list, info = e.ask(&pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}}), e.ask(infoReq(7))
			e.settle()
			if list.done() || info.done() {
				t.Fatal("answered while the keys of a lease are being removed")
			}
			return list, info
		}
		oldList, oldInfo := ask()
		if revoked.done() {
			t.Fatal("revoked before the keys are gone")
		}
		e.depose(7, 2)
		wantErr(t, "revoke", revoked.err, shard.ErrAmbiguous)
		wantNotLeader(t, "list", oldList.err, 2)
		wantNotLeader(t, "info", oldInfo.err, 2)
		e.lead(8)
		list, info := ask()
		letGo()
		e.until("listed", list.done)
		e.until("informed", info.done)
		if l := info.resp.GetLeaseInfo().GetLeases(); info.err != nil || (l[0].Ttl == -1) == stuck {
			t.Errorf("stuck %v: lease 7: %v, %v", stuck, l, info.err)
		}
		want := []int64{8}
		if stuck {
			want = []int64{7, 8}
		}
		got := slices.Sorted(slices.Values(list.resp.GetLeaseList().GetIds()))
		if list.err != nil || !slices.Equal(got, want) {
			t.Errorf("stuck %v: listed %v, %v", stuck, got, list.err)
		}
	}
}

// A new leader finishes what it finds half done, gives every other lease its full time, and
// whoever waited at the old one learns that the outcome is open.
func TestANewLeaderGoesOn(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.must(grantReq(7, 10))
	e.must(grantReq(8, 10))
	e.must(attachReq(7, "a", "c"))
	e.ranges.setStuck(7, true)
	revoke, alive := e.ask(revokeReq(7)), (*answer)(nil)
	e.settle()
	alive = e.ask(aliveReq(7))
	e.advance(6 * time.Second)
	e.depose(7, 2)
	wantErr(t, "revoke", revoke.err, shard.ErrAmbiguous)
	wantNotLeader(t, "keep-alive", alive.err, 2)
	e.ranges.setStuck(7, false)
	e.lead(8)
	e.until("the lease is gone", func() bool { return e.lease(7).Ttl == -1 })
	if l := e.lease(8); l.Ttl != 10 {
		t.Errorf("the other lease: %v", l)
	}
}

// Hazard 16: a range that does not answer holds up its own leases only.
func TestHazard16AStuckRangeHoldsUpItsOwnLeases(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	const stuck, fine = 3 * revocationsMax, 50
	for id := int64(1); id <= stuck+fine; id++ {
		e.must(grantReq(id, 10))
		e.must(attachReq(id, "a", "c"))
		e.ranges.stuck[id] = id <= stuck
	}
	e.advance(11 * time.Second)
	e.until("the others are gone", func() bool { return e.m.Status().Ending == stuck && len(e.ids()) == stuck })
	e.until("every stuck one waits", func() bool {
		e.m.mu.Lock()
		defer e.m.mu.Unlock()
		return e.m.revocations.running == 0
	})
	e.ranges.mu.Lock()
	for id := int64(1); id <= stuck; id++ {
		if e.ranges.tries[id] != 1 {
			t.Errorf("lease %d was tried %d times without a pause", id, e.ranges.tries[id])
		}
	}
	clear(e.ranges.stuck)
	e.ranges.mu.Unlock()
	e.advance(time.Second)
	e.until("all are gone", func() bool { return e.m.Status().Ending == 0 })
}

func (e *env) ids() []int64 {
	return e.must(&pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}}).LeaseList.Ids
}

// An expired lease whose end could not be logged is tried again.
func TestExpiryIsProposedAgain(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.must(grantReq(7, 10))
	e.h.dropped = shard.ErrTooManyRequests
	e.advance(11 * time.Second)
	e.confirm(true)
	e.h.dropped = nil
	if e.lease(7).Revoking {
		t.Fatal("nothing was logged")
	}
	e.advance(time.Second)
	e.until("gone", func() bool { return e.lease(7).Ttl == -1 })
}

func TestCompact(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.allocate(99) // current: 100
	_, err := e.call(compactReq(101, false))
	wantErr(t, "the future", err, shard.ErrFutureRevision)
	e.must(compactReq(50, false))
	if got := e.must(oracleReq(0)).Oracle.CompactRevision; got != 50 {
		t.Errorf("an oracle answer says %d", got)
	}
	_, err = e.call(compactReq(50, false))
	if co, ok := err.(*shard.CompactedError); !ok || co.Revision != 50 {
		t.Errorf("compacted before: %v", err)
	}
	told := func() string { e.ranges.mu.Lock(); defer e.ranges.mu.Unlock(); return fmt.Sprint(e.ranges.compact) }
	e.until("the ranges are told", func() bool { return told() == "[50 false]" })

	e.ranges.mu.Lock()
	e.ranges.broken = true
	e.ranges.mu.Unlock()
	e.must(compactReq(60, false))
	e.until("an attempt has failed", func() bool { e.m.mu.Lock(); defer e.m.mu.Unlock(); return e.m.compactions.failed > 0 })
	e.ranges.mu.Lock()
	e.ranges.broken = false
	e.ranges.mu.Unlock()
	e.advance(time.Second)
	e.until("the ranges are told", func() bool { return told() == "[50 false 60 false]" })

	a := e.ask(compactReq(100, true))
	e.until("physically", a.done)
	if a.err != nil {
		t.Error(a.err)
	}
	e.until("both", func() bool { return len(told()) == len("[50 false 60 false 100 true 100 false]") })

	e.depose(7, 2)
	e.lead(8) // it does not know what the one before has done
	e.until("again", func() bool { return len(told()) == len("[50 false 60 false 100 true 100 false 100 false]") })
}

// Who has given up on a lease that a stuck range holds is let go, and no more wait than the bound allows.
func TestWhoGivesUpOnALeaseIsLetGo(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.must(grantReq(7, 60))
	e.must(attachReq(7, "a", "c"))
	e.ranges.held = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var revoke, info, patient answer
	ask := func(ctx context.Context, a *answer, req *pb.PeerRequest) {
		e.m.Handle(ctx, 2, req, func(resp *pb.PeerResponse) { a.err, a.count = pb.ErrorFromPB(resp.Error), a.count+1 })
	}
	ask(ctx, &revoke, revokeReq(7))
	e.settle()
	ask(ctx, &info, infoReq(7))
	ask(t.Context(), &patient, revokeReq(7))
	e.settle()
	if e.m.revocations.waiters != 3 {
		t.Errorf("%d wait", e.m.revocations.waiters)
	}
	cancel()
	e.m.Tick()
	if revoke.count != 1 || info.count != 1 || patient.count != 0 || e.m.revocations.waiters != 1 {
		t.Errorf("answered: %d, %d, %d; %d wait", revoke.count, info.count, patient.count, e.m.revocations.waiters)
	}
	wantErr(t, "revoke", revoke.err, shard.ErrAmbiguous)
	wantErr(t, "info", info.err, shard.ErrTimeout)
	e.advance(waitMax + 3*time.Second) // beyond any client's patience, which another node's call does not tell
	if patient.count != 1 || e.m.revocations.waiters != 0 {
		t.Errorf("answered: %d; %d wait", patient.count, e.m.revocations.waiters)
	}
	ask(t.Context(), &patient, revokeReq(7))
	e.settle()
	e.m.revocations.waiters = revocationWaitersMax
	var more answer
	ask(t.Context(), &more, infoReq(7))
	e.settle()
	wantErr(t, "one more", more.err, shard.ErrTooManyRequests)
	e.m.revocations.waiters = 1 // the second revoke
	close(e.ranges.held)
	e.until("the lease is gone", func() bool { e.m.mu.Lock(); defer e.m.mu.Unlock(); return e.m.revocations.waiters == 0 })
}
