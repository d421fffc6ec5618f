package watchfanout

// step is what a watcher that is not on the live path does next.
type step uint8

const (
	stepCheck step = iota // ask whether the start has been compacted away
	stepJoin              // go live: everything missing is remembered by the lane
	stepRead              // read history up to what the lane has released
	stepWait              // wait until the lane has released more
	stepPark              // wait until the reader has taken something from the queue
)

func (s step) String() string { return [...]string{"check", "join", "read", "wait", "park"}[s] }

// laneState is what a watcher's lane looks like to it.
type laneState struct {
	released int64 // everything at or below it is final in every range of the lane
	horizon  int64 // the live path lacks nothing above it
	recent   int64 // delivered events above it are still remembered
}

// position is where a watcher stands: everything at or below pos has been handed to its
// queue, or is below its start. Pure.
type position struct {
	pos       int64
	unchecked bool // its start may have been compacted away before it was asked for
	started   bool // its start is not in the future any more
}

// next decides. Neither the lane nor a replica's history need know of a compaction that was
// acknowledged before the watch was asked for, so that a start is checked before all else.
func (p *position) next(l laneState, room bool) step {
	switch {
	case p.unchecked:
		return stepCheck
	case !room:
		return stepPark
	case p.pos >= max(l.horizon, l.recent):
		return stepJoin
	case p.pos < l.released:
		return stepRead
	default:
		return stepWait
	}
}

// read moves the position after a read of history that said everything below next.
func (p *position) read(next int64) {
	p.pos = max(p.pos, next-1)
	p.started = true
}

// rest moves the position to what has been released, when the watcher goes on or off the live path.
func (p *position) rest(released int64) {
	p.started = p.started || released >= p.pos
	p.pos = max(p.pos, released)
}

// progress returns what may be told to the watcher's reader, and whether that is anything:
// nothing is told to a watcher that has not started.
func (p *position) progress(live bool, released int64) (int64, bool) {
	p.started = p.started || released >= p.pos
	if live {
		return released, p.started
	}
	return min(p.pos, released), p.started
}
