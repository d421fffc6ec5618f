package watchfanout

// step is what a watcher that is not on the live path does next.
type step uint8

const (
	stepJoin step = iota // go live: everything missing is remembered by the lane
	stepRead             // read history up to what the lane has released
	stepWait             // wait until the lane has released more
	stepPark             // wait until the reader has taken something from the queue
)

func (s step) String() string { return [...]string{"join", "read", "wait", "park"}[s] }

// view is what a watcher's lane looks like to it.
type view struct {
	released int64 // everything at or below it is final in every range of the lane
	horizon  int64 // the live path lacks nothing above it
	recent   int64 // delivered events above it are still remembered
}

// position is where a watcher stands: everything at or below pos has been handed to its
// queue. Pure.
type position struct {
	pos   int64
	start int64
	fresh bool // has not read history yet
}

// next decides. A fresh watcher from the past reads history once, even if the lane remembers
// enough: history is what knows that the revision has been compacted away.
func (p *position) next(v view, room bool) step {
	switch {
	case !room:
		return stepPark
	case p.pos >= max(v.horizon, v.recent) && (!p.fresh || p.pos >= v.released):
		return stepJoin
	case p.pos < v.released:
		return stepRead
	default:
		return stepWait
	}
}

// read moves the position after a read of history that said everything below next.
func (p *position) read(next int64) {
	p.pos = max(p.pos, next-1)
	p.fresh = false
}

// progress returns what may be told to the watcher's reader while it is not on the live
// path, and whether that is anything: nothing is told to a watcher that has not begun.
func (p *position) progress(live bool, released int64) (int64, bool) {
	rev := released
	if !live {
		rev = min(p.pos, released)
	}
	return rev, rev >= p.start-1
}
