package pb

import (
	"errors"
	"math"
	"math/bits"
	"slices"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// What the generated codecs are made of. Messages are encoded from the end to the beginning, so that the length of
// one within another is known when it is written, and nothing is measured twice.

// ---- size

func sizeVarint(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func sizeNumber(tag int, v uint64) int {
	if v == 0 {
		return 0
	}
	return tag + sizeVarint(v)
}

func sizeBool(tag int, v bool) int {
	if !v {
		return 0
	}
	return tag + 1
}

func sizeBody(tag, body int) int { return tag + sizeVarint(uint64(body)) + body }

func sizePacked[T int32 | uint32 | int64 | uint64](tag int, vs []T) int {
	if len(vs) == 0 {
		return 0
	}
	n := 0
	for _, v := range vs {
		n += sizeVarint(uint64(v))
	}
	return sizeBody(tag, n)
}

// ---- encode

// putVarint writes v so that it ends at i, and returns where it begins.
func putVarint(b []byte, i int, v uint64) int {
	if v < 0x80 {
		i--
		b[i] = byte(v)
		return i
	}
	return putLongVarint(b, i, v)
}

func putLongVarint(b []byte, i int, v uint64) int {
	i -= sizeVarint(v)
	at := i
	for ; v >= 0x80; v >>= 7 {
		b[at] = byte(v) | 0x80
		at++
	}
	b[at] = byte(v)
	return i
}

// ---- decode

// decoding is how a message is decoded.
type decoding struct {
	shared bool // bytes and strings are parts of what is decoded
	depth  int  // messages within one another that may still come: who sends deeper ones is not to end the process
}

var (
	copied = decoding{depth: protowire.DefaultRecursionLimit}
	shared = decoding{shared: true, depth: protowire.DefaultRecursionLimit}
)

var (
	errMalformed = errors.New("pb: malformed")
	errDeep      = errors.New("pb: too many messages within one another")
)

// malformed is where the next field would be, if there were one: behind every message's end.
const malformed = math.MaxInt

// decoded is what has become of a message whose fields have been gone through up to i.
func decoded(b []byte, i int) error {
	if i != len(b) {
		return errMalformed
	}
	return nil
}

// deeper is how a message within this one is decoded.
func (how decoding) deeper() decoding { return decoding{how.shared, how.depth - 1} }

// bytes is what a field keeps of its value, never nil.
func (how decoding) bytes(v []byte) []byte {
	if how.shared && v != nil {
		return v
	}
	return append([]byte{}, v...)
}

func (how decoding) string(v []byte) string {
	if how.shared {
		return unsafe.String(unsafe.SliceData(v), len(v))
	}
	return string(v)
}

// varint reads the number at i, and returns where the next field is.
func varint(b []byte, i int) (uint64, int) {
	if i >= len(b) {
		return 0, malformed
	}
	v := uint64(b[i])
	if v < 0x80 {
		return v, i + 1
	}
	if i+1 < len(b) && b[i+1] < 0x80 {
		return v&0x7f | uint64(b[i+1])<<7, i + 2
	}
	v, n := protowire.ConsumeVarint(b[i:])
	if n < 0 {
		return 0, malformed
	}
	return v, i + n
}

// bodyAt reads the bytes whose length is at i. They are a part of b.
func bodyAt(b []byte, i int) ([]byte, int) {
	n, i := varint(b, i)
	if i > len(b) || n > uint64(len(b)-i) {
		return nil, malformed
	}
	end := i + int(n)
	return b[i:end:end], end
}

// appendUnknown appends the field that begins at start, as a whole, to what this version does not know, where
// a field is whose value has another type.
func appendUnknown(dst, b []byte, start int) ([]byte, int) {
	num, typ, n := protowire.ConsumeTag(b[start:])
	if n < 0 {
		return dst, malformed
	}
	m := protowire.ConsumeFieldValue(num, typ, b[start+n:])
	if m < 0 {
		return dst, malformed
	}
	end := start + n + m
	dst = protowire.AppendTag(dst, num, typ) // as package proto does, however the tag is encoded
	return append(dst, b[start+n:end]...), end
}

// appendPacked appends numbers that stand in one field.
func appendPacked[T int32 | uint32 | int64 | uint64](dst []T, b []byte, i int) ([]T, int) {
	body, end := bodyAt(b, i)
	n := 0
	for _, c := range body {
		if c < 0x80 {
			n++
		}
	}
	dst = slices.Grow(dst, n)
	for at := 0; at < len(body); {
		var v uint64
		if v, at = varint(body, at); at > len(body) {
			return dst, malformed
		}
		dst = append(dst, T(v))
	}
	return dst, end
}
