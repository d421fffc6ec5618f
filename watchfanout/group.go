package watchfanout

import (
	"math"
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
)

// Group bounds what several streams keep for their readers together: those of one connection, say. Where they keep more, the stream whose reader is
// furthest behind gives up what waits for it, as with Config.DeliveryBytes. Nil is no bound. Any number of goroutines may use it.
type Group struct {
	bytesMax int64
	bytes    atomic.Int64

	mu struct { // taken before a stream's
		sync.Mutex
		streams []*Stream
		asked   bool // a stream has been told to give up what waits
	}
}

// NewGroup returns a group of no streams; 0 stands for 32 MiB.
func NewGroup(bytesMax int) *Group {
	setDefault(&bytesMax, 32<<20)
	return &Group{bytesMax: int64(bytesMax)}
}

func (g *Group) join(s *Stream) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.streams = append(g.mu.streams, s)
}

// leave ends what join began; nothing waits in the stream any more.
func (g *Group) leave(s *Stream) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.mu.streams {
		if o == s {
			last := len(g.mu.streams) - 1
			g.mu.streams[i], g.mu.streams[last] = g.mu.streams[last], nil
			g.mu.streams = g.mu.streams[:last]
			return
		}
	}
}

// add counts bytes, and reports whether there are too many.
func (g *Group) add(bytes int) (over bool) {
	if g == nil || bytes == 0 {
		return false
	}
	return g.bytes.Add(int64(bytes)) > g.bytesMax && !mutate.On(mutate.GroupUnbounded)
}

// shed tells the stream that is furthest behind to give up what waits, if there is too much, and none has been told already.
func (g *Group) shed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.asked || g.bytes.Load() <= g.bytesMax {
		return
	}
	var furthest *Stream
	oldest := int64(math.MaxInt64)
	for _, s := range g.mu.streams {
		s.mu.Lock()
		if since, waits := s.mu.out.oldest(); waits && since < oldest {
			furthest, oldest = s, since
		}
		s.mu.Unlock()
	}
	if furthest != nil {
		g.mu.asked = true
		furthest.d.in.post(message{kind: msgShed, stream: furthest})
	}
}

// given says that the stream which was told has done so, or had nothing to give.
func (g *Group) given(some bool) {
	g.mu.Lock()
	g.mu.asked = false
	g.mu.Unlock()
	if some {
		g.shed()
	}
}
