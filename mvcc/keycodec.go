package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
)

// Layouts: docs/format/mvcc.md.

const (
	revLen         = 16
	escapeByte     = 0x00
	escapedZero    = 0xff // 00 ff stands for a 00 of the user key
	escapeEnd      = 0x01 // 00 01 ends the user key
	escapeAfterEnd = 0x02 // 00 02 is above every version of a key and below every other key
)

var (
	errKeyShort  = errors.New("too short")
	errKeyEscape = errors.New("bad escape")
	errRevRange  = errors.New("revision out of range")
)

// appendEscaped appends key so that the order of the results is the order of the keys and no
// result is a prefix of another.
func appendEscaped(dst, key []byte) []byte {
	for {
		i := bytes.IndexByte(key, escapeByte)
		if i < 0 {
			break
		}
		dst = append(dst, key[:i]...)
		dst = append(dst, escapeByte, escapedZero)
		key = key[i+1:]
	}
	dst = append(dst, key...)
	return append(dst, escapeByte, escapeEnd)
}

// unescape returns the user key of an escaped one, end mark included. The result shares esc's
// memory where no byte was escaped.
func unescape(esc []byte) ([]byte, error) {
	n := len(esc)
	if n < 2 || esc[n-2] != escapeByte || esc[n-1] != escapeEnd {
		return nil, errKeyEscape
	}
	body := esc[:n-2]
	i := bytes.IndexByte(body, escapeByte)
	if i < 0 {
		return body[:len(body):len(body)], nil
	}
	key := make([]byte, 0, len(body))
	for i >= 0 {
		if i+1 >= len(body) || body[i+1] != escapedZero {
			return nil, errKeyEscape
		}
		key = append(key, body[:i+1]...)
		body = body[i+2:]
		i = bytes.IndexByte(body, escapeByte)
	}
	return append(key, body...), nil
}

// appendDescending appends r so that later revisions sort first.
func appendDescending(dst []byte, r Rev) []byte {
	dst = binary.BigEndian.AppendUint64(dst, ^uint64(r.Main))
	return binary.BigEndian.AppendUint64(dst, ^uint64(r.Sub))
}

// appendBaseKey appends the base's key of one version.
func appendBaseKey(dst, key []byte, r Rev) []byte {
	return appendDescending(appendEscaped(dst, key), r)
}

// splitBaseKey cuts a base key into its escaped user key and its revision, without checking the
// escapes.
func splitBaseKey(b []byte) (esc []byte, r Rev, err error) {
	n := len(b) - revLen
	if n < 2 {
		return nil, Rev{}, errKeyShort
	}
	r.Main = int64(^binary.BigEndian.Uint64(b[n:]))
	r.Sub = int64(^binary.BigEndian.Uint64(b[n+8:]))
	if r.Main <= 0 || r.Sub < 0 {
		return nil, Rev{}, errRevRange
	}
	return b[:n:n], r, nil
}

// appendLogKey appends the log's key of a revision.
func appendLogKey(dst []byte, r Rev) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Main))
	return binary.BigEndian.AppendUint64(dst, uint64(r.Sub))
}

func decodeLogKey(b []byte) (Rev, error) {
	if len(b) != revLen {
		return Rev{}, errKeyShort
	}
	r := Rev{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))}
	if r.Main <= 0 || r.Sub < 0 {
		return Rev{}, errRevRange
	}
	return r, nil
}

// leaseKeyHead is what stands before the user key.
const leaseKeyHead = 8

// appendLeaseKey appends the lease index's key: all keys of a lease lie together, in key order.
func appendLeaseKey(dst []byte, lease int64, key []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(lease))
	return append(dst, key...)
}

// newestAt is the revision whose base key sorts before all versions at or below main.
func newestAt(main int64) Rev { return Rev{Main: main, Sub: math.MaxInt64} }
