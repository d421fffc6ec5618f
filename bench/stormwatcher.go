package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// unavailable is how a stream should end whose server goes.
var unavailable = codes.Unavailable.String()

// A watcher that finds no place pauses, from the first of these on, twice as long each time, up to the second, a half more or less at random.
const (
	stormPause    = 20 * time.Millisecond
	stormPauseMax = time.Second
)

// patiently makes a client wait for a server that has much to do.
func patiently(c *clientv3.Config) {
	c.DialOptions = append(c.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 30 * time.Second}))
}

// stormWatcher is a watcher with a connection of its own, which goes to the other server when its stream ends.
type stormWatcher struct {
	w      *watchStorm
	home   int // the server that it was connected to at first
	at     int // to which it is now
	client *clientv3.Client
	stream *watchStream

	mu    sync.Mutex
	why   string    // its stream ended, the first time; a code of gRPC
	ended time.Time // when that was
	wrong error     // what it was sent and should not have been
	seen  tally     // what it has delivered
	last  time.Time
	pause time.Duration // the longest without an event, since the server began to end
	away  bool          // it has lost its stream, and has not delivered since
	back  bool          // it has been away and was told of
}

// connect connects to its server and watches behind what it has delivered; it returns when the watcher stands.
func (x *stormWatcher) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, x.w.spec.Timeout)
	defer cancel()
	var err error
	if x.client, err = x.w.sys.dial(x.at, patiently); err != nil {
		return err
	}
	stands := make(chan struct{}, 1)
	x.stream, err = openStream(ctx, x.client.ActiveConnection(), watchFuncs{
		created: func(int64) error { stands <- struct{}{}; return nil },
		events:  x.deliver,
	})
	if err != nil {
		return errors.Join(err, x.disconnect())
	}
	if err := x.stream.watch(x.w.request(max(x.w.from, x.seenRev()+1))); err != nil {
		return errors.Join(err, x.disconnect())
	}
	select {
	case <-stands:
		return nil
	case <-x.stream.ended:
		err = x.stream.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, x.disconnect())
}

func (x *stormWatcher) seenRev() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen.rev
}

// deliver takes the events of one response.
func (x *stormWatcher) deliver(r *etcdserverpb.WatchResponse) error {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, ev := range r.Events {
		op, _, err := x.w.vetPut(ev)
		if err == nil && ev.Kv.ModRevision <= x.seen.rev {
			err = fmt.Errorf("an event of revision %d after one of revision %d", ev.Kv.ModRevision, x.seen.rev)
		}
		if err != nil {
			x.wrong = err
			return err
		}
		x.seen.add(ev.Kv.ModRevision, op)
	}
	if x.w.began.Load() != nil && !x.last.IsZero() {
		x.pause = max(x.pause, now.Sub(x.last))
	}
	x.last = now
	if x.away && x.home == ends && !x.back {
		x.back = true
		x.w.back <- struct{}{}
	}
	x.away = false
	return nil
}

// follow goes to the other server whenever its stream ends, until nobody needs it.
func (x *stormWatcher) follow(ctx context.Context) {
	for pause := stormPause; ; {
		select {
		case <-ctx.Done():
			x.stop()
			return
		case <-x.stream.ended:
		}
		if !x.note() {
			return
		}
		for {
			x.at = stormSides - 1 - x.at
			err := errors.Join(x.disconnect(), x.connect(ctx))
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			wait(ctx, pause/2+rand.N(pause))
			pause = min(2*pause, stormPauseMax)
		}
	}
}

// note keeps why its stream has ended, and tells whether it goes on.
func (x *stormWatcher) note() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended.IsZero() {
		x.ended, x.why = time.Now(), status.Code(x.stream.err).String()
	}
	x.away = true
	return x.wrong == nil
}

// stop ends its stream and waits for its end.
func (x *stormWatcher) stop() {
	if x.stream != nil {
		_ = x.stream.close() // nobody needs it
	}
}

// disconnect ends its stream and its connection.
func (x *stormWatcher) disconnect() error {
	x.stop()
	c := x.client
	x.client = nil
	if c == nil {
		return nil
	}
	return closeAll([]*clientv3.Client{c})
}
