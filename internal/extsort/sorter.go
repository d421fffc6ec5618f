package extsort

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

const (
	// chunkBytes is what memory for records is taken in.
	chunkBytes = 1 << 20
	// recordBytes is what a record takes in memory beside its bytes.
	recordBytes = 24
	// fanIn is how many runs are merged into one, and how many of one size there are at most: each that is read takes about half a MiB.
	fanIn = 32
	// RecordBytesMax bounds key and value of a record together: a length that is read back beyond it is not believed.
	RecordBytesMax = 256 << 20
)

// Sorter takes records in any order. Close it.
type Sorter struct {
	dir    string
	limit  int // bytes in memory, from which on a run is written
	prefix string

	chunks  [][]byte
	records []record
	held    int

	levels  [][]*run // runs, each level's made of fanIn of the one below
	files   int
	bytes   int64
	count   int64
	written int64
}

// record is where one lies in memory, and how its key begins.
type record struct {
	prefix       uint64
	chunk        uint32
	off          uint32
	klen, length uint32
}

// run is a sorted file.
type run struct{ path string }

// New returns a sorter that holds so many bytes in memory and writes files into dir, which is there, with names that begin with prefix.
func New(dir, prefix string, memory int) *Sorter {
	return &Sorter{dir: dir, prefix: prefix, limit: max(memory, chunkBytes)}
}

// Add takes a record; the bytes are the caller's.
func (s *Sorter) Add(key, value []byte) error {
	n := len(key) + len(value)
	if n > RecordBytesMax {
		return fmt.Errorf("extsort: a record of %d bytes", n)
	}
	if s.held > 0 && s.held+n+recordBytes > s.limit {
		if err := s.spill(); err != nil {
			return err
		}
	}
	last := len(s.chunks) - 1
	if last < 0 || cap(s.chunks[last])-len(s.chunks[last]) < n {
		s.chunks = append(s.chunks, make([]byte, 0, max(chunkBytes, n)))
		last++
	}
	c := s.chunks[last]
	s.records = append(s.records, record{prefixOf(key), uint32(last), uint32(len(c)), uint32(len(key)), uint32(n)})
	s.chunks[last] = append(append(c, key...), value...)
	s.held += n + recordBytes
	s.bytes += int64(n)
	s.count++
	return nil
}

// Bytes is how many bytes of keys and values were added, and Count how many records.
func (s *Sorter) Bytes() int64 { return s.bytes }

// Count is how many records were added.
func (s *Sorter) Count() int64 { return s.count }

func prefixOf(key []byte) uint64 {
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

func (s *Sorter) at(r *record) (key, value []byte) {
	b := s.chunks[r.chunk][r.off : r.off+r.length]
	return b[:r.klen:r.klen], b[r.klen:]
}

// spill writes what is in memory as a run.
func (s *Sorter) spill() error {
	slices.SortFunc(s.records, func(a, b record) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		ka, _ := s.at(&a)
		kb, _ := s.at(&b)
		return bytes.Compare(ka, kb)
	})
	w, err := s.create()
	if err != nil {
		return err
	}
	for i := range s.records {
		if err := w.write(s.at(&s.records[i])); err != nil {
			return errors.Join(err, w.abandon())
		}
	}
	// One chunk is kept: the records to come need it.
	s.records, s.held = s.records[:0], 0
	clear(s.chunks)
	s.chunks = s.chunks[:0]
	return s.finish(w, 0)
}

func (s *Sorter) create() (*runWriter, error) {
	s.files++
	return createRun(filepath.Join(s.dir, fmt.Sprintf("%s-%06d.run", s.prefix, s.files)))
}

// finish takes a run that is written, and merges those of its level when they are many.
func (s *Sorter) finish(w *runWriter, level int) error {
	n, err := w.close()
	if err != nil {
		return err
	}
	s.written += n
	for len(s.levels) <= level {
		s.levels = append(s.levels, nil)
	}
	s.levels[level] = append(s.levels[level], &run{w.path})
	if len(s.levels[level]) < fanIn {
		return nil
	}
	return s.raise(level)
}

// raise merges the runs of a level into one of the next.
func (s *Sorter) raise(level int) error {
	runs := s.levels[level]
	m, err := openMerge(runs)
	if err != nil {
		return err
	}
	w, err := s.create()
	if err != nil {
		return errors.Join(err, m.Close())
	}
	for m.Next() {
		if err := w.write(m.Key(), m.Value()); err != nil {
			return errors.Join(err, w.abandon(), m.Close())
		}
	}
	if err := errors.Join(m.Err(), m.Close()); err != nil {
		return errors.Join(err, w.abandon())
	}
	for _, r := range runs {
		if err := os.Remove(r.path); err != nil {
			return errors.Join(fmt.Errorf("extsort: %w", err), w.abandon())
		}
	}
	s.levels[level] = nil
	return s.finish(w, level+1)
}

// Merge ends the adding and reads all records in order. It may be called again, for another pass, once the last one was closed.
func (s *Sorter) Merge() (*Merge, error) {
	if len(s.records) > 0 {
		if err := s.spill(); err != nil {
			return nil, err
		}
	}
	return openMerge(slices.Concat(s.levels...))
}

// Close removes the sorter's files.
func (s *Sorter) Close() error {
	var errs []error
	for _, r := range slices.Concat(s.levels...) {
		if err := os.Remove(r.path); err != nil {
			errs = append(errs, fmt.Errorf("extsort: %w", err))
		}
	}
	s.levels, s.chunks, s.records, s.held = nil, nil, nil, 0
	return errors.Join(errs...)
}
