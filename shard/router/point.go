package router

import (
	"context"
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// A linearizable read of one key, the request that most programs send most, needs nothing of what
// reads over many ranges do: no plan, no pages, no totals. It is a chain of callbacks. The goroutine that
// brings the oracle's answer sends the fence, and the reader waits once. Readers that share a call to the
// oracle so share the next message, too. Where the leader does anything but answer, the read begins again
// the long way, which knows what to do.
//
// Readers of the same key share the whole chain, for as long as it has not begun: so a key that everybody
// reads costs its leader a few questions of every node at a time, however many ask there, and none while nothing
// is written to its range (see recalls).

// pointRead is one such chain, for all that wait for done.
type pointRead struct {
	r     *reader
	until patience.Until // of the chain, whoever of its readers has less time
	desc  shard.Descriptor
	after []byte // the key's successor, which holds the key; the caller's may be gone when the oracle answers
	to    shard.NodeID
	now   Now // from the oracle
	// shared is set where others may share the chain, and hash is that of the key then.
	shared bool
	hash   uint64
	// lately is what is remembered of the key, and again is set where it was read before.
	lately answer
	again  bool
	// closed is up to which revision the replica here is final, if that may be of use; 0: it is not.
	closed int64
	// done is closed once the rest stands.
	done chan struct{}
	resp *pb.ReadResponse
	sent bool // the leader has been asked, and err is what came of that
	err  error
}

// recalled reports whether the answer is one that was remembered.
func (p *pointRead) recalled() bool { return p.resp != nil && p.resp == p.lately.resp }

func (p *pointRead) key() []byte { return p.after[:len(p.after)-1] }

// readsPoint reports whether op is a read of one key as it is now.
func readsPoint(op *pb.RangeOp) bool {
	return len(op.RangeEnd) == 0 && op.Revision <= 0 && !op.CountOnly && !op.KeysOnly && !filtered(op) &&
		!mutate.On(mutate.FollowerNoFence) // that is about replicas which the leader is not asked for
}

// readPoint reads one key; false: the long way is to be taken.
func (r *reader) readPoint(client context.Context, ctx *patience.Context, op *pb.RangeOp) (*RangeResult, bool, error) {
	m := r.maps.newest()
	if m == nil {
		return nil, false, nil
	}
	desc := m.Lookup(op.Key)
	to := r.leaderOf(desc.ID)
	if to == 0 {
		return nil, false, nil
	}
	mine := false
	made := func() *pointRead {
		mine = true
		return &pointRead{r: r, until: patience.UntilAfter(r.cfg.Patience), desc: desc, after: shard.Point(op.Key).End, to: to, done: make(chan struct{})}
	}
	var p *pointRead
	begins := true
	if to == r.self() { // what is asked in this process costs less than a wait
		p = made()
	} else {
		p, begins = r.points.join(op.Key, made)
	}
	if begins {
		p.begin()
	}
	_, err := patience.Wait(ctx, p.done)
	switch {
	case err != nil:
		return nil, true, overdue(client, ctx, err)
	case p.err != nil && !p.sent:
		return nil, true, p.err
	case p.err != nil:
		r.learnFrom(&attempt{desc: p.desc}, p.to, p.err)
		return nil, false, nil
	}
	if p.sent {
		r.LearnLeader(p.desc.ID, p.to)
	}
	if r.cfg.Local != nil {
		r.acked.note(p.desc.ID, p.now.Revision)
	}
	res := &RangeResult{KVs: p.resp.Kvs, Count: p.resp.Count, Revision: p.now.Revision}
	if !mine || p.recalled() { // the bytes of an answer belong to whoever asked
		res.KVs = own(res.KVs)
	}
	return res, true, nil
}

// overdue names the end of a wait: the client's own as it is, that of our patience as a timeout. It
// goes by the deadlines: which of two timers of one instant is seen first is chance.
func overdue(client, ctx context.Context, err error) error {
	ours, _ := ctx.Deadline()
	if at, ok := client.Deadline(); errors.Is(err, context.Canceled) || ok && !ours.Before(at) {
		return err
	}
	return fmt.Errorf("%w: %w", shard.ErrTimeout, err)
}

// leaderOf is the leader of a range as it is known or followed here; 0: nobody.
func (r *reader) leaderOf(id shard.RangeID) shard.NodeID {
	if n := r.Leader(id); n != 0 || r.cfg.Local == nil {
		return n
	}
	return r.cfg.Local.Leader(id)
}

// begin asks the oracle, and whom it has given revisions lately, if that may spare the leader.
func (p *pointRead) begin() {
	since := int64(0)
	if p.shared {
		p.lately, p.again = p.r.recalls.recall(p.key(), p.hash, p.desc.ID, p.r.cfg.Cluster.Revision())
		since = p.lately.rev
	}
	if p.lately.resp == nil && p.to != p.r.self() {
		if closed, due := p.r.closedHere(p.desc.ID); due {
			p.closed, since = closed, closed
		}
	}
	if since == 0 {
		p.r.cfg.Cluster.CurrentFunc(p.onCurrent)
		return
	}
	p.r.cfg.Cluster.GrantedFunc(since, p.onGranted)
}

// onGranted takes the oracle's answer, and asks the leader only if the key may have changed since it was read last, or since the replica here was final.
func (p *pointRead) onGranted(now Now, err error) {
	if err != nil {
		p.end(err)
		return
	}
	if p.closed > 0 {
		if !p.r.holdsHere(now, p.desc.ID, p.closed) {
			p.onCurrent(now, nil)
			return
		}
		p.now = now
		req := newHomeRead(p.desc, shard.Span{Start: p.key(), End: p.after}, now.Revision)
		p.r.cfg.Peers.CallFunc(&p.until, p.r.self(), req, p.onHome)
		return
	}
	holds := p.lately.holds(now)
	p.r.recalls.tried(p.hash, p.lately, now.Revision, holds)
	if !holds {
		p.onCurrent(now, nil)
		return
	}
	p.now, p.resp = now, p.lately.resp
	p.end(nil)
}

// onHome takes the answer of the replica here. Whatever else comes than what was asked for, the leader knows.
func (p *pointRead) onHome(resp *pb.PeerResponse, err error) {
	if err != nil || resp.Read == nil {
		p.onCurrent(p.now, nil)
		return
	}
	p.r.homes.home.Add(1)
	p.resp = resp.Read
	p.end(nil)
}

// onCurrent takes the oracle's answer and asks the leader.
func (p *pointRead) onCurrent(now Now, err error) {
	if err != nil {
		p.end(err)
		return
	}
	p.now, p.sent = now, true
	q := fencedReads.Get().(*fencedRead)
	req := q.request(p.desc.ID, p.desc.Generation, shard.Span{Start: p.key(), End: p.after}, now.Revision, now.Epoch)
	p.r.cfg.Peers.CallFunc(&p.until, p.to, req, p.onFence)
	if p.to != p.r.self() {
		fencedReads.Put(q)
	}
}

// onFence takes the leader's answer.
func (p *pointRead) onFence(resp *pb.PeerResponse, err error) {
	if err == nil {
		p.r.learned(resp)
		if p.resp = resp.GetFence().GetRead(); p.resp == nil {
			err = errNoRead
		} else if p.again {
			p.r.recalls.keep(p.hash, answer{key: p.key(), id: p.desc.ID, rev: p.now.Revision, resp: p.resp, settings: p.now.SettingsVersion})
		}
	}
	p.end(err)
}

// end wakes the readers.
func (p *pointRead) end(err error) {
	p.err = err
	close(p.done)
	if next := p.r.points.ended(p); next != nil {
		next.begin()
	}
}
