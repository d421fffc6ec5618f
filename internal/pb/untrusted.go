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
	return decodeFields(b, func(f protowire.Number, body, _ []byte) error {
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
	return nil == decodeFields(b, func(f protowire.Number, body, _ []byte) error {
		switch {
		case slices.Contains(flatRequests, f):
			return nil
		case f == fieldWrite:
			return decodeFields(body, func(f protowire.Number, body, _ []byte) error {
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
	return decodeFields(b, func(f protowire.Number, txn, _ []byte) error {
		switch {
		case f != fieldTxn:
			return nil
		case txns == 0:
			return errDeep
		}
		return decodeFields(txn, func(f protowire.Number, op, _ []byte) error {
			if slices.Contains(branches, f) {
				return shallowOp(op, txns-1)
			}
			return nil
		})
	})
}
