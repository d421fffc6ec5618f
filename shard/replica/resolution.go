package replica

import (
	"cmp"
	"slices"
	"time"

	"pontoon/internal/pb"
)

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
func (l *leader) recoverTxns() {
	for _, id := range sortedTxns(l.m.records) {
		l.resolveEverywhere(id, l.m.records[id])
	}
	for _, p := range l.m.prepared {
		if !l.anchored(p) {
			continue
		}
		l.abort(p.id, func(err error) {
			if err != nil || l.dead || l.m.records[p.id] != nil {
				return
			}
			for _, other := range p.body.Participants { // sooner than they would ask
				l.emit(action{kind: actResolve, actionArgs: &actionArgs{key: other.Key, resolve: &pb.Resolve{Id: p.body.Id}, epoch: l.m.epoch}})
			}
		})
	}
}

func sortedTxns(m map[txnID]*pb.Commit) []txnID {
	ids := make([]txnID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareTxns)
	return ids
}

// resolveEverywhere begins to tell the participants.
func (l *leader) resolveEverywhere(id txnID, c *pb.Commit) {
	if l.txns.records[id] != nil {
		return
	}
	r := &resolution{commit: c, size: c.SizeVT()}
	l.txns.bytes += r.size
	for _, eff := range c.Effects {
		if !l.m.desc.Span.Contains(eff.ParticipantKey) {
			r.open = append(r.open, resolvePart{effects: eff})
		}
	}
	l.txns.records[id] = r
	l.pushResolution(id, r)
}

// pushResolution tells those participants that are due, or drops the record.
func (l *leader) pushResolution(id txnID, r *resolution) {
	if len(r.open) == 0 {
		l.dropRecord(id, r)
		return
	}
	for i := range r.open {
		p := &r.open[i]
		if p.asking || l.now.Before(p.due) {
			continue
		}
		p.asking = true
		key := p.effects.ParticipantKey
		l.emit(action{kind: actResolve, actionArgs: &actionArgs{key: key, txn: id, epoch: l.m.epoch, told: true, resolve: &pb.Resolve{
			Id: r.commit.Id, Committed: true, Revision: r.commit.Revision, Effects: p.effects,
		}}})
	}
}

// resolvedAt is the answer of a participant that was told a commit.
func (l *leader) resolvedAt(id txnID, key []byte, err error) {
	r := l.txns.records[id]
	if r == nil || l.dead {
		return
	}
	i := slices.IndexFunc(r.open, func(p resolvePart) bool { return string(p.effects.ParticipantKey) == string(key) })
	switch {
	case i < 0:
		return
	case err != nil:
		r.open[i].asking, r.open[i].due = false, l.now.Add(resolvePause)
		return
	}
	r.open = slices.Delete(r.open, i, i+1)
	if len(r.open) == 0 {
		l.dropRecord(id, r)
	}
	l.run()
}

func (l *leader) dropRecord(id txnID, r *resolution) {
	if r.dropping {
		return
	}
	r.dropping = true
	l.proposeEntry(&proposal{done: func(err error) {
		if err != nil {
			r.dropping = false
			return
		}
		delete(l.txns.records, id)
		l.txns.bytes -= r.size
	}}, &pb.Entry{Drop: &pb.Drop{Id: r.commit.Id}})
}

// ---- all of a leader's work for transactions

// tickTxns looks after everything that waits for time.
func (l *leader) tickTxns(now time.Time) {
	l.tickCoords(now)
	l.tickAsks(now)
	if len(l.txns.records) == 0 {
		return
	}
	ids := make([]txnID, 0, len(l.txns.records))
	for id := range l.txns.records {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareTxns)
	for _, id := range ids {
		l.pushResolution(id, l.txns.records[id])
	}
}

// txnsWaiting reports whether a tick may have something to do.
func (l *leader) txnsWaiting() bool {
	return !l.dead && l.own && (len(l.m.prepared) > 0 || len(l.txns.coords) > 0 || len(l.txns.idle) > 0 || len(l.txns.records) > 0)
}

// loseTxns ends everything whose outcome the log does not hold.
func (l *leader) loseTxns(err error) {
	for _, c := range l.allCoords() {
		if c.step != coordLogged { // its Commit certainly is not proposed any more
			l.endCoord(c, nil, err)
		}
	}
	for _, p := range l.txns.resolves {
		p.done(err)
	}
	l.txns.resolves, l.txns.commits = nil, nil
}

func compareTxns(a, b txnID) int {
	return cmp.Or(cmp.Compare(a.term, b.term), cmp.Compare(a.seq, b.seq), cmp.Compare(a.anchor, b.anchor))
}

func (id txnID) toPB() *pb.TxnID {
	return &pb.TxnID{AnchorRange: uint64(id.anchor), Term: id.term, Seq: id.seq}
}
