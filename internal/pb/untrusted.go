package pb

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Generated code decodes a message within a message by a call within a call, however deep: who sends
// one that nests deep enough ends the process. Between nodes nobody does. What a client sends is
// decoded by it only where it is known to be shallow, and else by reflection, which has a limit.

// untrustedTxnsMax is how many transactions within one another are decoded by generated code: deeper ones
// are by reflection.
const untrustedTxnsMax = 4

// The fields of a PeerRequest that hold no message which may hold one of its own kind.
var flatRequests = []protowire.Number{1, 2, 3, 4, 5, 11, 12, 30, 31, 37}

// The fields of TxnOp that hold an Op.
var branches = []protowire.Number{fieldSuccess, fieldFailure}

var errFrame = errors.New("pb: a frame that is none of a client's")

// UnmarshalUntrusted decodes the frame of a client, which holds requests alone. It keeps no reference to b.
func (x *PeerFrame) UnmarshalUntrusted(b []byte) error {
	x.Reset()
	return eachField(b, func(f protowire.Number, body []byte) error {
		if f != fieldRequests || body == nil {
			return errFrame
		}
		if shallow(body) {
			req, err := decodeRequest(body)
			x.Requests = append(x.Requests, req)
			return err
		}
		req := &PeerRequest{}
		x.Requests = append(x.Requests, req)
		return proto.Unmarshal(body, req)
	})
}

var errDeep = errors.New("pb: not known to be shallow")

// shallow reports whether a PeerRequest certainly does not nest deep.
func shallow(b []byte) bool {
	return nil == eachField(b, func(f protowire.Number, body []byte) error {
		switch {
		case slices.Contains(flatRequests, f):
			return nil
		case f == fieldWrite:
			return eachField(body, func(f protowire.Number, body []byte) error {
				if f == fieldOp {
					return shallowOp(body, untrustedTxnsMax)
				}
				return nil
			})
		}
		return errDeep
	})
}

func shallowOp(b []byte, txns int) error {
	return eachField(b, func(f protowire.Number, txn []byte) error {
		switch {
		case f != fieldTxn:
			return nil
		case txns == 0:
			return errDeep
		}
		return eachField(txn, func(f protowire.Number, op []byte) error {
			if slices.Contains(branches, f) {
				return shallowOp(op, txns-1)
			}
			return nil
		})
	})
}

// eachField calls fn for every field of a message until it fails; body is nil where the field is a number.
func eachField(b []byte, fn func(f protowire.Number, body []byte) error) error {
	for len(b) > 0 {
		f, body, n := nextField(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := fn(f, body); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
