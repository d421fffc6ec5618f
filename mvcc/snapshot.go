package mvcc

import (
	"encoding/binary"
	"fmt"
	"io"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Layout: docs/format/mvcc.md.

const (
	snapshotMagic   = "PONTMVCC"
	snapshotVersion = 1
	frameHeadLen    = 5
	frameBytesMax   = 256 << 20 // a longer frame is not believed
)

const (
	frameHeader byte = iota + 1
	frameState
	frameVersions
	frameEnd
)

// snapshotHeader is a snapshot's first frame.
type snapshotHeader struct {
	id      shard.RangeID
	pos     Position
	last    int64
	compact int64
	settle  int64
}

func (h snapshotHeader) encode() []byte {
	var b []byte
	for _, x := range []uint64{uint64(h.id), h.pos.Index, h.pos.Term, uint64(h.last),
		uint64(h.compact), uint64(h.settle)} {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

func decodeSnapshotHeader(b []byte) (snapshotHeader, error) {
	if len(b) != 6*8 {
		return snapshotHeader{}, errRecordShort
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	h := snapshotHeader{
		id: shard.RangeID(field(0)), pos: Position{field(1), field(2)},
		last: int64(field(3)), compact: int64(field(4)), settle: int64(field(5)),
	}
	if h.last < 0 || h.compact < 0 || h.settle < 0 || h.settle > max(h.last, h.compact) {
		return snapshotHeader{}, errRecordField
	}
	return h, nil
}

// WriteSnapshot writes the store at its present position to w: the range state, and in key
// order all versions of what is served that are not compacted. It may take long: writes and reads go on beside
// it, and only physical deletion waits for it.
func (s *Store) WriteSnapshot(w io.Writer) (Position, error) {
	p := s.mem.newPin()
	defer s.mem.unpin(p)
	out := frameWriter{w: w, bytesMax: s.opt.steps.frame}
	h := snapshotHeader{s.opt.RangeID, p.pos, p.last, p.compact, p.settle}
	walk := versionWalk{s: s, p: p, span: p.span}
	if mutate.On(mutate.CutSnapshot) {
		walk.span = shard.All
	}
	if err := out.snapshot(h, walk); err != nil {
		return Position{}, fmt.Errorf("mvcc: snapshot of %v: %w", s.opt.RangeID, err)
	}
	return p.pos, nil
}

// frameWriter gathers a frame and writes it with its checksum.
type frameWriter struct {
	w        io.Writer
	bytesMax int    // a frame is closed when it has so many
	buf      []byte // the open frame, head included; empty when none is open
}

// snapshot writes the whole stream of a pinned moment.
func (f *frameWriter) snapshot(h snapshotHeader, w versionWalk) error {
	start := binary.BigEndian.AppendUint32([]byte(snapshotMagic), snapshotVersion)
	if _, err := f.w.Write(start); err != nil {
		return err
	}
	if err := f.begin(frameHeader); err != nil {
		return err
	}
	f.buf = append(f.buf, h.encode()...)
	states, err := f.states(w.p)
	if err != nil {
		return err
	}
	versions, err := f.versions(w)
	if err != nil {
		return err
	}
	if err := f.begin(frameEnd); err != nil {
		return err
	}
	f.buf = binary.BigEndian.AppendUint64(f.buf, versions)
	f.buf = binary.BigEndian.AppendUint64(f.buf, states)
	return f.end()
}

// begin ends the open frame and opens one of another kind.
func (f *frameWriter) begin(kind byte) error {
	if err := f.end(); err != nil {
		return err
	}
	f.buf = append(f.buf, kind, 0, 0, 0, 0)
	return nil
}

func (f *frameWriter) end() error {
	if len(f.buf) == 0 {
		return nil
	}
	binary.BigEndian.PutUint32(f.buf[1:], uint32(len(f.buf)-frameHeadLen))
	f.buf = binary.LittleEndian.AppendUint32(f.buf, durable.CRC32C(0, f.buf))
	_, err := f.w.Write(f.buf)
	f.buf = f.buf[:0]
	return err
}

// rollover begins another frame of the kind when the open one is long enough.
func (f *frameWriter) rollover(kind byte) error {
	if len(f.buf) < f.bytesMax {
		return nil
	}
	return f.begin(kind)
}

func (f *frameWriter) states(p *pin) (n uint64, err error) {
	if err := f.begin(frameState); err != nil {
		return 0, err
	}
	p.state.Ascend(func(it stateItem) bool {
		f.bytes([]byte(it.key))
		f.bytes(it.value)
		n++
		err = f.rollover(frameState)
		return err == nil
	})
	return n, err
}

func (f *frameWriter) versions(w versionWalk) (n uint64, err error) {
	if err := f.begin(frameVersions); err != nil {
		return 0, err
	}
	keep := survivors{compact: w.p.compact}
	var body []byte
	err = w.each(func(v *version) error {
		// A delete at the compaction revision is no state any more, but still history.
		if !keep.keeps(v) && !(v.del && v.kv.ModRevision == w.p.compact) {
			return nil
		}
		if mutate.On(mutate.SnapshotShort) && v.kv.ModRevision == w.p.last {
			return nil
		}
		f.bytes(v.kv.Key)
		f.buf = binary.AppendUvarint(f.buf, uint64(v.kv.ModRevision))
		f.buf = binary.AppendUvarint(f.buf, uint64(v.sub))
		body = appendBody(body[:0], v)
		f.bytes(body)
		n++
		return f.rollover(frameVersions)
	})
	return n, err
}

func (f *frameWriter) bytes(b []byte) {
	f.buf = binary.AppendUvarint(f.buf, uint64(len(b)))
	f.buf = append(f.buf, b...)
}
