package extsort

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

const (
	// windowBytes is how far back the compression looks: with fanIn runs read at once it is what they take.
	windowBytes = 128 << 10
	bufferBytes = 64 << 10
)

// runWriter writes a run: of each record the lengths, key and value. The compression's checksums tell damage.
type runWriter struct {
	path string
	f    *os.File
	z    *zstd.Encoder
	buf  *bufio.Writer
	head []byte
}

func createRun(path string) (*runWriter, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("extsort: %w", err)
	}
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowBytes), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("extsort: %w", err), f.Close(), os.Remove(path))
	}
	return &runWriter{path: path, f: f, z: z, buf: bufio.NewWriterSize(z, bufferBytes)}, nil
}

func (w *runWriter) write(key, value []byte) error {
	w.head = binary.AppendUvarint(w.head[:0], uint64(len(key)))
	w.head = binary.AppendUvarint(w.head, uint64(len(value)))
	for _, b := range [][]byte{w.head, key, value} {
		if _, err := w.buf.Write(b); err != nil {
			return fmt.Errorf("extsort: %w", err)
		}
	}
	return nil
}

// close ends the file and tells its size.
func (w *runWriter) close() (int64, error) {
	err := errors.Join(w.buf.Flush(), w.z.Close())
	var size int64
	if err == nil {
		size, err = w.f.Seek(0, io.SeekCurrent)
	}
	if err = errors.Join(err, w.f.Close()); err != nil {
		return 0, errors.Join(fmt.Errorf("extsort: %w", err), os.Remove(w.path))
	}
	return size, nil
}

// abandon ends and removes what will not be finished.
func (w *runWriter) abandon() error {
	_ = w.z.Close() // what it has left to write is of no use
	return errors.Join(w.f.Close(), os.Remove(w.path))
}

// runReader reads a run, one record at a time.
type runReader struct {
	f          *os.File
	z          *zstd.Decoder
	buf        *bufio.Reader
	data       []byte // of the present record
	key, value []byte
}

func openRun(path string) (*runReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("extsort: %w", err)
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowBytes))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("extsort: %w", err), f.Close())
	}
	return &runReader{f: f, z: z, buf: bufio.NewReaderSize(z, bufferBytes)}, nil
}

// next reads the next record; io.EOF: there is none.
func (r *runReader) next() error {
	klen, err := binary.ReadUvarint(r.buf)
	if err == io.EOF {
		return io.EOF
	}
	vlen, verr := binary.ReadUvarint(r.buf)
	if err = errors.Join(err, verr); err != nil {
		return fmt.Errorf("extsort: %w", err)
	}
	if klen > RecordBytesMax || vlen > RecordBytesMax-klen {
		return errors.New("extsort: a record that is too long")
	}
	n := int(klen + vlen)
	if cap(r.data) < n {
		r.data = make([]byte, max(n, 2*cap(r.data)))
	}
	r.data = r.data[:n]
	if _, err := io.ReadFull(r.buf, r.data); err != nil {
		return fmt.Errorf("extsort: %w", err)
	}
	r.key, r.value = r.data[:klen:klen], r.data[klen:]
	return nil
}

func (r *runReader) close() error {
	r.z.Close()
	return r.f.Close()
}

// Merge yields the records of a sorter in order. Close it.
type Merge struct {
	runs    mergeHeap
	err     error
	started bool
}

func openMerge(runs []*run) (*Merge, error) {
	m := &Merge{}
	for _, r := range runs {
		reader, err := openRun(r.path)
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		m.runs = append(m.runs, reader)
	}
	for i := 0; i < len(m.runs); {
		err := m.runs[i].next()
		if err == io.EOF { // an empty run
			err = m.runs[i].close()
			m.runs = append(m.runs[:i], m.runs[i+1:]...)
		} else {
			i++
		}
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	heap.Init(&m.runs)
	return m, nil
}

// Next goes on to the next record; false: there is none, or Err says why.
func (m *Merge) Next() bool {
	if m.err != nil || len(m.runs) == 0 {
		return false
	}
	if !m.started {
		m.started = true
		return true
	}
	top := m.runs[0]
	switch err := top.next(); err {
	case nil:
		heap.Fix(&m.runs, 0)
	case io.EOF:
		heap.Pop(&m.runs)
		m.err = top.close()
	default:
		m.err = err
	}
	return m.err == nil && len(m.runs) > 0
}

// Key is that of the present record. It is valid until Next, as Value is.
func (m *Merge) Key() []byte { return m.runs[0].key }

// Value is that of the present record.
func (m *Merge) Value() []byte { return m.runs[0].value }

// Err is why Next was false, nil at the end of all records.
func (m *Merge) Err() error { return m.err }

// Close ends the reading.
func (m *Merge) Close() error {
	var errs []error
	for _, r := range m.runs {
		errs = append(errs, r.close())
	}
	m.runs = nil
	return errors.Join(errs...)
}

type mergeHeap []*runReader

func (h mergeHeap) Len() int           { return len(h) }
func (h mergeHeap) Less(i, j int) bool { return bytes.Compare(h[i].key, h[j].key) < 0 }
func (h mergeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is heap.Interface's; nothing is pushed.
func (h *mergeHeap) Push(x any) { *h = append(*h, x.(*runReader)) }

// Pop is heap.Interface's.
func (h *mergeHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
