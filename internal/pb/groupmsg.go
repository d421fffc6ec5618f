package pb

import "sync"

// groupMessageBytesMax bounds the buffers that are kept for later messages.
const groupMessageBytesMax = 64 << 10

var groupMessages = sync.Pool{New: func() any { return new(GroupMessage) }}

// NewGroupMessage returns an empty message, whose Message has room from an earlier one perhaps. Whoever has
// it last may Release it, or leave it to the garbage collector.
func NewGroupMessage() *GroupMessage { return groupMessages.Get().(*GroupMessage) }

// ReleaseMessages takes the frame's messages out of it, for NewGroupMessage to hand out again: nobody else
// may have them, or parts of them, any more. They must not have been decoded: such share their bytes.
func (x *RaftFrame) ReleaseMessages() {
	for i, m := range x.Messages {
		x.Messages[i] = nil
		if cap(m.Message) <= groupMessageBytesMax {
			m.Group, m.Message = 0, m.Message[:0]
			groupMessages.Put(m)
		}
	}
	x.Messages = nil
}
