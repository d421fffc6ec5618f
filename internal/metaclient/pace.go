package metaclient

import "time"

// pace says when another call may begin beside those in flight. Under load requests wait for a call to come back and share the next one, which is what keeps
// calls few. But who waits behind a call that takes long waits for its round and then for one more: so a call that is late holds nobody back, and
// rounds that are long, to a distant or busy leader, overlap by even shares.
type pace struct {
	callsMax    int           // in flight
	requestsMax int           // requests in flight for another call to begin at once
	late        time.Duration // a younger call than this is not late

	calls, requests int           // in flight
	begun           time.Time     // when the youngest of them began
	round           time.Duration // how long the call took that came back last
}

// wait is for how long another call has to wait: 0, not at all. Negative: until one comes back.
func (p *pace) wait(now time.Time) time.Duration {
	switch {
	case p.calls == 0:
		return 0
	case p.calls >= p.callsMax:
		return -1
	case p.requests < p.requestsMax:
		return 0
	}
	return max(p.begun.Add(max(p.late, p.round/time.Duration(p.callsMax))).Sub(now), 0)
}

func (p *pace) begin(now time.Time, requests int) {
	p.calls++
	p.requests += requests
	p.begun = now
}

func (p *pace) end(now, begun time.Time, requests int) {
	p.calls--
	p.requests -= requests
	p.round = now.Sub(begun)
}
