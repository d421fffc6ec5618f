package lead

import (
	"cmp"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard/replica/apply"
)

// resolutions are the transactions that are committed here and not yet resolved by every participant.
type resolutions struct {
	l       *Leader
	records map[apply.TxnID]*resolution
}

// resolution sends a committed transaction's outcome to its other participants. The record is dropped once all
// of them have applied it, because no record means aborted.
type resolution struct {
	commit   *pb.Commit
	size     int
	pending  []resolvePart
	dropping bool
}

type resolvePart struct {
	effects  *pb.Effects
	inFlight bool
	retryAt  time.Time
}

// resolveRetryInterval is the pause between two attempts at one participant.
const resolveRetryInterval = 100 * time.Millisecond

// recoverTxns continues, in a new term, with the transactions that are anchored here. Committed ones are sent
// to their participants. The others are aborted, because their coordinators ended with their terms.
func (rs *resolutions) recoverTxns() {
	for _, id := range sortedTxns(rs.l.m.Records) {
		rs.startResolution(id, rs.l.m.Records[id])
	}
	for _, p := range rs.l.m.Prepared {
		if !rs.l.Participants.anchored(p) {
			continue
		}
		rs.l.Participants.abort(p.Id, func(err error) {
			if err != nil || rs.l.deposed || rs.l.m.Records[p.Id] != nil {
				return
			}
			for _, other := range p.Body.Participants { // before they inquire
				rs.l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: other.Key, Resolve: &pb.Resolve{Id: p.Body.Id, Key: other.Key}, Epoch: rs.l.m.Epoch}})
			}
		})
	}
}

func sortedTxns(m map[apply.TxnID]*pb.Commit) []apply.TxnID {
	ids := make([]apply.TxnID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareTxns)
	return ids
}

// startResolution starts to send the outcome to the participants.
func (rs *resolutions) startResolution(id apply.TxnID, c *pb.Commit) {
	if rs.records[id] != nil {
		return
	}
	r := &resolution{commit: c, size: c.SizeVT()}
	rs.l.Coordinations.bytes += r.size
	for _, eff := range c.Effects {
		if !rs.l.m.Desc.Span.Contains(eff.ParticipantKey) {
			r.pending = append(r.pending, resolvePart{effects: eff})
		}
	}
	rs.records[id] = r
	rs.sendResolves(id, r)
}

// sendResolves sends the outcome to the participants that are due, or drops the record.
func (rs *resolutions) sendResolves(id apply.TxnID, r *resolution) {
	if rs.l.m.Records[id] == nil && !r.dropping { // it went with its key: the leader there goes on
		rs.forget(id, r)
		return
	}
	if len(r.pending) == 0 {
		rs.dropRecord(id, r)
		return
	}
	for i := range r.pending {
		p := &r.pending[i]
		if p.inFlight || rs.l.Now.Before(p.retryAt) {
			continue
		}
		p.inFlight = true
		key := p.effects.ParticipantKey
		rs.l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: key, Txn: id, Epoch: rs.l.m.Epoch, WantAck: true, Resolve: &pb.Resolve{
			Id: r.commit.Id, Committed: true, Revision: r.commit.Revision, Effects: p.effects, Key: key,
		}}})
	}
}

// ResolveAcked takes a participant's answer to a commit.
func (rs *resolutions) ResolveAcked(id apply.TxnID, key []byte, err error) {
	r := rs.records[id]
	if r == nil || rs.l.deposed {
		return
	}
	i := slices.IndexFunc(r.pending, func(p resolvePart) bool { return string(p.effects.ParticipantKey) == string(key) })
	switch {
	case i < 0:
		return
	case err != nil:
		r.pending[i].inFlight, r.pending[i].retryAt = false, rs.l.Now.Add(resolveRetryInterval)
		return
	}
	r.pending = slices.Delete(r.pending, i, i+1)
	if len(r.pending) == 0 {
		rs.dropRecord(id, r)
	}
	rs.l.Run()
}

func (rs *resolutions) forget(id apply.TxnID, r *resolution) {
	if rs.records[id] == r {
		delete(rs.records, id)
		rs.l.Coordinations.bytes -= r.size
	}
}

func (rs *resolutions) dropRecord(id apply.TxnID, r *resolution) {
	if r.dropping {
		return
	}
	r.dropping = true
	rs.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		if err != nil {
			r.dropping = false
			return
		}
		rs.forget(id, r)
	}}, &pb.Entry{Drop: &pb.Drop{Id: r.commit.Id}})
}

// ---- all of a leader's work for transactions

// tickTxns runs what transactions do at a tick.
func (cs *coordinations) tickTxns(now time.Time) {
	cs.tickCoords(now)
	cs.l.Participants.tickInquiries(now)
	if len(cs.l.Resolutions.records) == 0 {
		return
	}
	ids := make([]apply.TxnID, 0, len(cs.l.Resolutions.records))
	for id := range cs.l.Resolutions.records {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareTxns)
	for _, id := range ids {
		cs.l.Resolutions.sendResolves(id, cs.l.Resolutions.records[id])
	}
}

// txnsWaiting reports whether a tick may have something to do.
func (cs *coordinations) txnsWaiting() bool {
	return !cs.l.deposed && cs.l.ownTermApplied && (len(cs.l.m.Prepared) > 0 || len(cs.coords) > 0 || len(cs.idle) > 0 || len(cs.l.Resolutions.records) > 0)
}

// failTxns ends everything that is not in the log.
func (cs *coordinations) failTxns(err error) {
	for _, c := range cs.allCoords() {
		if c.step != coordCommitting { // its Commit certainly is not proposed any more
			cs.endCoord(c, nil, err)
		}
	}
	for _, p := range cs.l.Participants.pendingResolves {
		p.done(err)
	}
	cs.l.Participants.pendingResolves, cs.commits = nil, nil
}

func compareTxns(a, b apply.TxnID) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Anchor, b.Anchor))
}
