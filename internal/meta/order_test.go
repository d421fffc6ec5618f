package meta

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Every answer names the revision that was current at its own point in the order of all changes, and a
// revoke that has deleted something the revision of the deletes, whatever was allocated since.
func TestAnswersNameTheirPointInTheOrder(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.allocate(4) // 2 to 5
	granted := e.ask(grantReq(7, 60))
	e.allocate(1) // before the grant is in the log
	e.commit()
	if e.allocate(1); granted.resp.LeaseInfo.Revision != 6 {
		t.Errorf("granted at %d, want 6", granted.resp.LeaseInfo.Revision)
	}
	if got := e.must(aliveReq(7)).LeaseInfo.Revision; got != 7 {
		t.Errorf("kept alive at %d, want 7", got)
	}
	if got := e.must(infoReq(7)).LeaseInfo.Revision; got != 7 {
		t.Errorf("info at %d, want 7", got)
	}
	if got := e.must(&pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}}).LeaseList.Revision; got != 7 {
		t.Errorf("listed at %d, want 7", got)
	}
	compacted := e.ask(compactReq(3, false))
	e.allocate(1) // 8
	e.settle()
	e.allocate(1) // 9
	if compacted.resp.Compact.Revision != 8 {
		t.Errorf("compacted at %d, want 8", compacted.resp.Compact.Revision)
	}
	physical := e.ask(compactReq(4, true))
	e.settle()
	e.allocate(1) // 10
	e.until("the space is free", physical.done)
	if physical.resp.Compact.Revision != 9 {
		t.Errorf("compacted physically at %d, want 9", physical.resp.Compact.Revision)
	}
	e.must(attachReq(7, "a", "c"))
	e.ranges.mu.Lock()
	e.ranges.at[7], e.ranges.held = 8, make(chan struct{})
	e.ranges.mu.Unlock()
	revoked := e.ask(revokeReq(7))
	e.settle()
	e.allocate(5) // 11 to 15, while the ranges delete
	close(e.ranges.held)
	e.until("the lease is gone", revoked.done)
	if revoked.err != nil || revoked.resp.LeaseRevoke.Revision != 8 {
		t.Errorf("revoked: %v, %v; want the revision of the deletes", revoked.resp, revoked.err)
	}
	e.must(grantReq(8, 60))
	if got := e.must(revokeReq(8)).LeaseRevoke.Revision; got != 15 {
		t.Errorf("revoked without keys at %d, want 15", got)
	}
	e.must(grantReq(9, 60))
	e.must(attachReq(9, "a", "c"))
	if got := e.must(revokeReq(9)).LeaseRevoke.Revision; got != 15 {
		t.Errorf("revoked with keys that are gone at %d, want 15", got)
	}
}

// Where an attempt may have deleted the keys, and the next one finds none, nobody can say at which revision
// the lease has ended. An attempt that certainly was not made leaves no doubt.
func TestARevokeOfUnknownRevisionIsAmbiguous(t *testing.T) {
	for name, c := range map[string]struct {
		lost error
		rev  int64 // found by the second attempt
		want string
	}{
		"not tried":            {shard.ErrUnavailable, 0, "1 <nil>"},
		"not tried in time":    {fmt.Errorf("%w: patience", shard.ErrTimeout), 0, "1 <nil>"},
		"unknown, then none":   {shard.ErrAmbiguous, 0, "0 " + shard.ErrAmbiguous.Error()},
		"unknown, then some":   {shard.ErrAmbiguous, 9, "9 <nil>"},
		"another, then none":   {shard.ErrInvalid, 0, "0 " + shard.ErrAmbiguous.Error()},
		"not tried, then some": {shard.ErrUnavailable, 9, "9 <nil>"},
	} {
		e := newEnv(t)
		e.lead(6)
		e.must(grantReq(7, 60))
		e.must(attachReq(7, "a", "c"))
		e.ranges.mu.Lock()
		e.ranges.lost = c.lost
		e.ranges.mu.Unlock()
		revoked := e.ask(revokeReq(7))
		e.until("a first attempt", func() bool {
			e.ranges.mu.Lock()
			defer e.ranges.mu.Unlock()
			return e.ranges.tries[7] == 1
		})
		e.ranges.mu.Lock()
		e.ranges.at[7] = c.rev
		e.ranges.mu.Unlock()
		alive := e.ask(aliveReq(7))
		e.retry(7)
		e.until("the lease is gone", func() bool { return revoked.done() && alive.done() })
		if got := fmt.Sprint(revoked.resp.GetLeaseRevoke().GetRevision(), revoked.err); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if alive.err != nil || alive.resp.LeaseInfo.Leases[0].Ttl != 0 {
			t.Errorf("%s: keep-alive: %v %v", name, alive.resp, alive.err)
		}
	}
}

// A lease with very many keys takes longer to remove than an attempt may that nobody waits for. Nothing
// fails, and so the client that revokes it is told the revision of the deletes.
func TestARevokeOfManyKeysIsExact(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	e.must(grantReq(7, 60))
	e.must(attachReq(7, "a", "c"))
	e.ranges.mu.Lock()
	e.ranges.at[7], e.ranges.takes = 9, 3*e.m.cfg.ElectionTimeout
	e.ranges.mu.Unlock()
	revoked := e.ask(revokeReq(7))
	e.until("the lease is gone, or an attempt has failed", func() bool {
		e.m.mu.Lock()
		t := e.m.revocations.open[7]
		failed := t != nil && !t.due.IsZero()
		e.m.mu.Unlock()
		if failed {
			e.advance(time.Second)
		}
		return revoked.done()
	})
	if got := fmt.Sprint(revoked.resp.GetLeaseRevoke().GetRevision(), revoked.err); got != "9 <nil>" {
		t.Errorf("revoked: %s, want the revision of the deletes", got)
	}
}

// Attempts for clients that wait hold up nobody: neither other leases, however many are stuck, nor for
// long a list of all leases.
func TestLongAttemptsHoldUpNobody(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	const stuck = revocationsMax
	for id := int64(1); id <= stuck+2; id++ {
		e.must(grantReq(id, 10))
		e.must(attachReq(id, "a", "c"))
	}
	held := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(held) })
	t.Cleanup(letGo)
	e.ranges.held = held
	for id := int64(1); id <= stuck; id++ {
		e.ask(revokeReq(id))
	}
	e.settle()
	e.m.mu.Lock()
	if r := &e.m.revocations; r.patient != stuck || r.running != 0 {
		t.Errorf("%d long attempts and %d others", r.patient, r.running)
	}
	e.m.mu.Unlock()
	e.ask(revokeReq(stuck + 1)) // has a short attempt
	e.settle()
	e.m.mu.Lock()
	if r := &e.m.revocations; r.patient != stuck || r.running != 1 {
		t.Errorf("with one more: %d long attempts and %d others", r.patient, r.running)
	}
	e.m.mu.Unlock()
	list := e.ask(&pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}})
	e.settle()
	if list.done() {
		t.Error("listed at once, while leases are being removed")
	}
	e.advance(e.m.cfg.ElectionTimeout)
	e.leased()
	e.settle()
	if !list.done() || list.err != nil || len(list.resp.LeaseList.Ids) != stuck+2 {
		t.Errorf("listed: %v, %v", list.resp.GetLeaseList().GetIds(), list.err)
	}
	letGo()
	e.until("they are gone", func() bool { return e.m.Status().Ending == 0 })
	e.m.mu.Lock()
	if r := &e.m.revocations; r.patient != 0 || r.running != 0 || r.retries != 0 {
		t.Errorf("at the end %d long attempts, %d others, %d retries", r.patient, r.running, r.retries)
	}
	e.m.mu.Unlock()
}
