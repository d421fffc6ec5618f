package etcdapi

import (
	"context"
	"sync"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/patience"
)

const (
	// drainRate is how many streams a second are ended at most, so that few of them do not make a stop slow. Another server takes
	// as many clients up in a fraction of a processor's time.
	drainRate = 200
	// drainStep is how often it is looked which streams are due to end.
	drainStep = 10 * time.Millisecond
)

// endless are the streams that clients keep open: watches and keep-alives. Nothing ends them but a stop.
type endless struct {
	mu      sync.Mutex
	streams map[endlessStream]struct{}
	ending  bool // none may begin
}

// endlessStream is one of them.
type endlessStream interface {
	// over is called once at most, when the server stops, and has the stream end. It must not block.
	over()
}

// overSignal is a stream that waits for its end.
type overSignal chan struct{}

func (s overSignal) over() { close(s) }

// begin notes a stream; false if the server stops.
func (e *endless) begin(s endlessStream) (ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ending {
		return false
	}
	if e.streams == nil {
		e.streams = make(map[endlessStream]struct{})
	}
	e.streams[s] = struct{}{}
	return true
}

// left forgets a stream that has returned.
func (e *endless) left(s endlessStream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.streams, s)
}

// refuse lets no further streams begin, and returns those that are there, in no order.
func (e *endless) refuse() []endlessStream {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ending = true
	all := make([]endlessStream, 0, len(e.streams))
	for s := range e.streams {
		all = append(all, s)
	}
	return all
}

// end ends streams that have not returned yet.
func (e *endless) end(all []endlessStream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range all {
		if _, there := e.streams[s]; there {
			delete(e.streams, s)
			s.over()
		}
	}
}

func (e *endless) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.streams)
}

// drainTime is how long it takes to end so many streams evenly, within a period.
func drainTime(streams int, period time.Duration) time.Duration {
	return min(period, time.Duration(streams)*time.Second/drainRate)
}

// drainDue is how many of some streams are to have ended after a time, where all are to after a period.
func drainDue(streams int, after, period time.Duration) int {
	if after >= period || mutate.On(mutate.DrainAtOnce) {
		return streams
	}
	return int(int64(streams) * int64(after) / int64(period))
}

// Drain ends the streams that clients keep open, with "server stopped", one behind the other, so that they do not begin again elsewhere all at once. It
// takes period at most, and less where they are few; with ctx the rest ends at once. None begins any more. Health turns to not serving; unary requests
// go on.
func (a *API) Drain(ctx context.Context, period time.Duration) {
	a.health.Shutdown()
	all := a.endless.refuse()
	began, period := time.Now(), drainTime(len(all), period)
	for ended := 0; ended < len(all); {
		due := drainDue(len(all), time.Since(began), period)
		a.endless.end(all[ended:due])
		if ended = due; ended < len(all) && patience.Pause(ctx, min(drainStep, period)) != nil {
			period = 0
		}
	}
}

// Streams is how many streams clients keep open: watches and keep-alives.
func (a *API) Streams() int { return a.endless.count() }

// Close ends every watch and keep-alive stream with "server stopped", which sends clients to
// another node, and turns health to not serving. Unary requests go on. It does not wait:
// stopping the gRPC server does.
func (a *API) Close() {
	a.health.Shutdown()
	a.endless.end(a.endless.refuse())
}
