package pb

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

var errFrame = errors.New("pb: not a client frame")

// UnmarshalUntrusted decodes the frame of a client, which holds requests alone. It keeps no reference to b. How deep
// messages may lie within one another is bounded here as everywhere: one that goes deeper is an error.
func (x *PeerFrame) UnmarshalUntrusted(b []byte) error {
	x.Reset()
	return decodeFields(b, func(f protowire.Number, body, _ []byte) error {
		if f != fieldRequests || body == nil {
			return errFrame
		}
		req, err := decodeRequest(body)
		x.Requests = append(x.Requests, req)
		return err
	})
}
