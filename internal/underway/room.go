package underway

import "sync/atomic"

// The bounds of a Room where nobody states others.
const (
	RoomCount = 1 << 16
	RoomBytes = 512 << 20
)

// Room bounds requests that are under way at one place of a node, so that they cannot take all memory where they come faster than they are carried
// out. Whoever finds none is told shard.ErrTooManyRequests at once, and may ask again: nothing has been done. Any number of goroutines may use it.
type Room struct {
	countMax, bytesMax int64
	count, bytes       atomic.Int64
	refused            atomic.Int64
}

// NewRoom returns room for so many requests, which take so many bytes; 0 stands for RoomCount and RoomBytes. One request of any size is always let in.
func NewRoom(count int, bytes int64) *Room {
	if count <= 0 {
		count = RoomCount
	}
	if bytes <= 0 {
		bytes = RoomBytes
	}
	return &Room{countMax: int64(count), bytesMax: bytes}
}

// Enter reports whether there is room for a request. If so, Leave is called with the same size when it is over.
func (r *Room) Enter(size int) bool {
	n, bytes := r.count.Add(1), r.bytes.Add(int64(size))
	if n <= r.countMax && (n == 1 || bytes <= r.bytesMax) {
		return true
	}
	r.Leave(size)
	r.refused.Add(1)
	return false
}

// Leave gives the room back.
func (r *Room) Leave(size int) {
	r.count.Add(-1)
	r.bytes.Add(-int64(size))
}

// Count is how many requests are under way.
func (r *Room) Count() int64 { return r.count.Load() }

// Bytes is what they take.
func (r *Room) Bytes() int64 { return r.bytes.Load() }

// Refused is how many have found no room.
func (r *Room) Refused() int64 { return r.refused.Load() }
