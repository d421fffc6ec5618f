package history

import (
	"fmt"
	"strings"
	"time"
)

func text(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// What the errors of etcd's clients say.
const (
	saysNoLease   = "requested lease not found"
	saysCompacted = "required revision has been compacted"
	saysFuture    = "required revision is a future revision"
)

// leaseFacts are what clients know of a lease.
type leaseFacts struct {
	grants            []*Op // answered or not
	lives             []*Op // grants and keep-alives that were answered
	revokes           []*Op // answered or not
	ends              []*revision
	firstUse, lastUse int64 // the first and last revision that puts a key under it; 0: none
}

// findLeases gathers what is known of each lease.
func (c *check) findLeases() {
	c.leases = map[int64]*leaseFacts{}
	for _, op := range c.h.Ops {
		switch op.Cmd.Kind {
		case Grant, Revoke, KeepAlive:
		default:
			continue
		}
		f := c.leases[op.Cmd.Lease]
		if f == nil {
			f = &leaseFacts{}
			c.leases[op.Cmd.Lease] = f
		}
		if op.Cmd.Kind == Grant && op.Fate != Refused {
			f.grants = append(f.grants, op)
		}
		switch {
		case op.Cmd.Kind == Revoke && op.Fate != Refused:
			f.revokes = append(f.revokes, op)
		case op.Cmd.Kind == Revoke:
		case op.Fate == OK:
			f.lives = append(f.lives, op)
		}
	}
}

// until is the time up to which the lease was certainly alive for those who ask at `at`: each
// renewal counts from its call. 0 when it was never known to live.
func (f *leaseFacts) until(at int64) (end int64) {
	for _, op := range f.lives {
		if op.Return <= at {
			end = max(end, op.Call+op.Result.TTL*int64(time.Second))
		}
	}
	return end
}

// revokedBy tells whether somebody may have revoked the lease by a time.
func (f *leaseFacts) revokedBy(at int64) bool {
	for _, op := range f.revokes {
		if op.Call <= at {
			return true
		}
	}
	return false
}

// leaseOf is the lease that all keys deleted by a revision were attached to; 0: there is none.
func (at *revision) leaseOf() (id int64) {
	for _, e := range at.events {
		if e.Prev == nil || e.Prev.Lease == 0 || id != 0 && e.Prev.Lease != id {
			return 0
		}
		id = e.Prev.Lease
	}
	return id
}

// attachedTo counts the keys of a lease at a revision.
func (c *check) attachedTo(id, rev int64) (n int) {
	for _, key := range c.s.keys {
		if kv, ok := c.s.at(key, rev); ok && kv.Lease == id {
			n++
		}
	}
	return n
}

// endsWell tells whether the deletes of a revision can be the end of a lease, with nothing to be
// said against it.
func (c *check) endsWell(at *revision) bool {
	id := at.leaseOf()
	f := c.leases[id]
	if f == nil || f.lastUse > at.rev {
		return false
	}
	by := c.bound(at.rev)
	return (c.opts.AnyExpiry || f.revokedBy(by) || by >= f.until(Never)) &&
		(c.opts.PartsExpiry || c.attachedTo(id, at.rev-1) == len(at.events))
}

// ended takes the deletes of a revision as the end of a lease, and tells what is wrong with it.
func (c *check) ended(at *revision) bool {
	id := at.leaseOf()
	f := c.leases[id]
	if f == nil {
		return false
	}
	at.lease = id
	f.ends = append(f.ends, at)
	c.Expired++
	by := c.bound(at.rev)
	// A renewal that was answered after the end would have found nothing, so all count.
	if until := f.until(Never); !c.opts.AnyExpiry && !f.revokedBy(by) && by < until {
		c.add(LeaseLost, "lease %x ended at revision %d, seen at %d ns, and was good until %d ns", id, at.rev, by, until)
	}
	if n := c.attachedTo(id, at.rev-1); n != len(at.events) && !c.opts.PartsExpiry {
		c.add(LeaseInParts, "lease %x ended at revision %d with %d of its %d keys", id, at.rev, len(at.events), n)
	}
	return true
}

// checkLeases: nothing is attached to a lease from its end on, and nobody is refused before it.
func (c *check) checkLeases() {
	for id, f := range c.leases {
		for _, op := range f.revokes {
			if op.Fate != OK || op.Result.Rev > c.logEnd {
				continue
			}
			if n := c.attachedTo(id, op.Result.Rev); n > 0 {
				c.add(LeaseGhost, "%s revoked lease %x, and at revision %d %d keys have it", op.text(), id, op.Result.Rev, n)
			}
		}
		c.checkPoints(id, f)
	}
	for _, op := range c.h.Ops {
		each(&op.Cmd, func(in *Cmd) {
			if in.Lease != 0 && (in.Kind == Put || in.Kind == KeepAlive) {
				c.checkUse(op, in.Lease)
			}
		})
	}
	c.checkAttached()
}

// checkPoints: where a lease was granted once, the grant's header is below every revision that uses it, and
// a revoke that found the lease has done the deletes of its end, so that its header is theirs.
func (c *check) checkPoints(id int64, f *leaseFacts) {
	if len(f.grants) != 1 {
		return
	}
	if g := f.grants[0]; g.Fate == OK && f.firstUse > 0 && g.Result.Rev >= f.firstUse {
		c.add(LeaseHeader, "%s granted lease %x at revision %d, and revision %d had used it", g.text(), id, g.Result.Rev, f.firstUse)
	}
	if len(f.ends) != 1 {
		return
	}
	for _, op := range f.revokes {
		if op.Fate == OK && op.Result.Rev != f.ends[0].rev {
			c.add(LeaseHeader, "%s revoked lease %x at revision %d, and its keys went at %d", op.text(), id, op.Result.Rev, f.ends[0].rev)
		}
	}
}

// checkUse holds a command that names a lease against what is known of it.
func (c *check) checkUse(op *Op, id int64) {
	f := c.leases[id]
	switch {
	case f == nil:
	case op.Fate == OK:
		for _, r := range f.revokes {
			if r.Fate == OK && r.Return < op.Call && (op.Cmd.Kind != Txn || effective(&op.Cmd, op.Result)) && c.attaches(op, id) {
				c.add(LeaseGhost, "%s used lease %x, which %s had revoked", op.text(), id, r.text())
			}
		}
	case op.Fate == Refused && strings.Contains(op.Err, saysNoLease) && !c.opts.AnyExpiry:
		if until := f.until(op.Call); until > op.Return && !f.revokedBy(op.Return) {
			c.add(LeaseLost, "%s was refused lease %x, which was good until %d ns", op.text(), id, until)
		}
	}
}

// attaches tells whether an answered command used the lease: a keep-alive, or a put that was done.
func (c *check) attaches(op *Op, id int64) bool {
	if op.Cmd.Kind == KeepAlive {
		return true
	}
	at := c.log[op.Result.Rev]
	if at == nil || at.by != op {
		return false
	}
	for _, e := range at.events {
		if !e.Del && e.KV.Lease == id {
			return true
		}
	}
	return false
}

// checkAttached: from the first revision at which a lease ended no key is attached to it.
func (c *check) checkAttached() {
	for _, rev := range c.revs {
		for _, e := range c.log[rev].events {
			f := c.leases[e.KV.Lease]
			if e.Del || f == nil || len(f.ends) == 0 {
				continue
			}
			if first := f.ends[0].rev; rev > first {
				c.add(LeaseGhost, "revision %d puts %s under lease %x, which ended at %d", rev, e.KV.Key, e.KV.Lease, first)
			}
		}
	}
}

// checkCompactions: nothing is read below what was compacted before, and nothing is refused that
// nobody had compacted.
func (c *check) checkCompactions() {
	var done []*Op
	for _, op := range c.h.Ops {
		if op.Cmd.Kind == Compact && op.Fate != Refused {
			done = append(done, op)
		}
	}
	for _, op := range c.h.Ops {
		rev := op.Cmd.Rev
		compacting := op.Cmd.Kind == Compact
		if op.Cmd.Kind != Range && !compacting {
			continue
		}
		switch {
		case op.Fate == OK && rev > 0 && !compacting:
			for _, k := range done {
				if k.Fate == OK && k.Return < op.Call && k.Cmd.Rev > rev {
					c.add(WrongCompact, "%s read at %d after %s had compacted up to %d", op.text(), rev, k.text(), k.Cmd.Rev)
					break
				}
			}
		case op.Fate == Refused && strings.Contains(op.Err, saysCompacted):
			if !compactedBy(done, op) {
				c.add(WrongCompact, "%s was refused revision %d, which nobody had compacted", op.text(), rev)
			}
		case op.Fate == Refused && strings.Contains(op.Err, saysFuture):
			if c.knownBefore(op.Call) >= rev {
				c.add(WrongCompact, "%s was refused revision %d as a future one, and it had been shown before", op.text(), rev)
			}
		}
	}
}

// compactedBy tells whether a refusal of a revision as compacted can be true.
func compactedBy(done []*Op, op *Op) bool {
	for _, k := range done {
		reaches := k.Cmd.Rev > op.Cmd.Rev || op.Cmd.Kind == Compact && k.Cmd.Rev == op.Cmd.Rev && k != op
		if k.Call < op.Return && reaches {
			return true
		}
	}
	return false
}

// knownBefore is the highest revision that a command had shown by a time.
func (c *check) knownBefore(at int64) (rev int64) {
	for i := len(c.seen) - 1; i >= 0; i-- {
		if c.seen[i].by < at {
			return c.seen[i].rev
		}
	}
	return 0
}
