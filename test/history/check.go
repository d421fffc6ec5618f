package history

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// The kinds of violations.
const (
	LostWrite      = "lost write"           // acknowledged, and not in the log of events
	ReusedRevision = "reused revision"      // two writes were acknowledged with one revision
	WrongAnswer    = "wrong answer"         // an answer that the state at its revision does not give
	WrongEvents    = "wrong events"         // a revision's events are not what its write does
	Unexplained    = "unexplained revision" // events that no request and no lease accounts for
	AppliedTwice   = "applied twice"        // a value at a second revision
	AppliedRefused = "refused yet applied"  // a refused request had an effect
	RealTime       = "real time"            // an order of revisions that the clock contradicts
	WrongCompact   = "compaction"           // read below, or refused above, what was compacted
	LeaseLost      = "lease ended early"    // before its time, or refused while it lived
	LeaseGhost     = "lease outlived"       // used, or with keys, after its end
	LeaseInParts   = "lease ended in parts" // more than one revision for one expiry
	LeaseHeader    = "lease header"         // of a grant or revoke: not at its own point in the order
	WatchOrder     = "watch order"          // an event after one of a higher revision
	WatchTwice     = "watch repetition"     // an event came a second time
	WatchGap       = "watch gap"            // an event did not come
	WatchSplit     = "watch not atomic"     // a revision in more than one response
	WatchBookmark  = "watch bookmark"       // an event at or below a progress notification
	WatchPrev      = "watch prev_kv"        // the previous value is not what was there
	WatchEvent     = "watch event"          // an event that never was, or not like this
)

// violationsMax bounds how many are told; the first ones say most.
const violationsMax = 40

// Violation is a broken promise.
type Violation struct {
	Kind string
	Text string
}

// Options say what the judge may demand.
type Options struct {
	// AnyExpiry allows a lease to end before its time: a clock was made to jump.
	AnyExpiry bool
	// PartsExpiry allows an expiry to take several revisions.
	PartsExpiry bool
}

// Report is the outcome of a check.
type Report struct {
	Violations []Violation
	Dropped    int      // violations beyond those told
	Undecided  []string // what could not be decided, with the reason

	Ops       int // answered commands that were held against the state at their revision
	Writes    int // effective ones among them
	Refused   int
	Unknown   int // commands of unknown outcome
	Happened  int // of these, the ones that did happen
	Expired   int // revisions at which leases ended
	Revisions int // in the log of events
	Gaps      int // revisions up to the last that nothing has
	Watches   int
	Events    int // delivered
}

// Err is nil when nothing is wrong and nothing is left undecided.
func (r *Report) Err() error {
	var b strings.Builder
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "\n  %s: %s", v.Kind, v.Text)
	}
	if r.Dropped > 0 {
		fmt.Fprintf(&b, "\n  and %d more", r.Dropped)
	}
	for _, u := range r.Undecided {
		fmt.Fprintf(&b, "\n  undecided: %s", u)
	}
	if b.Len() == 0 {
		return nil
	}
	return fmt.Errorf("history: %d violations, %d undecided%s", len(r.Violations)+r.Dropped, len(r.Undecided), b.String())
}

// Has tells whether a kind of violation was found.
func (r *Report) Has(kind string) bool {
	return slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Kind == kind })
}

func (r *Report) add(kind, format string, args ...any) {
	if len(r.Violations) >= violationsMax {
		r.Dropped++
		return
	}
	r.Violations = append(r.Violations, Violation{kind, fmt.Sprintf(format, args...)})
}

func (r *Report) undecided(format string, args ...any) {
	if len(r.Undecided) < violationsMax {
		r.Undecided = append(r.Undecided, fmt.Sprintf(format, args...))
	}
}

// check is a check under way.
type check struct {
	*Report
	h    *History
	opts Options

	log    map[int64]*revision // what watches have shown, by revision
	revs   []int64             // of the log, sorted
	logEnd int64               // the log is complete up to here
	s      *store
	owner  map[string]*Op // by value put
	seen   []seen         // sorted; see bound
	bounds []int64
	leases map[int64]*leaseFacts
}

// revision is what happened at one: its events, and who wrote them.
type revision struct {
	rev    int64
	events []Event // in the order in which they were done, once the author is known
	by     *Op     // nil: not known, or a lease
	lease  int64   // ended here
}

// Check holds a history against what etcd promises. It needs watches over all keys from revision 1
// on for the whole time: they tell what became of requests whose outcome nobody knows.
func Check(h *History, opts Options) *Report {
	c := &check{Report: &Report{}, h: h, opts: opts, log: map[int64]*revision{}, s: newStore(), owner: map[string]*Op{}}
	c.readWatches()
	c.findOwners()
	c.findLeases()
	c.boundTimes()
	c.replay()
	c.explainDeletes()
	c.checkAnswers()
	c.checkRealTime()
	c.checkCompactions()
	c.checkLeases()
	c.checkWatches()
	return c.Report
}

// readWatches puts the log together.
func (c *check) readWatches() {
	type reach struct{ from, to int64 }
	var reaches []reach
	for _, w := range c.h.Watches {
		c.Watches++
		from, to := w.Rev, int64(0)
		for i := range w.Responses {
			r := &w.Responses[i]
			if from == 0 && r.Created {
				from = r.Rev + 1
			}
			to = max(to, r.certain())
			c.Events += len(r.Events)
			for _, e := range r.Events {
				c.note(w, e)
			}
		}
		if w.Key <= "\x00" && w.End == "\x00" && from > 0 && to >= from {
			reaches = append(reaches, reach{from, to})
		}
	}
	for rev := range c.log {
		c.revs = append(c.revs, rev)
	}
	slices.Sort(c.revs)
	slices.SortFunc(reaches, func(a, b reach) int { return int(min(max(a.from-b.from, -1), 1)) })
	c.logEnd = 1 // revision 1 is that of an empty store
	for _, r := range reaches {
		if r.from <= c.logEnd+1 {
			c.logEnd = max(c.logEnd, r.to)
		}
	}
	if len(c.revs) > 0 {
		c.Revisions = len(c.revs)
		c.Gaps = int(c.revs[len(c.revs)-1]-1) - len(c.revs)
	}
}

// certain is the revision up to which a watch is complete once this response has come.
func (r *WatchResponse) certain() int64 {
	switch {
	case r.Err != "" || r.Created:
		return 0
	case len(r.Events) > 0:
		return r.Events[len(r.Events)-1].KV.Mod
	}
	return r.Rev
}

// note enters an event in the log; watches must agree on it.
func (c *check) note(w *Watch, e Event) {
	at := c.log[e.KV.Mod]
	if at == nil {
		at = &revision{rev: e.KV.Mod}
		c.log[e.KV.Mod] = at
	}
	for i := range at.events {
		old := &at.events[i]
		if old.KV.Key != e.KV.Key {
			continue
		}
		if old.KV != e.KV || old.Del != e.Del {
			c.add(WatchEvent, "revision %d: watch %d was told %s, another one %s", e.KV.Mod, w.ID, e.text(), old.text())
		}
		return
	}
	at.events = append(at.events, Event{Del: e.Del, KV: e.KV})
}

func (e *Event) text() string {
	if e.Del {
		return fmt.Sprintf("delete %s", e.KV.Key)
	}
	return fmt.Sprintf("put %+v", e.KV)
}

func (c *check) findOwners() {
	for _, op := range c.h.Ops {
		each(&op.Cmd, func(in *Cmd) {
			if in.Kind == Put {
				c.owner[in.Value] = op
			}
		})
		switch op.Fate {
		case Refused:
			c.Refused++
		case Unknown:
			c.Unknown++
		}
	}
}

// seen says that a revision, and all below it, was there at a moment: somebody was shown it.
type seen struct {
	rev  int64
	by   int64 // the time
	call int64 // of the command; 0 for a watch
	read bool  // it stands behind the write of that revision
	op   *Op
}

// placed tells whether a command's header revision is its place in the order of all.
func placed(op *Op) bool {
	return op.Fate == OK && !op.Cmd.Serializable && op.Cmd.Kind != KeepAlive
}

// boundTimes sorts everything that was seen by revision, so that bound can answer.
func (c *check) boundTimes() {
	for _, op := range c.h.Ops {
		switch {
		case placed(op):
			c.seen = append(c.seen, seen{rev: op.Result.Rev, by: op.Return, call: op.Call, op: op, read: !effective(&op.Cmd, op.Result)})
		case op.Fate == OK && op.Cmd.Serializable:
			c.seen = append(c.seen, seen{rev: op.Result.Rev, by: op.Return, read: true, op: op})
		}
	}
	for _, w := range c.h.Watches {
		for i := range w.Responses {
			if rev := w.Responses[i].certain(); rev > 0 {
				c.seen = append(c.seen, seen{rev: rev, by: w.Responses[i].At, read: true})
			}
		}
	}
	slices.SortFunc(c.seen, func(a, b seen) int {
		switch {
		case a.rev != b.rev:
			return int(min(max(a.rev-b.rev, -1), 1))
		case a.read != b.read && b.read:
			return -1
		case a.read != b.read:
			return 1
		}
		return 0
	})
	c.bounds = make([]int64, len(c.seen)+1)
	c.bounds[len(c.seen)] = Never
	for i := len(c.seen) - 1; i >= 0; i-- {
		c.bounds[i] = min(c.bounds[i+1], c.seen[i].by)
	}
}

// bound is the time at which a revision was there at the latest.
func (c *check) bound(rev int64) int64 {
	return c.bounds[sort.Search(len(c.seen), func(i int) bool { return c.seen[i].rev >= rev })]
}

// checkRealTime: what had returned before another began has the lower place. One scan over the
// places, lowest first: nobody may have returned before one of a lower place was called.
func (c *check) checkRealTime() {
	all := c.seen
	for _, rev := range c.revs {
		if at := c.log[rev]; at.by != nil && at.by.Fate == Unknown {
			all = append(all, seen{rev: rev, by: Never, call: at.by.Call, op: at.by})
		}
	}
	slices.SortStableFunc(all, func(a, b seen) int {
		if a.rev != b.rev {
			return int(min(max(a.rev-b.rev, -1), 1))
		}
		if a.read != b.read && a.read {
			return 1
		} else if a.read != b.read {
			return -1
		}
		return 0
	})
	var latest seen // of the lower places, the one called last
	for i := 0; i < len(all); {
		j := i
		for ; j < len(all) && all[j].rev == all[i].rev && all[j].read == all[i].read; j++ {
			if all[j].by < latest.call {
				c.add(RealTime, "%s stands before %s, which had ended when it began", latest.text(), all[j].text())
			}
		}
		for ; i < j; i++ {
			if all[i].call > latest.call {
				latest = all[i]
			}
		}
	}
}

func (s *seen) text() string {
	if s.op == nil {
		return fmt.Sprintf("the delivery of revision %d at %d ns", s.rev, s.by)
	}
	return fmt.Sprintf("%s (revision %d)", s.op.text(), s.rev)
}

func (op *Op) text() string {
	ret := "never"
	if op.Return != Never {
		ret = fmt.Sprint(op.Return)
	}
	return fmt.Sprintf("op %d [%s of client %d, %d to %s ns]", op.ID, op.Cmd.Kind, op.Client, op.Call, ret)
}
