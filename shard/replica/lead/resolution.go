package lead

import (
	"cmp"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard/replica/apply"
)

// resolutions are the transactions that have been committed here and whose outcome not every participant has
// applied.
type resolutions struct {
	l       *Leader
	records map[apply.TxnID]*resolution
}

// resolution brings a committed transaction's outcome to its other participants. The record goes
// once all of them have applied it: no record means aborted.
type resolution struct {
	commit   *pb.Commit
	size     int
	open     []resolvePart
	dropping bool
}

type resolvePart struct {
	effects *pb.Effects
	asking  bool
	due     time.Time
}

// resolvePause is the pause between two attempts at one participant.
const resolvePause = 100 * time.Millisecond

// recoverTxns takes up, in a new term, what the log holds of transactions anchored here: committed
// ones go on to their participants, the others are aborted, because their coordinators have died with
// their terms.
func (rs *resolutions) recoverTxns() {
	for _, id := range sortedTxns(rs.l.m.Records) {
		rs.resolveEverywhere(id, rs.l.m.Records[id])
	}
	for _, p := range rs.l.m.Prepared {
		if !rs.l.Participants.anchored(p) {
			continue
		}
		rs.l.Participants.abort(p.Id, func(err error) {
			if err != nil || rs.l.dead || rs.l.m.Records[p.Id] != nil {
				return
			}
			for _, other := range p.Body.Participants { // sooner than they would ask
				rs.l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: other.Key, Resolve: &pb.Resolve{Id: p.Body.Id}, Epoch: rs.l.m.Epoch}})
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

// resolveEverywhere begins to tell the participants.
func (rs *resolutions) resolveEverywhere(id apply.TxnID, c *pb.Commit) {
	if rs.records[id] != nil {
		return
	}
	r := &resolution{commit: c, size: c.SizeVT()}
	rs.l.Coordinations.bytes += r.size
	for _, eff := range c.Effects {
		if !rs.l.m.Desc.Span.Contains(eff.ParticipantKey) {
			r.open = append(r.open, resolvePart{effects: eff})
		}
	}
	rs.records[id] = r
	rs.pushResolution(id, r)
}

// pushResolution tells those participants that are due, or drops the record.
func (rs *resolutions) pushResolution(id apply.TxnID, r *resolution) {
	if len(r.open) == 0 {
		rs.dropRecord(id, r)
		return
	}
	for i := range r.open {
		p := &r.open[i]
		if p.asking || rs.l.Now.Before(p.due) {
			continue
		}
		p.asking = true
		key := p.effects.ParticipantKey
		rs.l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: key, Txn: id, Epoch: rs.l.m.Epoch, Told: true, Resolve: &pb.Resolve{
			Id: r.commit.Id, Committed: true, Revision: r.commit.Revision, Effects: p.effects,
		}}})
	}
}

// ResolvedAt is the answer of a participant that was told a commit.
func (rs *resolutions) ResolvedAt(id apply.TxnID, key []byte, err error) {
	r := rs.records[id]
	if r == nil || rs.l.dead {
		return
	}
	i := slices.IndexFunc(r.open, func(p resolvePart) bool { return string(p.effects.ParticipantKey) == string(key) })
	switch {
	case i < 0:
		return
	case err != nil:
		r.open[i].asking, r.open[i].due = false, rs.l.Now.Add(resolvePause)
		return
	}
	r.open = slices.Delete(r.open, i, i+1)
	if len(r.open) == 0 {
		rs.dropRecord(id, r)
	}
	rs.l.Run()
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
		delete(rs.records, id)
		rs.l.Coordinations.bytes -= r.size
	}}, &pb.Entry{Drop: &pb.Drop{Id: r.commit.Id}})
}

// ---- all of a leader's work for transactions

// tickTxns looks after everything that waits for time.
func (cs *coordinations) tickTxns(now time.Time) {
	cs.tickCoords(now)
	cs.l.Participants.tickAsks(now)
	if len(cs.l.Resolutions.records) == 0 {
		return
	}
	ids := make([]apply.TxnID, 0, len(cs.l.Resolutions.records))
	for id := range cs.l.Resolutions.records {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareTxns)
	for _, id := range ids {
		cs.l.Resolutions.pushResolution(id, cs.l.Resolutions.records[id])
	}
}

// txnsWaiting reports whether a tick may have something to do.
func (cs *coordinations) txnsWaiting() bool {
	return !cs.l.dead && cs.l.own && (len(cs.l.m.Prepared) > 0 || len(cs.coords) > 0 || len(cs.idle) > 0 || len(cs.l.Resolutions.records) > 0)
}

// loseTxns ends everything whose outcome the log does not hold.
func (cs *coordinations) loseTxns(err error) {
	for _, c := range cs.allCoords() {
		if c.step != coordLogged { // its Commit certainly is not proposed any more
			cs.endCoord(c, nil, err)
		}
	}
	for _, p := range cs.l.Participants.resolves {
		p.done(err)
	}
	cs.l.Participants.resolves, cs.commits = nil, nil
}

func compareTxns(a, b apply.TxnID) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Anchor, b.Anchor))
}
