package etcdfile

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Rev is a revision and the position of a change within it.
type Rev struct{ Main, Sub int64 }

// Less is the order of rows.
func (r Rev) Less(o Rev) bool { return r.Main < o.Main || r.Main == o.Main && r.Sub < o.Sub }

const (
	revBytes      = 17 // main revision, '_', sub revision
	tombstoneMark = 't'
)

// AppendRev appends a row's key: a revision, big-endian in both parts, marked where the row is a tombstone.
func AppendRev(dst []byte, rev Rev, tombstone bool) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(rev.Main))
	dst = append(dst, '_')
	dst = binary.BigEndian.AppendUint64(dst, uint64(rev.Sub))
	if tombstone {
		dst = append(dst, tombstoneMark)
	}
	return dst
}

// ParseRev reads a row's key.
func ParseRev(b []byte) (rev Rev, tombstone bool, err error) {
	switch {
	case len(b) == revBytes+1 && b[revBytes] == tombstoneMark:
		tombstone = true
	case len(b) != revBytes:
		return Rev{}, false, fmt.Errorf("a revision of %d bytes", len(b))
	}
	if b[8] != '_' {
		return Rev{}, false, errors.New("a revision without its separator")
	}
	rev = Rev{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))}
	if rev.Main < 0 || rev.Sub < 0 {
		return Rev{}, false, errors.New("a negative revision")
	}
	return rev, tombstone, nil
}

// Row is one version of a key.
type Row struct {
	Rev
	Tombstone bool
	Key       []byte
	Create    int64 // revision in which the key came into being, and how often it has been written since; both of no meaning in a tombstone
	Version   int64
	Value     []byte
	Lease     int64
}

// AppendValue appends the row's value: an mvccpb.KeyValue, of a tombstone with the key alone.
func (r *Row) AppendValue(dst []byte) []byte {
	number := func(field protowire.Number, v int64) {
		if v != 0 {
			dst = protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), uint64(v))
		}
	}
	text := func(field protowire.Number, v []byte) {
		if len(v) > 0 {
			dst = protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), v)
		}
	}
	text(fieldKey, r.Key)
	if r.Tombstone {
		return dst
	}
	number(fieldCreate, r.Create)
	number(fieldMod, r.Main)
	number(fieldVersion, r.Version)
	text(fieldValue, r.Value)
	number(fieldLease, r.Lease)
	return dst
}

// The fields of mvccpb.KeyValue.
const (
	fieldKey protowire.Number = iota + 1
	fieldCreate
	fieldMod
	fieldVersion
	fieldValue
	fieldLease
)

// ParseRow reads a row, whose bytes are then valid as long as the arguments are. A row without a value marks a revision in which nothing was
// written: a restore that raises the revision leaves one. Its key is empty.
func ParseRow(key, value []byte) (Row, error) {
	rev, tombstone, err := ParseRev(key)
	if err != nil {
		return Row{}, err
	}
	r := Row{Rev: rev, Tombstone: tombstone}
	var mod int64
	for b := value; len(b) > 0; {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Row{}, protowire.ParseError(n)
		}
		b = b[n:]
		var number uint64
		var text []byte
		switch {
		case kind == protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case kind == protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
		default:
			return Row{}, fmt.Errorf("field %d is of a kind that no key has", field)
		}
		if n < 0 {
			return Row{}, protowire.ParseError(n)
		}
		b = b[n:]
		if known := (field == fieldKey || field == fieldValue) == (kind == protowire.BytesType); !known || field > fieldLease {
			return Row{}, fmt.Errorf("field %d is of no key", field)
		}
		switch field {
		case fieldKey:
			r.Key = text
		case fieldCreate:
			r.Create = int64(number)
		case fieldMod:
			mod = int64(number)
		case fieldVersion:
			r.Version = int64(number)
		case fieldValue:
			r.Value = text
		case fieldLease:
			r.Lease = int64(number)
		}
	}
	return r, r.check(mod, len(value))
}

// check refuses what no store of etcd's writes.
func (r *Row) check(mod int64, size int) error {
	switch {
	case size == 0:
		return nil
	case len(r.Key) == 0:
		return errors.New("a version of the empty key")
	case r.Tombstone && (mod != 0 || r.Create != 0 || r.Version != 0 || r.Lease != 0 || r.Value != nil):
		return errors.New("a tombstone that is more than a key")
	case r.Tombstone:
		return nil
	case mod != r.Main:
		return fmt.Errorf("a version that says revision %d", mod)
	case r.Create <= 0 || r.Create > r.Main || r.Version <= 0:
		return fmt.Errorf("version %d of a key that came into being in revision %d", r.Version, r.Create)
	}
	return nil
}
