package metaclient

import (
	"testing"
	"time"
)

// A call that the leader does not answer soon holds those back who come after for a moment only.
func TestALateCallHoldsNobodyBack(t *testing.T) {
	c, f := newClientEnv(t)
	var g got
	for range 3 + 8 {
		g.current(c)
	}
	for range 3 {
		f.pop(t).cb(nowResp(10, 6), nil)
	}
	late := []*fakeCall{f.pop(t)} // with eight askers, who began when the first came back
	f.fire(0)
	for n := 2; n <= 3; n++ {
		g.current(c)
		if f.waiting() != 0 {
			t.Fatal("a call beside one of eight that has just begun")
		}
		if f.fire(callLate) != 1 || f.waiting() != 1 {
			t.Fatalf("%d calls when the one before is late", f.waiting())
		}
		late = append(late, f.pop(t))
	}
	g.current(c)
	if f.fire(callLate); f.waiting() != 0 {
		t.Error("a fourth call is in flight")
	}
	for _, call := range late {
		call.cb(nowResp(12, 6), nil)
	}
	f.pop(t).cb(nowResp(12, 6), nil)
	if out := g.take(); len(out) != 3+8+3 {
		t.Errorf("answers: %v", out)
	}
}

func TestPace(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	p := pace{callsMax: 3, requestsMax: 8, late: 5 * time.Millisecond}
	want := func(ms, wait int) {
		t.Helper()
		if got := p.wait(at(ms)); got != time.Duration(wait)*time.Millisecond && (wait >= 0 || got >= 0) {
			t.Errorf("after %d ms: %v, want %d ms", ms, got, wait)
		}
	}
	want(0, 0)
	p.begin(at(0), 2)
	want(0, 0) // few are in flight
	p.begin(at(1), 6)
	want(1, 5)
	want(4, 2)
	want(9, 0)
	p.begin(at(9), 1)
	want(100, -1) // as many calls as there may be
	p.end(at(100), at(0), 2)
	p.end(at(101), at(1), 6)
	p.end(at(102), at(9), 1) // 93 ms: a third of that is what calls are apart
	p.begin(at(200), 8)
	want(205, 26)
	want(231, 0)
}
