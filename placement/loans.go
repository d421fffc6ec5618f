package placement

import (
	"slices"
	"time"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// What takes no revision, such as a read at a revision that a client names, does not ask the oracle, which would refuse what was checked under
// old settings. It is judged by settings that are lent: an answer of the oracle lends a node the settings for D, counted at the node from the moment
// at which it asked. The meta group's leader notes when the last loan of each node ends, counted from the moment at which it answered, which is
// later. A change of the settings is acknowledged when each node that may still have a loan has confirmed it, or the loan has ended.

// LoansMax bounds the nodes that settings are lent to; to more nothing is lent, and they ask each time.
const LoansMax = 4096

// Loans are what the meta group's leader has lent, in one term. The zero value does not lead. Times are of one clock that goes on while the
// machine sleeps.
type Loans struct {
	d     time.Duration
	lends bool
	since time.Time // a predecessor may have lent until then
	nodes map[shard.NodeID]lent
}

// lent is when the last loan of a node ends, of which version it was, and when the last one of older versions ends; and the highest version that the
// node has confirmed.
type lent struct {
	until     time.Time
	version   uint64
	older     time.Time
	confirmed uint64
}

// end is when the node goes by nothing older than version any more, whatever becomes of the messages to it.
func (n *lent) end(version uint64) time.Time {
	switch {
	case n.confirmed >= version:
		return time.Time{}
	case n.version >= version:
		return n.older
	}
	return n.until
}

// Lead begins a term. d is how long a loan lasts, and whoever is silent is waited for. Where lends is false nothing is lent: nodes ask each time, from
// when on they know that they must. What predecessors have lent, and who has not heard that of them, may last as long.
func (l *Loans) Lead(now time.Time, d time.Duration, lends bool) {
	*l = Loans{d: d, lends: lends, since: now.Add(d), nodes: make(map[shard.NodeID]lent)}
	if mutate.On(mutate.LoansForgotten) {
		l.since = now
	}
}

// Follow ends the term.
func (l *Loans) Follow() { *l = Loans{} }

// Lend lends the present settings, of that version, to a node that asks now, and returns for how long, from its question on; 0: they are not lent.
func (l *Loans) Lend(node shard.NodeID, version uint64, now time.Time) time.Duration {
	old, known := l.nodes[node]
	if !l.lends || l.nodes == nil || !known && !l.room(now) {
		return 0
	}
	if version > old.version {
		if !mutate.On(mutate.LoansOverlap) {
			old.older = old.until
		}
		old.version = version
	}
	if !mutate.On(mutate.LoansUnnoted) {
		old.until = now.Add(l.d)
	}
	l.nodes[node] = old
	return l.d
}

// room forgets loans that have ended where there are many.
func (l *Loans) room(now time.Time) bool {
	if len(l.nodes) < LoansMax {
		return true
	}
	for node, n := range l.nodes {
		if !n.until.After(now) {
			delete(l.nodes, node)
		}
	}
	return len(l.nodes) < LoansMax
}

// Everybody counts each of the nodes as if it had a loan from now on: of a change from which on settings are lent, all are to hear that go by older
// ones without one.
func (l *Loans) Everybody(nodes []shard.NodeID, now time.Time) {
	if l.nodes == nil {
		return
	}
	for _, node := range nodes {
		n := l.nodes[node]
		if until := now.Add(l.d); n.until.Before(until) {
			n.until = until
		}
		l.nodes[node] = n
	}
}

// Confirm notes that nothing begins on a node any more under settings older than version.
func (l *Loans) Confirm(node shard.NodeID, version uint64) {
	if n, known := l.nodes[node]; known && n.confirmed < version {
		n.confirmed = version
		l.nodes[node] = n
	}
}

// Settled reports whether nothing begins anywhere any more under settings older than version; where it does not, again is when it will at the
// latest, whoever is silent. False without again: this is no leader.
func (l *Loans) Settled(version uint64, now time.Time) (ok bool, again time.Time) {
	if l.nodes == nil {
		return false, time.Time{}
	}
	again = l.since
	for _, n := range l.nodes {
		if end := n.end(version); end.After(again) {
			again = end
		}
	}
	return !again.After(now), again
}

// Unconfirmed lists the nodes that may go by settings older than version, in order.
func (l *Loans) Unconfirmed(version uint64, now time.Time) (nodes []shard.NodeID) {
	for node, n := range l.nodes {
		if n.end(version).After(now) {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// Loan is what a node has been lent last. The zero value is none.
type Loan struct {
	until   time.Time
	version uint64
}

// Answered is the loan after an answer of the oracle that came for a question asked at the given moment, and that lends settings of a version for d,
// to a node that goes by the version own. An answer that is older than the node lends nothing: whoever gave it may not lead any more.
func (l Loan) Answered(asked time.Time, d time.Duration, version, own uint64) Loan {
	next := Loan{until: asked.Add(d), version: version}
	switch {
	case d <= 0, version < own && !mutate.On(mutate.LoanOfOld):
		return l
	case version == l.version && next.until.Before(l.until): // answers overtake each other
		return l
	}
	return next
}

// Valid reports whether a node that goes by the version own may judge by it now.
func (l Loan) Valid(now time.Time, own uint64) bool {
	return own >= l.version && now.Before(l.until)
}
