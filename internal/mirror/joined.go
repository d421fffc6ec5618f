package mirror

import (
	"context"
	"sync"

	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/internal/underway"
)

// Joined makes one of reads that are equal, and lets reads begin as there is room for their bytes, in the order in which they came. A read joins one that has
// not begun: what that is answered with is true at a moment after both have come. Behind one that has begun it waits, with all that come meanwhile. So there
// are at most as many reads under way as they differ, and no herd. Any number of goroutines may use it.
type Joined[T any] struct {
	room *underway.Lists

	mu   sync.Mutex
	keys map[string]*line[T] // as many as there are different requests under way
}

// line is what is to be read for one key.
type line[T any] struct {
	running *flight[T]
	next    *flight[T] // begins when running has ended; nil: nobody waits
}

// flight is a read for all who wait for it.
type flight[T any] struct {
	read   func(ctx context.Context, in *underway.List) (T, error) // of who came first
	who    string
	ctx    context.Context
	cancel context.CancelFunc
	bytes  int64
	begun  bool
	users  int // that still wait
	done   chan struct{}
	res    T
	err    error
}

// NewJoined returns a Joined whose reads begin as there is room for them.
func NewJoined[T any](room *underway.Lists) *Joined[T] {
	return &Joined[T]{room: room, keys: map[string]*line[T]{}}
}

// Do reads, or waits for another one's read of the same key. read is called once at most, with a context that ends when nobody waits any more; what it returns
// is shared. who asks is who waits for room if nobody has before, and bytes is what the answer will take, roughly. joined says that somebody else's answer is returned. The error is read's, or that of ctx.
func (j *Joined[T]) Do(ctx context.Context, key, who string, bytes int64, read func(ctx context.Context, in *underway.List) (T, error)) (res T, joined bool, err error) {
	f, joined := j.enter(key, who, bytes, read)
	if _, err := patience.Wait(ctx, f.done); err != nil {
		j.leave(f)
		return res, joined, err
	}
	return f.res, joined, f.err
}

func (j *Joined[T]) enter(key, who string, bytes int64, read func(ctx context.Context, in *underway.List) (T, error)) (f *flight[T], joined bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.keys[key]
	if l == nil {
		l = &line[T]{}
		j.keys[key] = l
	}
	switch {
	case l.running != nil && l.running.users > 0 && (!l.running.begun || mutate.On(mutate.MirrorJoinsLate)):
		f = l.running
	case l.next != nil && l.next.users > 0:
		f = l.next
	}
	if f != nil {
		f.users++
		return f, true
	}
	f = &flight[T]{read: read, who: who, bytes: bytes, users: 1, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	if l.running != nil {
		l.next = f
		return f, false
	}
	l.running = f
	go j.run(key, l)
	return f, false
}

// leave cancels a read for which nobody waits any more.
func (j *Joined[T]) leave(f *flight[T]) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if f.users--; f.users == 0 {
		f.cancel()
	}
}

// run carries out what a line has, until it has nothing.
func (j *Joined[T]) run(key string, l *line[T]) {
	for f := l.running; f != nil; f = j.following(key, l) {
		var in *underway.List
		if in, f.err = j.room.Enter(f.ctx, f.who, f.bytes); f.err == nil {
			j.mu.Lock()
			f.begun = true
			j.mu.Unlock()
			f.res, f.err = f.read(f.ctx, in)
			in.Leave()
		}
		close(f.done)
		f.cancel()
	}
}

// following is what the line has next. One that nobody waits for fails at once.
func (j *Joined[T]) following(key string, l *line[T]) *flight[T] {
	j.mu.Lock()
	defer j.mu.Unlock()
	l.running, l.next = l.next, nil
	if l.running == nil {
		delete(j.keys, key)
	}
	return l.running
}
