package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"pontoon/internal/durable"
	"pontoon/shard"
)

var (
	errFrameOrder = errors.New("frames out of order")
	errFrameKind  = errors.New("unknown frame")
	errFrameSize  = errors.New("frame too long")
	errCounts     = errors.New("counts do not match")
)

// snapshotSink takes what a snapshot holds, in the order of the stream. The bytes are valid
// during the call only.
type snapshotSink struct {
	header  func(h snapshotHeader) error
	state   func(key, value []byte) error
	version func(v *version) error
}

// readSnapshot reads one whole snapshot and nothing behind it. What it hands to sink has passed
// its frame's checksum; that the snapshot was whole is known only when it returns nil. Errors of
// the stream's content wrap shard.ErrCorrupt, errors of r and sink do not.
func readSnapshot(r io.Reader, sink snapshotSink) error {
	f := frameReader{r: r, sink: sink}
	if err := f.magic(); err != nil {
		return err
	}
	for !f.ended {
		kind, payload, err := f.frame()
		if err != nil {
			return err
		}
		if err := f.take(kind, payload); err != nil {
			return err
		}
	}
	return nil
}

type frameReader struct {
	r        io.Reader
	sink     snapshotSink
	buf      bytes.Buffer
	stage    byte // kind of the last frame, 0 before the first
	ended    bool
	states   uint64
	versions uint64
	last     int64  // from the header
	key      []byte // of the last version
	rev      Rev
}

func badSnapshot(err error) error {
	return fmt.Errorf("mvcc: snapshot: %w: %w", shard.ErrCorrupt, err)
}

// readFull reads n bytes without believing n: memory grows with what arrives.
func (f *frameReader) readFull(n int64) ([]byte, error) {
	f.buf.Reset()
	if _, err := io.CopyN(&f.buf, f.r, n); errors.Is(err, io.EOF) {
		return nil, badSnapshot(io.ErrUnexpectedEOF)
	} else if err != nil {
		return nil, fmt.Errorf("mvcc: snapshot: %w", err)
	}
	return f.buf.Bytes(), nil
}

func (f *frameReader) magic() error {
	b, err := f.readFull(int64(len(snapshotMagic) + 4))
	if err != nil {
		return err
	}
	if string(b[:len(snapshotMagic)]) != snapshotMagic {
		return badSnapshot(errors.New("not a snapshot"))
	}
	if v := binary.BigEndian.Uint32(b[len(snapshotMagic):]); v != snapshotVersion {
		return fmt.Errorf("mvcc: snapshot: %w: it has %d, this program reads %d", errOldFormat, v, snapshotVersion)
	}
	return nil
}

func (f *frameReader) frame() (kind byte, payload []byte, err error) {
	b, err := f.readFull(frameHeadLen)
	if err != nil {
		return 0, nil, err
	}
	var head [frameHeadLen]byte
	copy(head[:], b)
	n := binary.BigEndian.Uint32(head[1:])
	if n > frameBytesMax {
		return 0, nil, badSnapshot(errFrameSize)
	}
	b, err = f.readFull(int64(n) + crcLen)
	if err != nil {
		return 0, nil, err
	}
	payload = b[:n]
	c := durable.CRC32C(durable.CRC32C(0, head[:]), payload)
	if c != binary.LittleEndian.Uint32(b[n:]) {
		return 0, nil, badSnapshot(errChecksum)
	}
	return head[0], payload, nil
}

// take hands one frame to the sink. Kinds come in ascending order; the header comes first.
func (f *frameReader) take(kind byte, b []byte) error {
	if kind < f.stage || (kind == frameHeader) != (f.stage == 0) {
		return badSnapshot(errFrameOrder)
	}
	f.stage = kind
	switch kind {
	case frameHeader:
		h, err := decodeSnapshotHeader(b)
		if err != nil {
			return badSnapshot(err)
		}
		f.last = h.last
		return f.sink.header(h)
	case frameState:
		return f.takeStates(b)
	case frameVersions:
		return f.takeVersions(b)
	case frameEnd:
		f.ended = true
		if len(b) != 16 || binary.BigEndian.Uint64(b) != f.versions || binary.BigEndian.Uint64(b[8:]) != f.states {
			return badSnapshot(errCounts)
		}
		return nil
	default:
		return badSnapshot(errFrameKind)
	}
}

func (f *frameReader) takeStates(b []byte) error {
	for len(b) > 0 {
		key, rest, err := cutBytes(b)
		if err != nil {
			return badSnapshot(err)
		}
		value, rest, err := cutBytes(rest)
		if err != nil {
			return badSnapshot(err)
		}
		if b = rest; len(key) == 0 || len(key) > MaxKeyBytes {
			return badSnapshot(errRecordField)
		}
		f.states++
		if err := f.sink.state(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (f *frameReader) takeVersions(b []byte) error {
	for len(b) > 0 {
		v, rest, err := cutVersion(b)
		if err != nil {
			return badSnapshot(err)
		}
		b = rest
		if err := f.checkOrder(&v); err != nil {
			return badSnapshot(err)
		}
		f.versions++
		if err := f.sink.version(&v); err != nil {
			return err
		}
	}
	return nil
}

func (f *frameReader) checkOrder(v *version) error {
	if len(v.kv.Key) > MaxKeyBytes || v.kv.ModRevision > f.last {
		return errRecordField
	}
	if f.versions > 0 {
		c := bytes.Compare(v.kv.Key, f.key)
		if c < 0 || c == 0 && !v.rev().Less(f.rev) {
			return errFrameOrder
		}
	}
	f.key, f.rev = append(f.key[:0], v.kv.Key...), v.rev()
	return nil
}

// cutBytes cuts a counted byte string off b.
func cutBytes(b []byte) (field, rest []byte, err error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, errRecordShort
	}
	end := w + int(n)
	return b[w:end:end], b[end:], nil
}

// cutVersion cuts one version off a frame. It shares b's memory.
func cutVersion(b []byte) (v version, rest []byte, err error) {
	if v.kv.Key, b, err = cutBytes(b); err != nil {
		return version{}, nil, err
	}
	var r [2]uint64
	for i := range r {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return version{}, nil, errRecordShort
		}
		r[i], b = x, b[n:]
	}
	v.kv.ModRevision, v.sub = int64(r[0]), int64(r[1])
	if v.kv.ModRevision <= 0 || v.sub < 0 {
		return version{}, nil, errRevRange
	}
	body, rest, err := cutBytes(b)
	if err != nil {
		return version{}, nil, err
	}
	err = decodeBody(body, &v)
	return v, rest, err
}
