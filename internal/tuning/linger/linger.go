package linger

import (
	"sync"
	"time"
)

const (
	// window is how often the load is looked at.
	window = 200 * time.Millisecond
	// stale is the time after which the last look says nothing of now.
	stale = 5 * window
	// ease is the wait of goroutines up to which nothing lingers: a node that has enough processors stays
	// below it, also where something less important than it uses up all of the rest.
	ease = 40 * time.Microsecond
	// The pause grows while the processors are busier than busy, and shrinks while they are less so than
	// rested: to linger where there is time to spare helps nobody.
	busy, rested = 0.85, 0.75
	// smooth is the weight of the last look in what is taken for the share of time that processors are busy:
	// the system counts in hundredths of a second.
	smooth = 0.25
	// thick is how many requests a batch has, on average, for company to be no concern under a limit: the waits for the next period bring it.
	thick = 4
	// pauseMin is the shortest pause: a shorter one finds no company.
	pauseMin = 2 * time.Millisecond
)

// Load is what a Linger goes by.
type Load struct {
	Wait time.Duration // of a goroutine that could run, for a processor, on average
	Busy float64       // share of the processors' time, 0 to 1, whoever uses it; under a limit, of what that allows, if that is more
	// Limited says that it was under a limit.
	Limited bool
}

// Config is what a Linger works with.
type Config struct {
	// Max is the longest pause: what it can add to the time that a write takes. 0: there is none.
	Max time.Duration
	// Untimed says that nobody tells by Took how long a batch takes, so that Max alone bounds a pause. There is none under a limit then.
	Untimed bool
	// Load returns the load since it was called last. It may read files: no lock is held. Default: of this
	// process and this machine.
	Load func() Load
	// Now and AfterFunc are the clock. Default: package time's.
	Now       func() time.Time
	AfterFunc func(d time.Duration, f func())
}

// Linger gives the beats on which the ranges of a node close their batches, with pauses between them: all
// ranges at the same ones, so that one question to the oracle, one synced write and one message to a peer
// serve many. It is safe for concurrent use.
type Linger struct {
	cfg Config

	mu     sync.Mutex
	pause  time.Duration
	busy   float64 // lately
	looked time.Time
	looks  bool          // somebody is at it
	took   time.Duration // a batch, on average, when that was last known
	taken  time.Duration // by the batches since the last look
	closed int           // so many
	asked  int           // requests in them
	last   time.Time     // of the last beat
	queue  []func()      // for the next beat, which a timer brings if there are any
}

// New returns one whose pause is none until the load has been seen.
func New(cfg Config) *Linger {
	if cfg.Load == nil {
		cfg.Load = newMeter().read
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.AfterFunc == nil {
		cfg.AfterFunc = func(d time.Duration, f func()) { time.AfterFunc(d, f) }
	}
	return &Linger{cfg: cfg}
}

// Pause is the time between two beats, 0 to Max. 0: nothing lingers.
func (l *Linger) Pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cfg.Now().Sub(l.looked) > stale { // nobody writes, and whoever comes next does not wait
		return 0
	}
	return l.pause
}

// Next calls fn once at the next beat: before it returns if a pause has passed since the last one, else
// from a goroutine of the clock. Nothing can be taken back. What waits is as much as callers ask for: each
// should have one fn waiting at most.
func (l *Linger) Next(fn func()) {
	l.mu.Lock()
	now := l.cfg.Now()
	if l.cfg.Max > 0 && !l.looks && now.Sub(l.looked) >= window {
		// Files of the system are read for it, and whoever calls holds locks of its own.
		l.looks = true
		defer l.cfg.AfterFunc(0, l.look)
	}
	wait := l.last.Add(l.pause).Sub(now)
	if len(l.queue) == 0 && wait <= 0 {
		l.last = now
		l.mu.Unlock()
		fn()
		return
	}
	l.queue = append(l.queue, fn)
	first := len(l.queue) == 1
	l.mu.Unlock()
	if first {
		l.cfg.AfterFunc(wait, l.beat)
	}
}

// Took is told of a batch of requests that it was answered so long after the beat that closed it: no pause is longer
// than that takes on average. Once everything of one beat has been answered there is nothing to do until
// the next one, while who was answered waits for it.
func (l *Linger) Took(d time.Duration, requests int) {
	l.mu.Lock()
	l.taken += d
	l.closed++
	l.asked += requests
	l.mu.Unlock()
}

// look changes the pause by the load, step by step: its own effect shows in the next one. It is called from a
// goroutine of the clock, by one at a time.
func (l *Linger) look() {
	load := l.cfg.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now()
	if now.Sub(l.looked) > stale {
		l.pause, l.busy, l.took = 0, rested, 0
		l.taken, l.closed, l.asked = 0, 0, 0
	}
	l.looked, l.looks = now, false
	l.busy += smooth * (load.Busy - l.busy)
	switch {
	case load.Wait <= ease:
		l.pause /= 2
	case load.Limited && (l.cfg.Untimed || l.asked >= thick*max(l.closed, 1)):
		l.pause -= l.pause / 4
	case l.busy > busy:
		l.pause = max(l.pause+l.pause/2, pauseMin)
	case l.busy < rested:
		l.pause -= l.pause / 4
	}
	if l.closed > 0 {
		l.took = l.taken / time.Duration(l.closed)
		l.taken, l.closed, l.asked = 0, 0, 0
	}
	l.pause = min(l.pause, l.cfg.Max)
	if !l.cfg.Untimed {
		l.pause = min(l.pause, l.took)
	}
	if l.pause < pauseMin {
		l.pause = 0
	}
}

func (l *Linger) beat() {
	l.mu.Lock()
	queue := l.queue
	l.queue = nil
	l.last = l.cfg.Now()
	l.mu.Unlock()
	for _, fn := range queue {
		fn()
	}
}
