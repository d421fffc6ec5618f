package etcdapi

import (
	"testing"

	"pontoon/shard"
)

// TestRequestQueueIsBounded: a stream's reader waits where requests are many, or few and long, and goes on
// when a turn has taken them.
func TestRequestQueueIsBounded(t *testing.T) {
	for name, tc := range map[string]struct{ keyBytes, want int }{
		"many": {1, commandsMax}, "long": {commandBytesMax/2 + 1, 2}, "one that is longer": {2 * commandBytesMax, 1},
	} {
		var kicks int
		q := requestQueue{ctx: t.Context(), schedule: func() { kicks++ }}
		q.open()
		c := command{kind: commandCreate}
		c.req.Span = shard.Point(make([]byte, tc.keyBytes))
		c.req.Span.End = nil
		n := 0
		for !q.fullLocked() {
			if !q.push(c) {
				t.Fatal("not taken")
			}
			n++
		}
		if n != tc.want || kicks != n {
			t.Errorf("%s: %d taken with %d kicks, want %d", name, n, kicks, tc.want)
		}
		waits := make(chan bool)
		go func() { waits <- q.push(c) }()
		if got := len(q.take(nil)); got < n {
			t.Errorf("%s: a turn takes %d of %d", name, got, n)
		}
		if !<-waits {
			t.Errorf("%s: refused though there is room", name)
		}
		q.close()
		if q.push(c) {
			t.Errorf("%s: taken after the end", name)
		}
	}
}
