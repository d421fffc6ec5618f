package lead

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

// ruled is a leader whose oracle knows settings, which the leader's node hears of with the oracle's answers or before.
type ruled struct {
	*env
	known, now *placement.Settings // by the node, and by the oracle
}

func newRuled(lim Limits) *ruled {
	r := &ruled{known: firstSettings, now: firstSettings}
	lim.Settings = func() *placement.Settings { return r.known }
	r.env = newEnv(lim)
	r.own()
	r.out.Reset()
	return r
}

// change raises the NOSPACE alarm at the oracle, or clears it.
func (r *ruled) change(raise bool) {
	next := *r.now
	next.Alarms, _ = next.WithAlarm(placement.Alarm{Member: 1, Kind: placement.AlarmNoSpace}, raise)
	next.Version++
	r.now = &next
}

// decide is what the oracle says to ask i; the answer arrives later.
func (r *ruled) decide(i int) (arrive func()) {
	a := r.allocs[i]
	r.allocs = append(r.allocs[:i:i], r.allocs[i+1:]...)
	known, err, first := r.now, error(nil), r.rev+1
	if a.Ask.Conditional && known.Refuses(a.Ask.Settings, a.Ask.Grows) {
		err = shard.ErrOldSettings
	} else {
		r.rev += a.Ask.Count
	}
	return func() {
		if err != nil && known.Version > r.known.Version {
			r.known = known
		}
		r.l.Batches.Allocated(a.Id, first, r.epoch, err)
		r.collect(r.l)
	}
}

func (r *ruled) want(t *testing.T, lines ...string) {
	t.Helper()
	if got := strings.Split(strings.TrimSpace(r.out.String()), "\n"); strings.Join(got, "\n") != strings.Join(lines, "\n") {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"))
	}
	r.out.Reset()
}

// TestAnAllocationIsConditional: what an alarm forbids gets no revision, is told so, and burns none; the rest of its batch goes on, and so does what
// the cluster does by itself.
func TestAnAllocationIsConditional(t *testing.T) {
	r := newRuled(testLimits())
	r.write("first", replicatest.Put("x", "1"), time.Time{}) // its ask is out: the others share the next
	r.write("put", replicatest.Put("a", "1"), time.Time{})
	r.write("delete", replicatest.Del("x", ""), time.Time{})
	r.decide(0)()
	r.change(true)
	r.out.Reset()
	r.decide(0)() // refused, and asked for again without the put
	if a := r.allocs[0].Ask; a != (shard.Ask{Count: 1, Conditional: true, Settings: 2, Range: r.m.Desc.ID, Generation: 1}) {
		t.Errorf("asked again: %+v", a)
	}
	r.want(t, "put: error: database space exceeded", "allocate #1 n=1")
	r.settle(t)
	r.out.Reset()
	r.write("put", replicatest.Put("a", "1"), time.Time{})
	r.write("txn", replicatest.Txn(replicatest.IfMod("zz", 0), []*pb.Op{replicatest.Put("a", "2")}, nil), time.Time{})
	r.settle(t)
	if out := r.out.String(); !strings.Contains(out, "put: error: database space exceeded") || !strings.Contains(out, "txn: error: database space exceeded") {
		t.Errorf("under the alarm: %s", out)
	}
	r.change(false)
	r.known = r.now
	r.write("put again", replicatest.Put("a", "1"), time.Time{})
	r.settle(t)
	if !strings.Contains(r.out.String(), "put again: rev 4 wrote true") { // 2 and 3 were the first and the delete
		t.Errorf("a revision was burnt: %s", r.out.String())
	}
}

// TestNoAskUnderNewerSettingsWhileOthersAreOut: else the later request would get the lower revision, be carried out first, and find that what it was evaluated
// on is not there.
func TestNoAskUnderNewerSettingsWhileOthersAreOut(t *testing.T) {
	if earlyRevisions(t) {
		t.Error("a later request got the lower revision")
	}
}

func earlyRevisions(t *testing.T) bool {
	lim := testLimits()
	lim.Allocs = 2
	r := newRuled(lim)
	r.write("one", replicatest.Put("k", "1"), time.Time{})
	r.change(true)
	r.change(false)
	r.known = r.now // somebody else's answer brought the news
	r.write("two", replicatest.Txn(replicatest.IfMod("zz", 0), []*pb.Op{replicatest.Put("k", "2")}, nil), time.Time{})
	for i := 0; len(r.allocs) > 0 && i < 10; i++ { // the last asked is answered first
		r.decide(len(r.allocs) - 1)()
	}
	r.settle(t)
	return strings.Index(r.out.String(), "put k=1") > strings.Index(r.out.String(), "txn")
}

// TestConditionsAtRandom: whatever order answers and news come in, what was allocated is used, in order, and nothing that an alarm forbade at that moment is.
func TestConditionsAtRandom(t *testing.T) {
	for seed := range uint64(300) {
		if err := conditionsAtRandom(t, seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func conditionsAtRandom(t *testing.T, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	lim := testLimits()
	lim.BatchCount = 1 + rng.IntN(4)
	r := newRuled(lim)
	var late []func()
	refused, wrote := 0, 0
	for i := range 200 {
		switch x := rng.IntN(10); {
		case x < 4:
			op := replicatest.Put(fmt.Sprint("k", rng.IntN(5)), fmt.Sprint(i))
			if rng.IntN(3) == 0 {
				op = replicatest.Del(fmt.Sprint("k", rng.IntN(5)), "")
			}
			it := newItem(op, func(resp *pb.WriteResponse, err error) {
				if err != nil && !errors.Is(err, shard.ErrNoSpace) {
					t.Errorf("seed %d: %v", seed, err)
				}
				if errors.Is(err, shard.ErrNoSpace) {
					refused++
				} else if resp.Wrote {
					wrote++
				}
			})
			it.By.Settings = rng.Uint64N(r.known.Version + 1)
			r.names[it] = fmt.Sprint(i)
			r.l.Request(it)
			r.collect(r.l)
		case x == 4:
			r.change(rng.IntN(2) == 0)
		case x == 5:
			r.known = r.now
		case x < 8 && len(r.allocs) > 0:
			late = append(late, r.decide(0))
		case len(late) > 0:
			late[0]()
			late = late[1:]
		case len(r.log) > 0:
			if err := r.applyOne(0); err != nil {
				return err
			}
		}
	}
	r.change(false)
	for len(late)+len(r.allocs)+len(r.log)+len(r.currents)+len(r.confirms)+len(r.evals)+len(r.preds) > 0 {
		for _, fn := range late {
			fn()
		}
		late = nil
		for len(r.allocs) > 0 {
			late = append(late, r.decide(0))
		}
		if len(late) == 0 {
			r.settle(t)
		}
	}
	if r.st.Pos.Index == 0 || r.m.Last != r.rev && r.rev > 1 || int64(wrote) != r.rev-1 {
		return fmt.Errorf("%d writes, %d revisions allocated, the last used is %d; %d refused", wrote, r.rev-1, r.m.Last, refused)
	}
	return nil
}
