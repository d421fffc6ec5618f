package mvcc

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// sized is a store with keys of given sizes.
type sized struct {
	*Store
	t     testing.TB
	index uint64
	rev   int64
}

func newSized(t testing.TB) *sized {
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "db"), RangeID: 7, NoSync: true, SettleBytes: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &sized{Store: s, t: t, index: 10, rev: 1}
}

func sizedKey(i int) []byte { return fmt.Appendf(nil, "key/%06d", i) }

// put writes keys from i on, of so many bytes.
func (s *sized) put(i int, sizes ...int) {
	s.t.Helper()
	for k, size := range sizes {
		s.index++
		s.rev++
		c := Change{Pos: Position{s.index, 6}, Muts: []Mutation{{Key: sizedKey(i + k), Value: make([]byte, size), Rev: Rev{s.rev, 0}}}}
		if _, err := s.Apply(c); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *sized) settle() {
	s.t.Helper()
	if err := s.SettleNow(); err != nil {
		s.t.Fatal(err)
	}
}

// share is how much of all bytes lies before a key.
func (s *sized) share(key []byte) float64 {
	s.t.Helper()
	left, all := 0.0, 0.0
	err := s.Scan(ScanOptions{Span: s.Span(), Rev: math.MaxInt64, InPlace: true}, func(kv *shard.KeyValue) bool {
		n := float64(len(kv.Key) + len(kv.Value))
		if all += n; bytes.Compare(kv.Key, key) < 0 {
			left += n
		}
		return true
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return left / all
}

// TestSplitMiddle: whatever sizes the keys have, and wherever they lie, between 35 and 65 % are before the middle.
func TestSplitMiddle(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(max(*seedFlag, 1)), 11))
	fill := func(n int, size func(i int) int) []int {
		out := make([]int, n)
		for i := range out {
			out[i] = size(i)
		}
		return out
	}
	for name, sizes := range map[string][]int{
		"alike":            fill(6000, func(int) int { return 200 }),
		"pages":            fill(1500, func(int) int { return 4096 }),
		"few":              fill(40, func(int) int { return 30_000 }),
		"drawn":            fill(4000, func(int) int { return 1 << r.IntN(13) }),
		"growing":          fill(3000, func(i int) int { return i }),
		"large in front":   fill(6000, func(i int) int { return 100 + 20_000*(max(300-i, 0)/max(300-i, 1)) }),
		"large at the end": fill(6000, func(i int) int { return 100 + 40_000*(max(i-5900, 0)/max(i-5900, 1)) }),
		"some are huge":    fill(3000, func(i int) int { return 100 + 200_000*(i%301/300) }),
	} {
		for _, settled := range []float64{0, 0.3, 1} { // the share of the keys that is in the base
			t.Run(fmt.Sprintf("%s/settled=%v", name, settled), func(t *testing.T) {
				s := newSized(t)
				n := int(settled * float64(len(sizes)))
				s.put(0, sizes[:n]...)
				s.settle()
				s.put(n, sizes[n:]...)
				s.wantMiddle()
			})
		}
	}
}

func (s *sized) wantMiddle() {
	s.t.Helper()
	key, err := s.Middle()
	if err != nil {
		s.t.Fatal(err)
	}
	if share := s.share(key); share < 0.35 || share > 0.65 || !s.Span().Contains(key) {
		s.t.Errorf("%.0f %% of the bytes lie before %q", share*100, key)
	}
}

// TestSplitMiddleOfWhatIsServed: what was cut off does not count, be it trimmed or not.
func TestSplitMiddleOfWhatIsServed(t *testing.T) {
	s := newSized(t)
	for i := range 3000 {
		s.put(i, 500)
	}
	s.settle()
	s.index++
	cut := &Cut{Span: shard.Span{End: sizedKey(1000)}, Keys: 2000}
	if _, err := s.Apply(Change{Pos: Position{s.index, 6}, Cut: cut}); err != nil {
		t.Fatal(err)
	}
	s.wantMiddle()
	s.settle()
	for more := true; more; {
		var err error
		if more, err = s.Maintenance().Maintain(100); err != nil {
			t.Fatal(err)
		}
	}
	if s.Maintenance().TrimPending() {
		t.Error("it is not trimmed")
	}
	s.wantMiddle()
}

// TestSplitMiddleIsNone: where one key has nearly everything, or there is nothing, no key parts it.
func TestSplitMiddleIsNone(t *testing.T) {
	for name, write := range map[string]func(s *sized){
		"empty":              func(*sized) {},
		"one key":            func(s *sized) { s.put(0, 1<<20) },
		"one of many":        func(s *sized) { s.put(0, 10, 10, 10, 1<<20, 10, 10) },
		"one that is hot":    func(s *sized) { s.put(0, 10, 10); s.hot(3, 3000); s.put(4, 10, 10) },
		"the first is large": func(s *sized) { s.put(0, 1<<20, 100, 100, 100) },
	} {
		for _, settled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/settled=%v", name, settled), func(t *testing.T) {
				s := newSized(t)
				write(s)
				if settled {
					s.settle()
				}
				if key, err := s.Middle(); err != nil || key != nil {
					t.Errorf("%q, %v", key, err)
				}
			})
		}
	}
}

// TestSplitMiddleOfLongKeys: the middle is no longer than a border may be, and there is none where that does not part the keys.
func TestSplitMiddleOfLongKeys(t *testing.T) {
	for _, c := range []struct {
		alike int
		some  bool
	}{{100, true}, {shard.BorderBytesMax - 4, true}, {shard.BorderBytesMax, false}} {
		s := newSized(t)
		for i := range 50 {
			s.index++
			s.rev++
			key := append(bytes.Repeat([]byte("p"), c.alike), fmt.Appendf(nil, "%02d", i)...)
			key = append(key, bytes.Repeat([]byte("x"), shard.BorderBytesMax)...)
			if _, err := s.Apply(Change{Pos: Position{s.index, 6}, Muts: []Mutation{{Key: key, Rev: Rev{s.rev, 0}}}}); err != nil {
				t.Fatal(err)
			}
		}
		switch key, err := s.Middle(); {
		case err != nil || len(key) > shard.BorderBytesMax || (key != nil) != c.some:
			t.Errorf("%d bytes alike: a middle of %d bytes, %v", c.alike, len(key), err)
		case c.some:
			s.wantMiddle()
		}
	}
}

// hot writes a key many times.
func (s *sized) hot(i, times int) {
	for range times {
		s.put(i, 1000)
	}
}

// TestSplitMiddleReadsLittle: the heads of some leaves and some branch pages are all that is read.
func TestSplitMiddleReadsLittle(t *testing.T) {
	s := newSized(t)
	for i := range 8000 {
		s.put(i, 3000)
	}
	s.settle()
	s.wantMiddle()
	in, err := os.Open(s.opt.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	counted := &countingReader{in: in}
	if err := s.file.view(func(tx *bolt.Tx) error {
		w := treeWalk{in: counted, pageSize: tx.DB().Info().PageSize}
		leaves, err := w.leaves(uint64(tx.Bucket(bucketBase).Root()))
		if len(leaves) == 0 || len(leaves) > middleLeaves {
			t.Errorf("%d leaves", len(leaves))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if counted.bytes > 2<<20 || counted.reads > 2*middleLeaves+4*middleBranches {
		t.Errorf("%d reads, %d bytes", counted.reads, counted.bytes)
	}
}

type countingReader struct {
	in           io.ReaderAt
	reads, bytes int
}

// ReadAt implements io.ReaderAt.
func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	c.bytes += len(p)
	return c.in.ReadAt(p, off)
}
