package history

import (
	"slices"
	"testing"
	"time"
)

// TestPorcupineRefuses: histories of one key that no order explains.
func TestPorcupineRefuses(t *testing.T) {
	for _, b := range []struct {
		name string
		make func(s *story)
	}{
		{"a stale read", func(s *story) {
			s.put(2, "a", "v2")
			s.put(3, "a", "v3")
			s.get(3, "a", &a2)
		}},
		{"a lost write", func(s *story) {
			s.put(2, "a", "v2")
			s.get(2, "a", nil)
		}},
		{"a write undone", func(s *story) {
			s.put(2, "a", "v2")
			s.put(3, "a", "v3").Return = Never
			s.get(3, "a", &a3)
			s.get(3, "a", &a2)
		}},
		{"a value with another revision", func(s *story) {
			s.put(2, "a", "v2")
			s.get(5, "a", &KV{Key: "a", Value: "v2", Create: 5, Mod: 5, Version: 1})
		}},
		{"two swaps that both won", func(s *story) {
			s.put(2, "a", "v2")
			for rev := range int64(2) {
				s.op(Cmd{Kind: Txn, Cmps: []Cmp{{Key: "a", Target: "mod", Op: "=", Number: 2}}, Then: []Cmd{{Kind: Put, Key: "a", Value: "x"}}},
					&Result{Rev: 3 + rev, Succeeded: true, Results: []Result{{}}})
			}
		}},
		{"a delete of nothing", func(s *story) {
			s.put(2, "a", "v2")
			s.op(Cmd{Kind: Delete, Key: "a"}, &Result{Rev: 2})
		}},
		{"a listing without the key", func(s *story) {
			s.put(2, "a", "v2")
			s.op(Cmd{Kind: Range, Key: "a", End: "c"}, &Result{Rev: 2})
		}},
	} {
		t.Run(b.name, func(t *testing.T) {
			s := newStory()
			b.make(s)
			if l := Linearizable(&s.h, Limits{}); !slices.Contains(l.Illegal, "a") {
				t.Errorf("accepted: %+v", l)
			}
		})
	}
}

// TestPorcupineAllowsTheUnknown: a write of unknown outcome may come late, or never.
func TestPorcupineAllowsTheUnknown(t *testing.T) {
	s := newStory()
	s.put(2, "a", "v2")
	s.fail(Cmd{Kind: Put, Key: "a", Value: "v3"}, Unknown, "timed out")
	s.get(2, "a", &a2)
	s.get(3, "a", &a3)
	s.tell(s.all, set(a2), set(a3, a2))
	s.fail(Cmd{Kind: Put, Key: "a", Value: "never"}, Unknown, "timed out")
	s.get(3, "a", &a3)
	if err := Linearizable(&s.h, Limits{}).Err(); err != nil {
		t.Error(err)
	}
}

// TestPorcupineSaysUnknown: what there was no time for is not called fine.
func TestPorcupineSaysUnknown(t *testing.T) {
	s := good()
	l := Linearizable(&s.h, Limits{Total: time.Nanosecond})
	if len(l.Undecided) == 0 || l.Err() == nil {
		t.Errorf("%+v", l)
	}
}

// TestWindow: a history that is cut in the middle of commands is judged by what lies before.
func TestWindow(t *testing.T) {
	s := newStory()
	s.put(2, "a", "v2")
	s.put(3, "a", "v3").Return = 1000 // behind the window's end, and read within
	s.get(3, "a", &a3)
	s.get(3, "a", &a3)
	s.get(3, "a", nil) // behind it, and wrong
	if err := Linearizable(&s.h, Limits{OpsPerKey: 4}).Err(); err != nil {
		t.Error(err)
	}
	if Linearizable(&s.h, Limits{}).Err() == nil {
		t.Error("the whole was accepted")
	}
}

// TestPorcupineKnowsDeletesOfUnknownOutcome: an answer that changed nothing does not own the
// revision of a delete that nobody has acknowledged.
func TestPorcupineKnowsDeletesOfUnknownOutcome(t *testing.T) {
	s := newStory()
	s.put(2, "a", "v2")
	s.fail(Cmd{Kind: Delete, Key: "a"}, Unknown, "timed out")
	s.tell(s.all, set(a2), gone(3, a2))
	s.op(Cmd{Kind: Delete, Key: "b"}, &Result{Rev: 3})
	s.get(3, "a", nil)
	if err := Linearizable(&s.h, Limits{}).Err(); err != nil {
		t.Error(err)
	}
}
