package pb

import "google.golang.org/protobuf/encoding/protowire"

// AppendUint appends a number as a field of a message of proto3, which leaves a zero out. Messages that are
// put together by hand are made of such fields.
func AppendUint(b []byte, f protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, f, protowire.VarintType), v)
}
