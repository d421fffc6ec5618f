package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"pontoon/internal/durable"
	"pontoon/shard"
)

const (
	crcLen        = 4
	flagTombstone = 1 << 0
	flagsKnown    = flagTombstone

	// recordHeadMax is the most that a record has beside key and value: checksum, length of the key, flags,
	// and three numbers.
	recordHeadMax = crcLen + binary.MaxVarintLen32 + 1 + 3*binary.MaxVarintLen64
)

var (
	errChecksum    = errors.New("checksum does not match")
	errRecordShort = errors.New("record ends early")
	errRecordField = errors.New("field out of range")
)

// version is one version of a key, as the index, the buffer and the readers hold it. It is
// immutable once it can be seen. A tombstone has Key and ModRevision only.
type version struct {
	kv  shard.KeyValue
	sub int64
	del bool
}

func (v *version) rev() Rev { return Rev{v.kv.ModRevision, v.sub} }

// bytes is what a version costs in memory, roughly.
func (v *version) bytes() int { return versionOverhead + len(v.kv.Value) }

// describe makes e say what the version changed; prev may be nil or a tombstone.
func (v *version) describe(e *shard.Event, prev *version) {
	e.KV, e.Delete, e.Sub = v.kv, v.del, v.sub
	if prev != nil && !prev.del {
		e.Prev = &prev.kv
	}
}

// appendBody appends what a record says beside key and revision.
func appendBody(dst []byte, v *version) []byte {
	if v.del {
		return append(dst, flagTombstone)
	}
	dst = append(dst, 0)
	dst = binary.AppendUvarint(dst, uint64(v.kv.ModRevision-v.kv.CreateRevision))
	dst = binary.AppendUvarint(dst, uint64(v.kv.Version))
	dst = binary.AppendUvarint(dst, uint64(v.kv.Lease))
	return append(dst, v.kv.Value...)
}

// decodeBody reads what appendBody wrote; v's key and revision are set already. The value
// shares b's memory.
func decodeBody(b []byte, v *version) error {
	if len(b) == 0 {
		return errRecordShort
	}
	flags := b[0]
	if flags&^byte(flagsKnown) != 0 {
		return fmt.Errorf("unknown flags %#x", flags)
	}
	b = b[1:]
	if v.del = flags&flagTombstone != 0; v.del {
		if len(b) != 0 {
			return errRecordField
		}
		return nil
	}
	var fields [3]uint64
	for i := range fields {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return errRecordShort
		}
		fields[i], b = x, b[n:]
	}
	v.kv.CreateRevision = v.kv.ModRevision - int64(fields[0])
	v.kv.Version = int64(fields[1])
	v.kv.Lease = int64(fields[2])
	v.kv.Value = b[:len(b):len(b)]
	if fields[0] >= uint64(v.kv.ModRevision) || v.kv.Version <= 0 {
		return errRecordField
	}
	return nil
}

// sealed puts the checksum over the bbolt key and everything after the first crcLen bytes of
// rec in front of it.
func sealed(boltKey, rec []byte) []byte {
	c := durable.CRC32C(durable.CRC32C(0, boltKey), rec[crcLen:])
	binary.LittleEndian.PutUint32(rec, c)
	return rec
}

// unseal checks the checksum and returns what follows it.
func unseal(boltKey, rec []byte) ([]byte, error) {
	if len(rec) < crcLen {
		return nil, errRecordShort
	}
	c := durable.CRC32C(durable.CRC32C(0, boltKey), rec[crcLen:])
	if c != binary.LittleEndian.Uint32(rec) {
		return nil, errChecksum
	}
	return rec[crcLen:], nil
}

// leaseRecord is the value in the lease index: the checksum of its key.
func leaseRecord(boltKey []byte) []byte { return sealed(boltKey, make([]byte, crcLen)) }

func checkLeaseRecord(boltKey, rec []byte) error {
	b, err := unseal(boltKey, rec)
	if err == nil && len(b) != 0 {
		err = errRecordField
	}
	return err
}

// appendBaseRecord appends the base's value of v.
func appendBaseRecord(dst, boltKey []byte, v *version) []byte {
	n := len(dst)
	dst = appendBody(append(dst, 0, 0, 0, 0), v)
	sealed(boltKey, dst[n:])
	return dst
}

// decodeBaseRecord reads a base entry whose key was split already. Key and value share memory
// with the arguments.
func decodeBaseRecord(boltKey, esc []byte, r Rev, rec []byte) (version, error) {
	body, err := unseal(boltKey, rec)
	if err != nil {
		return version{}, err
	}
	key, err := unescape(esc)
	if err != nil {
		return version{}, err
	}
	v := version{kv: shard.KeyValue{Key: key, ModRevision: r.Main}, sub: r.Sub}
	err = decodeBody(body, &v)
	return v, err
}

// decodeBaseEntry reads a base entry whose key has not been split yet. Key and value share memory with
// what was given.
func decodeBaseEntry(boltKey, rec []byte) (version, error) {
	esc, r, err := splitBaseKey(boltKey)
	if err != nil {
		return version{}, err
	}
	return decodeBaseRecord(boltKey, esc, r, rec)
}

// isTombstone looks at the flags only: enough to count, without touching a large value.
func isTombstone(rec []byte) (bool, error) {
	if len(rec) <= crcLen {
		return false, errRecordShort
	}
	return rec[crcLen]&flagTombstone != 0, nil
}

// appendLogRecord appends the log's value of v.
func appendLogRecord(dst, boltKey []byte, v *version) []byte {
	n := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(len(v.kv.Key)))
	dst = append(dst, v.kv.Key...)
	dst = appendBody(dst, v)
	sealed(boltKey, dst[n:])
	return dst
}

// logRecordKey returns the user key of an unsealed log record, and what follows it.
func logRecordKey(b []byte) (key, body []byte, err error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, errRecordShort
	}
	end := w + int(n)
	return b[w:end:end], b[end:], nil
}

// decodeLogRecord reads a log entry. Key and value share rec's memory.
func decodeLogRecord(boltKey, rec []byte) (version, error) {
	r, err := decodeLogKey(boltKey)
	if err != nil {
		return version{}, err
	}
	b, err := unseal(boltKey, rec)
	if err != nil {
		return version{}, err
	}
	key, body, err := logRecordKey(b)
	if err != nil {
		return version{}, err
	}
	v := version{kv: shard.KeyValue{Key: key, ModRevision: r.Main}, sub: r.Sub}
	err = decodeBody(body, &v)
	return v, err
}

const (
	copiesChunk    = 256           // versions
	copiesValueMax = slabChunk / 8 // bytes of a value that shares memory; a larger one would waste too much of it
)

// copies are versions whose values were copied out of memory that is about to go away, in chunks: as long
// as one of a chunk is held, all of it stays. Their keys are still where they were.
type copies struct {
	n      int
	chunks [][]version
	mem    slab // never released: the collector has it when the versions are gone
}

func (c *copies) add(v *version) {
	if c.n%copiesChunk == 0 {
		c.chunks = append(c.chunks, make([]version, 0, copiesChunk))
	}
	c.n++
	own := *v
	if !v.del {
		own.kv.Value = c.value(v.kv.Value)
	}
	last := &c.chunks[len(c.chunks)-1]
	*last = append(*last, own)
}

func (c *copies) value(b []byte) []byte {
	if len(b) > copiesValueMax {
		return bytes.Clone(b)
	}
	return append(c.mem.buf(len(b)), b...)
}

// clone copies v out of memory that is about to go away.
func (v *version) clone() *version {
	c := *v
	buf := make([]byte, len(v.kv.Key)+len(v.kv.Value))
	n := copy(buf, v.kv.Key)
	copy(buf[n:], v.kv.Value)
	c.kv.Key = buf[:n:n]
	if !v.del {
		c.kv.Value = buf[n:]
	}
	return &c
}
