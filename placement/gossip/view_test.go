package gossip

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"pontoon/shard"
)

func errorsAs(err error, target any) bool { return errors.As(err, target) }

func TestMetaFits(t *testing.T) {
	m := meta{node: 1<<64 - 1, boot: 1<<64 - 1, name: strings.Repeat("n", 300), addr: strings.Repeat("a", 300), locality: strings.Repeat("z", 300)}
	b := m.encode()
	if len(b) > metaBytesMax {
		t.Fatalf("%d bytes", len(b))
	}
	got, err := decodeMeta(b)
	if err != nil || got.node != m.node || got.boot != m.boot || len(got.name) != nameBytesMax || len(got.addr) != addrBytesMax {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzMeta(f *testing.F) {
	f.Add(meta{node: 7, boot: 9, name: "n1", addr: "h:1", locality: "zone=a"}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := decodeMeta(m.encode())
		if err != nil || again != m {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(state{}.encode())
	f.Add(state{
		loads: []loadOf{{node: 3, boot: 1, seq: 2, load: Load{Ranges: 4, CPUPermille: 1000}}},
		hints: []Hint{{Range: 9, Node: 3, Term: 1 << 40}, {Range: 10, Node: 4, Term: 2}},
	}.encode())
	f.Add([]byte{stateVersion, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := decodeState(s.encode())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v came back as %+v, %v", s, again, err)
		}
		v := newView(3)
		news := v.merge(s)
		if more := v.merge(s); !more.empty() {
			t.Errorf("said twice, news twice: %+v after %+v", more, news)
		}
	})
}

func TestViewStates(t *testing.T) {
	v := newView(1)
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	m := meta{node: 2, boot: 5, name: "b"}
	steps := []struct {
		do      func() (Event, bool)
		changed bool
		from    State
		to      State
		since   int
	}{
		{func() (Event, bool) { return v.setLink(2, false, at(1)) }, false, 0, 0, 0},
		{func() (Event, bool) { return v.setMember(m, true, at(2)) }, true, StateUnknown, StateAlive, 2},
		{func() (Event, bool) { return v.setMember(m, true, at(3)) }, false, StateAlive, StateAlive, 2},
		{func() (Event, bool) { return v.setLink(2, false, at(4)) }, true, StateAlive, StateSuspect, 4},
		{func() (Event, bool) { return v.setLink(2, false, at(5)) }, false, 0, 0, 0},
		{func() (Event, bool) { return v.setMember(m, false, at(6)) }, true, StateSuspect, StateDead, 6},
		{func() (Event, bool) { return v.setLink(2, true, at(7)) }, false, 0, 0, 0},
		{func() (Event, bool) { m.boot = 6; return v.setMember(m, true, at(8)) }, true, StateDead, StateAlive, 8},
		{func() (Event, bool) { m.boot = 7; return v.setMember(m, true, at(9)) }, true, StateAlive, StateAlive, 8},
	}
	for i, s := range steps {
		ev, changed := s.do()
		if changed != s.changed || ev.Previous != s.from || ev.Member.State != s.to || ev.Member.Node != 0 && !ev.Member.Since.Equal(at(s.since)) {
			t.Errorf("step %d: %+v, %v", i, ev, changed)
		}
	}
}

func TestViewLoadsOfAnEarlierLifeAreHidden(t *testing.T) {
	v := newView(1)
	v.merge(state{loads: []loadOf{{node: 2, boot: 5, seq: 9, load: Load{Ranges: 1}}}})
	v.setMember(meta{node: 2, boot: 6}, true, time.Time{})
	if v.all()[0].HasLoad {
		t.Error("the load of an earlier process is shown")
	}
	v.merge(state{loads: []loadOf{{node: 2, boot: 6, seq: 1, load: Load{Ranges: 2}}}})
	if m := v.all()[0]; !m.HasLoad || m.Load.Ranges != 2 {
		t.Errorf("got %+v", m)
	}
}

func TestViewIsBounded(t *testing.T) {
	v := newView(1)
	for i := range uint64(membersMax + 10) {
		v.setMember(meta{node: shard.NodeID(i + 1)}, i%2 == 0, time.Unix(int64(i), 0))
	}
	if len(v.members) > membersMax {
		t.Errorf("%d members", len(v.members))
	}
	var s state
	for i := range uint64(hintsMax + 10) {
		s.hints = append(s.hints, Hint{Range: shard.RangeID(i + 1), Node: shard.NodeID(1 + i%2), Term: 1})
	}
	v.merge(s)
	if len(v.hints) != hintsMax {
		t.Errorf("%d hints", len(v.hints))
	}
	w := v.whole(100)
	if len(w.hints) != 100 {
		t.Errorf("%d hints in a state", len(w.hints))
	}
	for _, h := range w.hints {
		if h.Node != 1 {
			t.Errorf("a hint of another before our own: %+v", h)
		}
	}
}
