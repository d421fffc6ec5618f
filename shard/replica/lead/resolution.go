package lead

import (
	"cmp"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard/replica/apply"
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
func (l *Leader) recoverTxns() {
	for _, id := range sortedTxns(l.m.Records) {
		l.resolveEverywhere(id, l.m.Records[id])
	}
	for _, p := range l.m.Prepared {
		if !l.anchored(p) {
			continue
		}
		l.abort(p.Id, func(err error) {
			if err != nil || l.dead || l.m.Records[p.Id] != nil {
				return
			}
			for _, other := range p.Body.Participants { // sooner than they would ask
				l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: other.Key, Resolve: &pb.Resolve{Id: p.Body.Id}, Epoch: l.m.Epoch}})
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
func (l *Leader) resolveEverywhere(id apply.TxnID, c *pb.Commit) {
	if l.Txns.records[id] != nil {
		return
	}
	r := &resolution{commit: c, size: c.SizeVT()}
	l.Txns.bytes += r.size
	for _, eff := range c.Effects {
		if !l.m.Desc.Span.Contains(eff.ParticipantKey) {
			r.open = append(r.open, resolvePart{effects: eff})
		}
	}
	l.Txns.records[id] = r
	l.pushResolution(id, r)
}

// pushResolution tells those participants that are due, or drops the record.
func (l *Leader) pushResolution(id apply.TxnID, r *resolution) {
	if len(r.open) == 0 {
		l.dropRecord(id, r)
		return
	}
	for i := range r.open {
		p := &r.open[i]
		if p.asking || l.Now.Before(p.due) {
			continue
		}
		p.asking = true
		key := p.effects.ParticipantKey
		l.Emit(Action{Kind: ActResolve, actionArgs: &actionArgs{Key: key, Txn: id, Epoch: l.m.Epoch, Told: true, Resolve: &pb.Resolve{
			Id: r.commit.Id, Committed: true, Revision: r.commit.Revision, Effects: p.effects,
		}}})
	}
}

// ResolvedAt is the answer of a participant that was told a commit.
func (l *Leader) ResolvedAt(id apply.TxnID, key []byte, err error) {
	r := l.Txns.records[id]
	if r == nil || l.dead {
		return
	}
	i := slices.IndexFunc(r.open, func(p resolvePart) bool { return string(p.effects.ParticipantKey) == string(key) })
	switch {
	case i < 0:
		return
	case err != nil:
		r.open[i].asking, r.open[i].due = false, l.Now.Add(resolvePause)
		return
	}
	r.open = slices.Delete(r.open, i, i+1)
	if len(r.open) == 0 {
		l.dropRecord(id, r)
	}
	l.Run()
}

func (l *Leader) dropRecord(id apply.TxnID, r *resolution) {
	if r.dropping {
		return
	}
	r.dropping = true
	l.proposeEntry(&proposal{done: func(err error) {
		if err != nil {
			r.dropping = false
			return
		}
		delete(l.Txns.records, id)
		l.Txns.bytes -= r.size
	}}, &pb.Entry{Drop: &pb.Drop{Id: r.commit.Id}})
}

// ---- all of a leader's work for transactions

// tickTxns looks after everything that waits for time.
func (l *Leader) tickTxns(now time.Time) {
	l.tickCoords(now)
	l.tickAsks(now)
	if len(l.Txns.records) == 0 {
		return
	}
	ids := make([]apply.TxnID, 0, len(l.Txns.records))
	for id := range l.Txns.records {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareTxns)
	for _, id := range ids {
		l.pushResolution(id, l.Txns.records[id])
	}
}

// txnsWaiting reports whether a tick may have something to do.
func (l *Leader) txnsWaiting() bool {
	return !l.dead && l.own && (len(l.m.Prepared) > 0 || len(l.Txns.coords) > 0 || len(l.Txns.idle) > 0 || len(l.Txns.records) > 0)
}

// loseTxns ends everything whose outcome the log does not hold.
func (l *Leader) loseTxns(err error) {
	for _, c := range l.allCoords() {
		if c.step != coordLogged { // its Commit certainly is not proposed any more
			l.endCoord(c, nil, err)
		}
	}
	for _, p := range l.Txns.resolves {
		p.done(err)
	}
	l.Txns.resolves, l.Txns.commits = nil, nil
}

func compareTxns(a, b apply.TxnID) int {
	return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Anchor, b.Anchor))
}
