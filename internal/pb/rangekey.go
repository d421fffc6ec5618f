package pb

import "google.golang.org/protobuf/encoding/protowire"

// Field numbers of etcd's RangeResponse and mvccpb.KeyValue (etcd api v3.7, rpc.proto and kv.proto).
const (
	fieldRangeKvs protowire.Number = 2

	fieldKey     protowire.Number = 1
	fieldCreate  protowire.Number = 2
	fieldMod     protowire.Number = 3
	fieldVersion protowire.Number = 4
	fieldValue   protowire.Number = 5
	fieldLease   protowire.Number = 6
)

// AppendRangeKey appends a key as one more element of the field kvs of etcd's RangeResponse. What several
// calls have appended, in one buffer or in several, is a part of such a message wherever it is put.
func AppendRangeKey(b []byte, kv *KeyValue) []byte {
	n := sizeBytes(fieldKey, kv.Key) + sizeInt(fieldCreate, kv.CreateRevision) + sizeInt(fieldMod, kv.ModRevision) +
		sizeInt(fieldVersion, kv.Version) + sizeBytes(fieldValue, kv.Value) + sizeInt(fieldLease, kv.Lease)
	b = protowire.AppendTag(b, fieldRangeKvs, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	b = appendBytes(b, fieldKey, kv.Key)
	b = AppendUint(b, fieldCreate, uint64(kv.CreateRevision))
	b = AppendUint(b, fieldMod, uint64(kv.ModRevision))
	b = AppendUint(b, fieldVersion, uint64(kv.Version))
	b = appendBytes(b, fieldValue, kv.Value)
	return AppendUint(b, fieldLease, uint64(kv.Lease))
}

// NextRangeKey reads the element with which b begins, of those that AppendRangeKey appends: its key, which lies in b, and how many bytes it takes. ok is false
// where b does not begin with one.
func NextRangeKey(b []byte) (key []byte, size int, ok bool) {
	msg, size, ok := rangeElement(b)
	if !ok {
		return nil, 0, false
	}
	if num, typ, n := protowire.ConsumeTag(msg); n > 0 && num == fieldKey && typ == protowire.BytesType {
		key, m := protowire.ConsumeBytes(msg[n:])
		return key, size, m >= 0
	}
	return nil, size, true // an empty key is left out
}

// rangeElement is the message with which b begins as an element of the field kvs, and the size of all of that.
func rangeElement(b []byte) (msg []byte, size int, ok bool) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != fieldRangeKvs || typ != protowire.BytesType {
		return nil, 0, false
	}
	msg, m := protowire.ConsumeBytes(b[n:])
	return msg, n + m, m >= 0
}

// AppendRangeKeyOnly appends the element with which b begins, of those that AppendRangeKey appends, without value and lease: as etcd answers keys alone.
func AppendRangeKeyOnly(dst, b []byte) []byte {
	msg, _, ok := rangeElement(b)
	if !ok {
		return dst
	}
	kept := 0
	for kept < len(msg) {
		num, typ, n := protowire.ConsumeTag(msg[kept:])
		if n < 0 || num >= fieldValue {
			break // they are the last two
		}
		m := protowire.ConsumeFieldValue(num, typ, msg[kept+n:])
		if m < 0 {
			break
		}
		kept += n + m
	}
	dst = protowire.AppendTag(dst, fieldRangeKvs, protowire.BytesType)
	return protowire.AppendBytes(dst, msg[:kept])
}

func sizeBytes(f protowire.Number, v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return protowire.SizeTag(f) + protowire.SizeBytes(len(v))
}

func sizeInt(f protowire.Number, v int64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(f) + protowire.SizeVarint(uint64(v))
}

func appendBytes(b []byte, f protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, f, protowire.BytesType), v)
}
