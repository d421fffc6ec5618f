package patience

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, c := range map[string]*Context{"own": With(t.Context(), time.Second), "parent's": With(early, time.Hour)} {
			if at, ok := c.Deadline(); !ok || time.Until(at) != time.Second {
				t.Errorf("%s: %v, %v", name, at, ok)
			}
			if err := c.Err(); err != nil {
				t.Errorf("%s: %v at once", name, err)
			}
		}
		lazy, eager := With(t.Context(), time.Second), With(t.Context(), time.Second)
		done := eager.Done()
		<-time.After(time.Second)
		synctest.Wait()
		for _, c := range []*Context{lazy, eager} {
			if err := c.Err(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after the deadline: %v", err)
			}
		}
		<-done
		<-lazy.Done()
	})
}

// Without a time of its own a Context ends with its parent, which gives it a deadline if it has one.
func TestNoDeadline(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	var over, waited, lazy, cancelled Context
	for _, c := range []*Context{&over, &waited, &lazy, &cancelled} {
		c.Start(parent, 0)
		if at, ok := c.Deadline(); ok || c.Err() != nil {
			t.Errorf("at first: %v, %v, %v", at, ok, c.Err())
		}
	}
	cancelled.Cancel()
	<-cancelled.Done()
	if over.Cancel(); !errors.Is(over.Err(), context.Canceled) || !errors.Is(cancelled.Err(), context.Canceled) {
		t.Errorf("cancelled: %v, %v", over.Err(), cancelled.Err())
	}
	child, stop := context.WithCancel(&waited)
	defer stop()
	cancel()
	<-child.Done()
	if _, err := Wait(&waited, make(chan int)); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait ends with %v", err)
	}
	if !errors.Is(lazy.Err(), context.Canceled) {
		t.Errorf("the parent's end: %v", lazy.Err())
	}
	limited, stop := context.WithTimeout(t.Context(), time.Hour)
	defer stop()
	var c Context
	c.Start(limited, 0)
	want, _ := limited.Deadline()
	if at, ok := c.Deadline(); !ok || !at.Equal(want) {
		t.Errorf("%v, %v, but the parent ends at %v", at, ok, want)
	}
}

func TestCancel(t *testing.T) {
	type key struct{}
	parent, cancelParent := context.WithCancel(context.WithValue(t.Context(), key{}, 7))
	defer cancelParent()
	a, b, c := With(parent, time.Hour), With(parent, time.Hour), With(parent, time.Hour)
	child, cancel := context.WithCancel(b)
	defer cancel()
	if a.Value(key{}) != 7 || b.Value(key{}) != 7 {
		t.Error("values of the parent are not seen")
	}
	a.Cancel()
	b.Cancel()
	<-child.Done()
	for _, x := range []*Context{a, b} {
		if err := x.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		<-x.Done()
	}
	if c.Err() != nil {
		t.Errorf("another one ended, too: %v", c.Err())
	}
	cancelParent()
	if err := c.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("after the parent's end: %v", err)
	}
	<-c.Done()
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancelParent := context.WithCancel(t.Context())
		defer cancelParent()
		full := make(chan int, 1)
		full <- 5
		if v, err := Wait(With(parent, time.Second), full); v != 5 || err != nil {
			t.Errorf("a value that is there: %d, %v", v, err)
		}
		ended, cancelEnded := context.WithCancel(parent)
		cancelEnded()
		for range 100 { // a select takes either of two that are ready
			full <- 5
			if v, err := Wait(ended, full); v != 5 || err != nil {
				t.Fatalf("a value that is there for who has given up: %d, %v", v, err)
			}
		}
		later := make(chan int, 1)
		go func() {
			<-time.After(500 * time.Millisecond)
			later <- 6
		}()
		if v, err := Wait(With(parent, time.Second), later); v != 6 || err != nil {
			t.Errorf("a value that comes: %d, %v", v, err)
		}
		begin := time.Now()
		if _, err := Wait(With(parent, time.Second), later); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("no value: %v after %v", err, time.Since(begin))
		}
		go func() {
			<-time.After(100 * time.Millisecond)
			cancelParent()
		}()
		begin = time.Now()
		for _, ctx := range []context.Context{With(parent, time.Second), parent} {
			if _, err := Wait(ctx, later); !errors.Is(err, context.Canceled) || time.Since(begin) != 100*time.Millisecond {
				t.Errorf("the parent's end: %v after %v", err, time.Since(begin))
			}
		}
	})
}

func BenchmarkWait(b *testing.B) {
	parent, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	answer := func(ch chan int) { ch <- 1 }
	b.Run("with=Context", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c := With(parent, time.Second)
			ch := make(chan int, 1)
			go answer(ch)
			if _, err := Wait(c, ch); err != nil {
				b.Fatal(err)
			}
			c.Cancel()
		}
	})
	b.Run("with=WithTimeout", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, cancel := context.WithTimeout(parent, time.Second)
			ch := make(chan int, 1)
			stop := context.AfterFunc(c, func() { ch <- 0 })
			go answer(ch)
			<-ch
			stop()
			cancel()
		}
	})
}
