package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"pontoon/shard"
)

// sparse is a store whose file is mostly free: most of what was written is gone.
func sparse(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t, nil)
	long := strings.Repeat("v", 2000)
	for i := range 1000 {
		h.change(Change{Muts: []Mutation{{Key: fmt.Appendf(nil, "k%d", i%10), Value: []byte(long), Rev: Rev{int64(i + 1), 0}}}})
	}
	h.ok(h.Flush())
	h.compactTo(1000)
	h.maintainAll(100, nil)
	h.ok(h.Flush())
	return h
}

func (h *harness) fileBytes() int64 {
	h.t.Helper()
	st, err := os.Stat(h.o.Path)
	h.ok(err)
	return st.Size()
}

// steps goes on until a defragmentation has ended, and calls between before each step.
func (h *harness) steps(d *Defragmentation, between func()) error {
	for {
		if between != nil {
			between()
		}
		if more, err := d.Step(3); err != nil || !more {
			return err
		}
	}
}

func (h *harness) noneLeft() {
	h.t.Helper()
	if _, err := os.Stat(h.o.Path + defragmentedSuffix); !errors.Is(err, os.ErrNotExist) {
		h.t.Fatalf("the file that was being written: %v", err)
	}
}

func TestDefragmentGivesBack(t *testing.T) {
	h := sparse(t)
	before := h.fileBytes()
	d, err := h.Defragment()
	h.ok(err)
	rev := int64(1000)
	h.ok(h.steps(d, func() { // what is applied meanwhile is there, and stays there
		rev++
		h.put("new", rev)
		h.want("new", rev, rev)
		h.want("k9", 1000, 1000)
	}))
	h.noneLeft()
	if after := h.fileBytes(); after > before/5 || after != h.Stats().FileBytes {
		t.Fatalf("%d bytes of %d are left, %d by the store's own account", after, before, h.Stats().FileBytes)
	}
	h.put("behind", rev+1)
	h.ok(h.Flush())
	h.reopen()
	for key, at := range map[string]int64{"k9": 1000, "new": rev, "behind": rev + 1} {
		h.want(key, rev+1, at)
	}
}

// A write of the file that cannot wait ends a defragmentation, and what it has written is in the file.
func TestDefragmentGivesWay(t *testing.T) {
	h := sparse(t)
	d, err := h.Defragment()
	h.ok(err)
	_, err = d.Step(3)
	h.ok(err)
	h.put("new", 1001)
	if h.NeedsFlush() {
		t.Fatal("little asks for a write")
	}
	h.ok(h.Flush())
	if err := h.steps(d, nil); !errors.Is(err, ErrGivenUp) {
		t.Fatalf("it went on: %v", err)
	}
	h.noneLeft()
	h.reopen()
	h.want("new", 1001, 1001)
}

// What is applied beside a defragmentation is bounded, and a store that is cut does not wait for its end.
func TestDefragmentIsNotWaitedForByMuch(t *testing.T) {
	h := newHarness(t, func(o *Options) { o.FlushBytes = 1000 })
	h.put("k", 1)
	d, err := h.Defragment()
	h.ok(err)
	rev := int64(1)
	for ; !h.NeedsFlush(); rev++ {
		if rev > 10_000 {
			t.Fatal("nothing asks for a write")
		}
		h.put("k", rev+1)
	}
	if rev < heldFlushes {
		t.Fatalf("%d writes of a few bytes ask for a write", rev)
	}
	d.GiveUp()
	h.ok(h.Flush())
	_, err = h.Defragment()
	h.ok(err)
	h.change(Change{Cut: &Cut{Span: shard.Span{End: []byte("l")}}})
	if !h.NeedsFlush() {
		t.Fatal("a cut waits")
	}
}

// A file that takes the place of the store's is not written over.
func TestDefragmentOfReplacedFile(t *testing.T) {
	h := sparse(t)
	d, err := h.Defragment()
	h.ok(err)
	h.Replaced()
	if err := h.steps(d, nil); !errors.Is(err, ErrGivenUp) {
		t.Fatalf("it went on: %v", err)
	}
	if _, err := h.Defragment(); !errors.Is(err, ErrGivenUp) {
		t.Fatalf("another one begins: %v", err)
	}
	h.noneLeft()
}

// A crash at any moment leaves one whole file, and the next start removes what is left of the other.
func TestDefragmentCrash(t *testing.T) {
	for at := 1; ; at++ {
		h := sparse(t)
		left := at
		h.Store.opt.hook = func(string) error {
			if left--; left == 0 {
				return errCrash
			}
			return nil
		}
		d, err := h.Defragment()
		h.ok(err)
		err = h.steps(d, nil)
		crashed := errors.Is(err, errCrash)
		if err != nil && !crashed {
			t.Fatal(err)
		}
		h.ok(os.WriteFile(h.o.Path+defragmentedSuffix, []byte("half of a file"), 0o600))
		h.reopen()
		h.noneLeft()
		h.want("k9", 1000, 1000)
		h.want("k0", 1000, 991)
		if !crashed {
			return
		}
	}
}

// A file that was opened a moment ago is verified before it is copied: damage is told, and stays where it is.
func TestDefragmentOfDamagedFile(t *testing.T) {
	o := scrubStore(t)
	whole, err := os.ReadFile(o.Path)
	must(t, err)
	at := bytes.Index(whole, scrubValue(scrubKeys/2, 0))
	whole[at] ^= 1
	must(t, os.WriteFile(o.Path, whole, 0o600))
	s, err := Open(o)
	must(t, err)
	defer s.Close() // whose error is that of the damage
	d, err := s.Maintenance().Defragment()
	if err != nil {
		t.Fatal(err)
	}
	for more := true; more && err == nil; {
		more, err = d.Step(1000)
	}
	if !errors.Is(err, ErrDamaged) {
		t.Fatalf("the damage was copied: %v", err)
	}
	if _, err := os.Stat(o.Path + defragmentedSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the file that was being written: %v", err)
	}
}
