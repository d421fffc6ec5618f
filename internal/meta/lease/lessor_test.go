package lease

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// lessorEnv is the state of one scenario: a lessor and a clock that stands still.
type lessorEnv struct {
	l   *Lessor
	now time.Time
}

// TestLessorScenarios runs testdata. Commands:
//
//	promote leases=(id:ttl[:revoking],...) / demote / advance by=DURATION
//	grant id= ttl= [index=] / revoking id= / forgotten id=
//	renew id= / remaining id= / expired [max=] / retry id= [index=] / list
func TestLessorScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		e := &lessorEnv{l: NewLessor(), now: time.Unix(1_000_000, 0)}
		datadriven.RunTest(t, path, e.run)
	})
}

func (e *lessorEnv) run(t *testing.T, d *datadriven.TestData) string {
	var id, ttl int64
	var index uint64
	limit := 100
	d.MaybeScanArgs(t, "id", &id)
	d.MaybeScanArgs(t, "ttl", &ttl)
	d.MaybeScanArgs(t, "index", &index)
	d.MaybeScanArgs(t, "max", &limit)
	switch d.Cmd {
	case "promote":
		var leases []Lease
		for _, v := range vals(d, "leases") {
			var l Lease
			var rest string
			fmt.Sscanf(v, "%d:%d%s", &l.ID, &l.TTL, &rest)
			l.Revoking = rest != ""
			leases = append(leases, l)
		}
		e.l.Promote(e.now, leases)
	case "demote":
		e.l.Demote()
	case "advance":
		var by string
		d.ScanArgs(t, "by", &by)
		dur, err := time.ParseDuration(by)
		if err != nil {
			t.Fatal(err)
		}
		e.now = e.now.Add(dur)
	case "grant":
		e.l.Granted(e.now, Lease{ID: id, TTL: ttl, GrantIndex: index})
	case "revoking":
		e.l.Revoking(id)
	case "forgotten":
		e.l.Forgotten(id)
	case "retry":
		e.l.Retry(Ended{ID: id, GrantIndex: index})
	case "renew":
		got, r := e.l.Renew(e.now, id)
		return fmt.Sprintf("%s %d\n", []string{"renewed", "gone", "ending"}[r], got)
	case "remaining":
		left, ok := e.l.Remaining(e.now, id)
		return fmt.Sprintf("%v %v\n", left, ok)
	case "expired":
		var ids []int64
		for _, x := range e.l.Expired(e.now, limit) {
			ids = append(ids, x.ID)
		}
		return fmt.Sprintln(ids)
	case "list":
		return fmt.Sprintln(e.l.ByExpiry())
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	return ""
}

// Hazard 21: an expiry storm is paced, whatever the number of leases and of looks at the clock.
func TestHazard21ExpiryIsPaced(t *testing.T) {
	l, now := NewLessor(), time.Unix(1_000_000, 0)
	var leases []Lease
	for i := range 20_000 {
		leases = append(leases, Lease{ID: int64(i + 1), TTL: 10})
	}
	l.Promote(now, leases)
	now = now.Add(time.Hour)
	seen := map[int64]bool{}
	for range 100 { // ten seconds
		for range 3 {
			for _, e := range l.Expired(now, 100_000) {
				if seen[e.ID] {
					t.Fatalf("lease %d expired twice", e.ID)
				}
				seen[e.ID] = true
			}
		}
		now = now.Add(100 * time.Millisecond)
	}
	if n := len(seen); n < 9_900 || n > 10*revokesPerSecond+revokesBurst {
		t.Errorf("%d leases expired in ten seconds", n)
	}
}

func TestMinTTL(t *testing.T) {
	for election, want := range map[time.Duration]int64{time.Second: 2, 500 * time.Millisecond: 1, 2 * time.Second: 3, 667 * time.Millisecond: 2} {
		if got := MinTTL(election); got != want {
			t.Errorf("election timeout %v: minimum %d s, want %d", election, got, want)
		}
	}
}

// A lease never expires before its TTL has passed since the last renewal, and never stays for
// longer than a look at the clock.
func TestLessorAgainstModel(t *testing.T) {
	type lease struct {
		ttl, at time.Duration
		ending  bool
	}
	rapid.Check(t, func(t *rapid.T) {
		l, start := NewLessor(), time.Unix(1_000_000, 0)
		var clock time.Duration
		model := map[int64]*lease{}
		l.Promote(start, nil)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now := start.Add(clock)
			id := rapid.Int64Range(1, 6).Draw(t, "id")
			m := model[id]
			switch rapid.IntRange(0, 5).Draw(t, "do") {
			case 0:
				if m == nil {
					ttl := rapid.Int64Range(1, 9).Draw(t, "ttl")
					l.Granted(now, Lease{ID: id, TTL: ttl})
					model[id] = &lease{ttl: time.Duration(ttl) * time.Second, at: clock}
				}
			case 1:
				want := Gone
				if m != nil {
					if want = Renewed; m.ending || clock >= m.at+m.ttl {
						want = Ending
					} else {
						m.at = clock
					}
				}
				if _, got := l.Renew(now, id); got != want {
					t.Fatalf("renew %d: %v, want %v", id, got, want)
				}
			case 2:
				l.Forgotten(id)
				delete(model, id)
			case 3:
				clock += time.Duration(rapid.Int64Range(0, 3000).Draw(t, "ms")) * time.Millisecond
			case 4:
				l.Revoking(id)
				if m != nil {
					m.ending = true
				}
			case 5:
				var want, got []int64
				for id, m := range model {
					if !m.ending && clock >= m.at+m.ttl {
						want, m.ending = append(want, id), true
					}
				}
				for _, e := range l.Expired(now, 100) {
					got = append(got, e.ID)
				}
				slices.Sort(want)
				slices.Sort(got)
				if !slices.Equal(want, got) {
					t.Fatalf("expired %v, want %v", got, want)
				}
			}
			if l.Len() != len(model) || len(l.ByExpiry()) != len(model) {
				t.Fatalf("%d leases, want %d", l.Len(), len(model))
			}
		}
	})
}

func vals(d *datadriven.TestData, key string) []string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return a.Vals
		}
	}
	return nil
}
