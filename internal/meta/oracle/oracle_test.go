package oracle

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
)

// oracleEnv is the state of one scenario: an oracle and what it has proposed.
type oracleEnv struct {
	o    Oracle
	sent []Proposal
}

// TestOracleScenarios runs testdata. Commands:
//
//	lead term= limit= / follow / tick [n=]
//	raise [waiting=]      asks what to propose, and remembers it
//	applied seq= / dropped seq=
//	allocate n= [times=] / current / stop / resume
func TestOracleScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, (&oracleEnv{}).run)
	})
}

func (e *oracleEnv) run(t *testing.T, d *datadriven.TestData) string {
	var term, seq uint64
	var limit, n, waiting int64
	times := 1
	d.MaybeScanArgs(t, "term", &term)
	d.MaybeScanArgs(t, "limit", &limit)
	d.MaybeScanArgs(t, "n", &n)
	d.MaybeScanArgs(t, "seq", &seq)
	d.MaybeScanArgs(t, "waiting", &waiting)
	d.MaybeScanArgs(t, "times", &times)
	var p Proposal
	var ok bool
	switch d.Cmd {
	case "lead":
		e.o.Lead(term, limit)
	case "follow":
		e.o.Follow()
	case "tick":
		for range max(n, 1) {
			e.o.Tick()
		}
	case "raise":
		p, ok = e.o.WantRaise(waiting)
	case "stop":
		p, ok = e.o.Stop()
	case "resume":
		e.o.Resume()
	case "applied", "dropped":
		for _, s := range e.sent {
			if s.Seq == seq && d.Cmd == "applied" {
				e.o.Applied(s)
			} else if s.Seq == seq {
				e.o.Dropped(s)
			}
		}
	case "allocate":
		var out strings.Builder
		for range times {
			first, ok := e.o.Allocate(n)
			if !ok {
				out.WriteString("no\n")
				continue
			}
			fmt.Fprintf(&out, "%d..%d\n", first, first+n-1)
		}
		return out.String()
	case "current":
		if rev, ok := e.o.Current(); ok {
			return fmt.Sprintf("%d\n", rev)
		}
		return "silent\n"
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	if d.Cmd != "raise" && d.Cmd != "stop" {
		return ""
	}
	if !ok {
		return "nothing\n"
	}
	e.sent = append(e.sent, p)
	return fmt.Sprintf("%+v\n", p)
}

// applied logs a proposal of term and tells the oracle, as the leader's apply does.
func applied(s *state.State, o *Oracle, term uint64, p Proposal) error {
	index, _ := s.Position()
	r := s.Apply(index+1, term, &pb.MetaEntry{Term: term, OracleLimit: &pb.OracleLimit{Limit: p.Limit, Exact: p.Exact, LastTerm: term}})
	if r.Err == nil && o != nil {
		o.Applied(p)
	}
	return r.Err
}

// Hazard 10: the exact value of a deposed oracle applies after the next one has raised the limit
// and handed out revisions. It must not lower the limit, or a third oracle uses them again.
func TestHazard10ExactValueOfADeposedOracle(t *testing.T) {
	s := state.New()
	var o1, o2, o3 Oracle
	o1.Lead(5, state.FirstRevision)
	p, _ := o1.WantRaise(0)
	if err := applied(s, &o1, 5, p); err != nil {
		t.Fatal(err)
	}
	o1.Allocate(949)
	exact, ok := o1.Stop()
	if !ok || exact.Limit != 950 {
		t.Fatalf("stop: %+v", exact)
	}

	limit, _ := s.OracleLimit()
	o2.Lead(6, limit)
	if _, ok := o2.Current(); ok {
		t.Fatal("the new oracle answers before its own limit entry has applied")
	}
	p, _ = o2.WantRaise(0)
	if err := applied(s, &o2, 6, p); err != nil {
		t.Fatal(err)
	}
	first, _ := o2.Allocate(500)

	for name, e := range map[string]*pb.MetaEntry{
		"late":      {Term: 5, OracleLimit: &pb.OracleLimit{Limit: exact.Limit, Exact: true, LastTerm: 5}},
		"forwarded": {Term: 6, OracleLimit: &pb.OracleLimit{Limit: exact.Limit, Exact: true, LastTerm: 5}},
	} {
		index, _ := s.Position()
		if r := s.Apply(index+1, 6, e); r.Err == nil {
			t.Errorf("%s: the exact value of term 5 was applied in term 6", name)
		}
	}
	limit, _ = s.OracleLimit()
	o3.Lead(7, limit)
	p, _ = o3.WantRaise(0)
	if err := applied(s, &o3, 7, p); err != nil {
		t.Fatal(err)
	}
	if again, _ := o3.Allocate(1); again <= first+499 {
		t.Errorf("revision %d was handed out by term 6 already", again)
	}
}

// Hazard 10, second half: a raise that was proposed before the exact value and applies before it
// must not make the oracle speak again.
func TestHazard10SilenceUntilARaiseAfterTheExactValue(t *testing.T) {
	s := state.New()
	var o Oracle
	o.Lead(5, state.FirstRevision)
	p, _ := o.WantRaise(0)
	if err := applied(s, &o, 5, p); err != nil {
		t.Fatal(err)
	}
	o.Allocate(900)
	early, ok := o.WantRaise(0)
	if !ok {
		t.Fatal("no raise at the end of the room")
	}
	exact, _ := o.Stop()
	o.Resume()
	if err := applied(s, &o, 5, early); err != nil {
		t.Fatal(err)
	}
	if _, ok := o.Allocate(1); ok {
		t.Fatal("the oracle spoke before the exact value had applied: that would lower the limit below it")
	}
	late, ok := o.WantRaise(0)
	if !ok {
		t.Fatal("nothing ends the silence")
	}
	for _, p := range []Proposal{exact, late} {
		if err := applied(s, &o, 5, p); err != nil {
			t.Fatal(err)
		}
	}
	first, ok := o.Allocate(1)
	if limit, _ := s.OracleLimit(); !ok || first != exact.Limit+1 || first > limit {
		t.Errorf("first %d after exact %d, limit %d", first, exact.Limit, limit)
	}
}

// oracleWorld is a cluster of oracles over one log: the newest term is the leader, entries of
// older terms are lost or, if they were logged in time, applied.
type oracleWorld struct {
	s    *state.State
	o    *Oracle
	term uint64
	log  []Proposal // of this term, in order, not applied yet
	last int64      // highest revision ever handed out
}

// No revision is handed out twice, none is above the durable limit, and a clean hand-over leaves
// no gap, whatever happens in between.
func TestOracleNeverRepeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &oracleWorld{s: state.New(), o: &Oracle{}, last: state.FirstRevision}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			w.step(t)
		}
	})
}

func (w *oracleWorld) step(t *rapid.T) {
	switch rapid.IntRange(0, 9).Draw(t, "do") {
	case 0: // a new leader; what it finds logged applies first
		for range rapid.IntRange(0, len(w.log)).Draw(t, "committed") {
			w.applyOne(t)
		}
		w.term, w.log = w.term+1, nil
		limit, _ := w.s.OracleLimit()
		if rapid.Bool().Draw(t, "other node") {
			w.o = &Oracle{}
		}
		w.o.Lead(w.term, limit)
	case 1, 2:
		if p, ok := w.o.WantRaise(rapid.Int64Range(0, 5000).Draw(t, "waiting")); ok {
			w.log = append(w.log, p)
		}
	case 3, 4:
		w.applyOne(t)
	case 5:
		if p, ok := w.o.Stop(); ok {
			if p.Limit != max(w.last, p.Limit) {
				t.Fatalf("exact %d, but %d was handed out", p.Limit, w.last)
			}
			w.log = append(w.log, p)
		}
	case 6:
		w.o.Resume()
	case 7:
		w.o.Tick()
	default:
		n := rapid.Int64Range(1, 700).Draw(t, "n")
		first, ok := w.o.Allocate(n)
		if !ok {
			return
		}
		if first <= w.last {
			t.Fatalf("revision %d handed out after %d", first, w.last)
		}
		w.last = first + n - 1
		if limit, _ := w.s.OracleLimit(); w.last > limit {
			t.Fatalf("%d handed out above the limit %d", w.last, limit)
		}
	}
}

func (w *oracleWorld) applyOne(t *rapid.T) {
	if len(w.log) == 0 {
		return
	}
	p := w.log[0]
	w.log = w.log[1:]
	if err := applied(w.s, w.o, w.term, p); err != nil && !p.Exact {
		t.Fatal(err)
	}
	if limit, _ := w.s.OracleLimit(); limit < w.last {
		t.Fatalf("the limit fell to %d, but %d was handed out", limit, w.last)
	}
}
