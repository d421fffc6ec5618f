package peerrpc

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// Messages are encoded where they are made, so that senders only put them together, and
// nobody reads a message that its owner may be using again. A frame is a pb.PeerFrame; the
// fields of the header follow the message's body, where they override what it says.
const (
	fieldRequests  = 1 // of PeerFrame
	fieldResponses = 2
	fieldLeft      = 3

	fieldID        = 1 // of PeerRequest and PeerResponse
	fieldTimeoutMs = 2 // of PeerRequest
	fieldRevision  = 3 // of both
	fieldEpoch     = 4
	fieldRelayTo   = 5 // of PeerRequest

	headerBytesMax = 4 * (1 + 10)
	frameOverhead  = 1 + 10 + headerBytesMax // of one message in a frame
)

// header is what the mesh itself says in a message.
type header struct {
	id        uint64
	timeoutMs int64 // requests only
	rev       int64
	epoch     uint64
}

// frame builds an encoded pb.PeerFrame.
type frame struct{ raw peer.Raw }

// newFrame makes room for messages of so many bytes altogether.
func newFrame(bytes, messages int) frame {
	return frame{make([]byte, 0, bytes+messages*frameOverhead)}
}

func (f *frame) addRequest(body []byte, h header)  { f.add(fieldRequests, body, h) }
func (f *frame) addResponse(body []byte, h header) { f.add(fieldResponses, body, h) }

// addLeft makes the frame a node's last.
func (f *frame) addLeft() { f.raw = pb.AppendUint(f.raw, fieldLeft, 1) }

func (f *frame) add(field protowire.Number, body []byte, h header) {
	var buf [headerBytesMax]byte
	head := appendHeader(buf[:0], h)
	b := protowire.AppendTag(f.raw, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(body)+len(head)))
	b = append(b, body...)
	f.raw = append(b, head...)
}

func appendHeader(b []byte, h header) []byte {
	b = pb.AppendUint(b, fieldID, h.id)
	b = pb.AppendUint(b, fieldTimeoutMs, uint64(h.timeoutMs))
	b = pb.AppendUint(b, fieldRevision, uint64(h.rev))
	return pb.AppendUint(b, fieldEpoch, h.epoch)
}

// encodeBody encodes a request, unless no peer would take it.
func encodeBody(req *pb.PeerRequest) ([]byte, error) {
	size := req.SizeVT()
	if size > peer.MessageBytesMax-frameOverhead {
		return nil, fmt.Errorf("%w: a request of %d bytes", shard.ErrInvalid, size)
	}
	body := make([]byte, size)
	if _, err := req.MarshalToSizedBufferVT(body); err != nil {
		return nil, fmt.Errorf("%w: encode request: %w", shard.ErrInvalid, err)
	}
	return body, nil
}

// encodeAnswer encodes the response to a call of some kind; one that cannot travel becomes an error that can.
func encodeAnswer(resp *pb.PeerResponse, kind calls.Kind) []byte {
	if resp == nil {
		resp = &pb.PeerResponse{Error: pb.ErrorToPB(ambiguousError(fmt.Errorf("peerrpc: an empty answer")))}
	}
	size := resp.SizeVT()
	if size > peer.MessageBytesMax-frameOverhead {
		resp = &pb.PeerResponse{Error: pb.ErrorToPB(tooLarge(size, kind))}
		size = resp.SizeVT()
	}
	body := make([]byte, size)
	if _, err := resp.MarshalToSizedBufferVT(body); err != nil {
		// Generated code fails only on a message that changed while it was encoded.
		panic(fmt.Sprintf("peerrpc: encode answer: %v", err))
	}
	return body
}

// tooLarge is the error in the place of an answer that cannot travel. What only reads may be refused for good; of
// whatever else is asked the answer says that it was done, which nobody may deny.
func tooLarge(size int, kind calls.Kind) error {
	err := fmt.Errorf("an answer of %d bytes", size)
	if calls.Table[kind].Reads {
		return fmt.Errorf("%w: %w", shard.ErrInvalid, err)
	}
	return ambiguousError(err)
}
