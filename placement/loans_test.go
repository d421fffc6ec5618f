package placement

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

var loanSeeds = flag.Uint64("loan-seeds", 300, "simulations of loans")

// loanWorld is a meta group with its settings, and nodes that judge by what they have been lent, on one clock. Messages take their time, overtake one
// another and are lost; nodes are cut off; leaders change. The judge demands that nothing begins on any node under settings older than those of which
// somebody has been told that they are in force.
type loanWorld struct {
	rng   *rand.Rand
	now   time.Time
	queue loanQueue
	seq   int

	term    uint64 // of the leader
	leader  Loans
	version uint64 // in the log
	waiting []uint64
	told    uint64 // the highest version of which somebody was told that it is in force

	nodes  []*loanNode
	failed error
	used   int
}

type loanNode struct {
	id     shard.NodeID
	term   uint64 // the highest that it has seen
	own    uint64 // the version that it goes by
	loan   Loan
	cut    bool // from everybody
	untold bool // nobody calls it: it asks
	tells  uint64
}

type loanEvent struct {
	at  time.Time
	seq int
	fn  func()
}

type loanQueue []loanEvent

func (q loanQueue) Len() int { return len(q) }
func (q loanQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q loanQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *loanQueue) Push(x any)   { *q = append(*q, x.(loanEvent)) }
func (q *loanQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

const loanTime = time.Second

func (w *loanWorld) after(d time.Duration, fn func()) {
	w.seq++
	heap.Push(&w.queue, loanEvent{w.now.Add(d), w.seq, fn})
}

// send brings a message, sometimes late, sometimes never.
func (w *loanWorld) send(n *loanNode, fn func()) {
	d := time.Duration(w.rng.IntN(20)) * time.Millisecond
	switch w.rng.IntN(20) {
	case 0:
		return
	case 1:
		d = time.Duration(w.rng.IntN(1800)) * time.Millisecond
	}
	if !n.cut {
		w.after(d, func() {
			if !n.cut {
				fn()
			}
		})
	}
}

// lead lets another leader follow, which has the log. What its predecessor answered it answered before that.
func (w *loanWorld) lead() {
	w.term++
	w.leader.Lead(w.now, loanTime, true)
	w.waiting = nil // whoever waited is told that nobody knows
}

// ask is a node's question to the oracle.
func (w *loanWorld) ask(n *loanNode) {
	asked := w.now
	w.send(n, func() {
		term, version, d := w.term, w.version, w.leader.Lend(n.id, w.version, w.now)
		w.send(n, func() {
			if term < n.term { // of an oracle that has been replaced
				return
			}
			n.term = max(n.term, term)
			if mutate.On(mutate.LoanFromAnswer) {
				asked = w.now
			}
			n.loan = n.loan.Answered(asked, d, version, n.own)
			if version > n.own {
				w.fetch(n)
			}
		})
	})
}

// fetch brings the newest settings.
func (w *loanWorld) fetch(n *loanNode) {
	w.send(n, func() {
		version := w.version
		w.send(n, func() { n.own = max(n.own, version) })
	})
}

// push tells a node of a version and takes its confirmation.
func (w *loanWorld) push(n *loanNode, version uint64) {
	term := w.term
	w.send(n, func() {
		n.term = max(n.term, term)
		w.confirm(n, term, version)
	})
}

func (w *loanWorld) confirm(n *loanNode, term, version uint64) {
	if n.own < version && !mutate.On(mutate.ConfirmEarly) {
		w.fetch(n)
		w.after(30*time.Millisecond, func() {
			if n.own >= version {
				w.confirm(n, term, version)
			}
		})
		return
	}
	confirmed := max(n.own, version)
	w.send(n, func() {
		if w.term == term {
			w.leader.Confirm(n.id, confirmed)
			w.settle()
		}
	})
}

// change logs a change of the settings.
func (w *loanWorld) change() {
	w.version++
	w.waiting = append(w.waiting, w.version)
	w.settle()
}

func (w *loanWorld) settle() {
	w.waiting = slices.DeleteFunc(w.waiting, func(v uint64) bool {
		ok, _ := w.leader.Settled(v, w.now)
		if ok = ok || mutate.On(mutate.SettledAtOnce); ok {
			w.told = max(w.told, v)
		}
		return ok
	})
	if len(w.waiting) > 0 {
		for _, id := range w.leader.Unconfirmed(w.version, w.now) {
			if !w.nodes[id-1].untold {
				w.push(w.nodes[id-1], w.version)
			}
		}
	}
}

// use begins something on a node that judges by what was lent, if it may.
func (w *loanWorld) use(n *loanNode) {
	if !n.loan.Valid(w.now, n.own) {
		w.ask(n)
		return
	}
	w.used++
	if n.own < w.told && w.failed == nil {
		w.failed = fmt.Errorf("at %v node %d began under version %d, and %d is in force", w.now.Sub(time.Unix(0, 0)), n.id, n.own, w.told)
	}
}

func (w *loanWorld) step() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch x := w.rng.IntN(200); {
	case x < 100:
		w.use(n)
	case x < 140:
		w.ask(n)
	case x < 150:
		w.change()
	case x < 152:
		w.lead()
	case x < 156:
		n.cut = true
	case x < 164:
		n.cut = false
	default:
		w.settle()
	}
}

func runLoans(seed uint64) (*loanWorld, error) {
	w := &loanWorld{rng: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(0, 0), version: FirstSettings}
	for i := range 3 {
		w.nodes = append(w.nodes, &loanNode{id: shard.NodeID(i + 1), own: FirstSettings})
	}
	w.nodes[2].untold = true
	w.lead()
	for range 4000 {
		for len(w.queue) > 0 && !w.queue[0].at.After(w.now) {
			heap.Pop(&w.queue).(loanEvent).fn()
		}
		w.step()
		if w.failed != nil {
			return w, w.failed
		}
		w.now = w.now.Add(time.Duration(w.rng.IntN(8)) * time.Millisecond)
	}
	return w, nil
}

// TestLoans: nothing begins under settings that are known to be over; changes are acknowledged all the same, and nodes judge by what they were lent.
func TestLoans(t *testing.T) {
	var used int
	var told uint64
	for seed := range *loanSeeds {
		w, err := runLoans(seed)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		used, told = used+w.used, told+w.told
	}
	if used < 1000 || told < 1000 {
		t.Errorf("%d uses, %d changes acknowledged: nothing is shown", used, told)
	}
}

// TestSettlesWithoutTheSilent: whoever is silent is waited for as long as its loan lasts, and no longer; a new leader waits for what others have lent.
func TestSettlesWithoutTheSilent(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	var l Loans
	if ok, again := l.Settled(1, at(0)); ok || !again.IsZero() || l.Lend(1, 1, at(0)) != 0 {
		t.Error("who does not lead lends, or acknowledges")
	}
	l.Lead(at(0), loanTime, true)
	if ok, again := l.Settled(2, at(999)); ok || !again.Equal(at(1000)) {
		t.Error("a new leader does not wait for what its predecessor has lent")
	}
	if l.Lend(1, 1, at(1000)) != loanTime || l.Lend(2, 1, at(1100)) != loanTime {
		t.Error("nothing is lent")
	}
	l.Confirm(2, 2)
	if got := l.Unconfirmed(2, at(1500)); !slices.Equal(got, []shard.NodeID{1}) {
		t.Errorf("unconfirmed: %v", got)
	}
	if ok, again := l.Settled(2, at(1500)); ok || !again.Equal(at(2000)) {
		t.Errorf("settled %v, again at %v", ok, again)
	}
	if ok, _ := l.Settled(2, at(2000)); !ok {
		t.Error("who is silent is waited for when its loan is over")
	}
	l.Everybody([]shard.NodeID{1, 2, 3}, at(3000))
	if got := l.Unconfirmed(3, at(3500)); len(got) != 3 {
		t.Errorf("everybody is to hear, and these are waited for: %v", got)
	}
	l.Lead(at(5000), 0, true) // the quorum mode
	if ok, _ := l.Settled(9, at(5000)); !ok || l.Lend(1, 3, at(5000)) != 0 {
		t.Error("without loans a change waits for something")
	}
	l.Lead(at(6000), loanTime, true)
	for id := range shard.NodeID(LoansMax) {
		l.Lend(id, 3, at(6000))
	}
	if l.Lend(LoansMax+1, 3, at(6500)) != 0 || l.Lend(LoansMax+1, 3, at(7000)) != loanTime {
		t.Error("loans are without bound, or those that are over take room")
	}
}

// TestSettlesAroundWhoIsNeverTold: a node that nobody calls asks again and again, and is lent each time; what it was lent before a change ends all the same.
func TestSettlesAroundWhoIsNeverTold(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	var l Loans
	l.Lead(at(0), loanTime, true)
	for ms := 1000; ms < 2000; ms += 100 {
		l.Lend(9, 1, at(ms))
	}
	for ms := 2000; ms < 4000; ms += 100 {
		if ok, again := l.Settled(2, at(ms)); ok != (ms >= 2900) || !ok && !again.Equal(at(2900)) {
			t.Errorf("at %d ms settled is %v, again at %v", ms, ok, again)
		}
		l.Lend(9, 2, at(ms))
	}
	l.Lend(9, 3, at(4000))
	if ok, again := l.Settled(3, at(4000)); ok || !again.Equal(at(4900)) {
		t.Errorf("of the next change settled is %v, again at %v", ok, again)
	}
}

// TestAnAnswerOlderThanTheViewLendsNothing: whoever gave it may not lead any more, and no leader waits for what it lends.
func TestAnAnswerOlderThanTheViewLendsNothing(t *testing.T) {
	at := time.Unix(0, 0)
	if l := (Loan{}).Answered(at, loanTime, 5, 6); l.Valid(at, 6) {
		t.Error("it lends")
	}
	l := Loan{}.Answered(at.Add(time.Millisecond), loanTime, 6, 6)
	if l.Answered(at, loanTime, 6, 6) != l || l.Answered(at.Add(time.Second), 0, 7, 6) != l {
		t.Error("an older question, or an answer that lends nothing, replaces a loan")
	}
	if newer := l.Answered(at.Add(time.Second), loanTime, 7, 6); newer.Valid(at.Add(time.Second), 6) || !newer.Valid(at.Add(time.Second), 7) {
		t.Error("a loan of settings that are not here yet")
	}
}

// TestLoanMutant runs what should notice one mutant.
func TestLoanMutant(t *testing.T) {
	mutatetest.Take(t)
	TestAnAnswerOlderThanTheViewLendsNothing(t)
	TestSettlesAroundWhoIsNeverTold(t)
	TestLoans(t)
}

// TestLoanMutants: each rule of loans is noticed when it is taken out.
func TestLoanMutants(t *testing.T) {
	mutatetest.Each(t, mutate.SettingsNames(), time.Minute, mutatetest.NoticedBy, "-test.run=^TestLoanMutant$")
}
