package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

var optReconnects = Option{
	Name: "reconnects", Usage: "how often all watchers close their connections and connect again before anything is measured",
	Field: func(s *Spec) any { return &s.Reconnects }, In: always(func(s Spec) int { return s.Reconnects }),
}

var optSettle = Option{
	Name: "settle", Usage: "how long to wait after that before the servers' memory is looked at once more; 0: it is not",
	Field: func(s *Spec) any { return &s.Settle }, In: func(Spec) (any, bool) { return nil, false },
}

// reconnectsMax bounds what a mistake would have a run wait for.
const reconnectsMax = 1000

func watchConnsWorkload() Definition {
	defaults := common("watch-conns", func(s *Spec) {
		s.Prefix, s.ValueSize, s.KeySpace, s.Operations = "watched/", 256, 100, 1000
		s.Watchers, s.Reconnects = 1000, 3
	})
	briefly := func(s *Spec) {
		s.Clients, s.Conns, s.KeySpace, s.Watchers, s.Reconnects, s.Prefix = 2, 2, 100, 50, 1, "watched/"
	}
	thousand := func(s *Spec) { s.Clients, s.Conns, s.KeySpace, s.Watchers, s.Rate = 16, 4, 100, 1000, 100 }
	return Definition{
		Name:  "watch-conns",
		Short: "Puts that many watchers deliver, each on a connection of its own",
		Long: `Like watch-fanout, but every watcher has a stream and a connection of its own, as agents on many machines have: nothing
is shared on the way to them. Before anything is measured all of them connect again, --reconnects times. Told is the anonymous
memory of the servers for each of them, when they stand for the first time (anon-B/watcher), right after that (anon-B/watcher-reconnected), and when
servers have had time to collect what that has left behind (--settle, anon-B/watcher-settled).
Puts go over --conns further connections. With --gateways the memory is that of the gateways, to which the watchers are connected.` + watchLong,
		Options:  []Option{optWatchers, optReconnects, optSettle, optKeySize, optValueSize, optKeySpace, optGateways},
		Defaults: defaults,
		Brief:    brief(defaults, briefly, func(s *Spec) { briefly(s); s.Gateways = 1 }),
		Standard: standard(defaults, thousand, func(s *Spec) { thousand(s); s.Gateways = 1 }),
		gateways: plainGateways,
		check: func(s Spec) error {
			if s.Reconnects < 0 || s.Reconnects > reconnectsMax {
				return fmt.Errorf("--reconnects must be between 0 and %d", reconnectsMax)
			}
			if s.Settle < 0 {
				return errors.New("--settle must not be negative")
			}
			if s.Watchers > connsMax {
				return fmt.Errorf("--watchers must be between 1 and %d, each has a connection", connsMax)
			}
			s.Streams = s.Watchers
			return checkWatch(s)
		},
		open: func(e *env) workload {
			e.spec.Streams = e.spec.Watchers
			w := &watchConns{watching: newFanout(e)}
			w.connection = w.connect
			return w
		},
	}
}

// watchConns is a fan-out to as many connections as there are watchers.
type watchConns struct {
	*watching
	mu    sync.Mutex
	conns []*clientv3.Client
}

// connect dials for a stream.
func (w *watchConns) connect(stream int) (grpc.ClientConnInterface, error) {
	c, err := w.sys.dial(stream)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.conns = append(w.conns, c)
	w.mu.Unlock()
	return c.ActiveConnection(), nil
}

// prepare sets up all watchers, again and again, and looks what they cost the servers.
func (w *watchConns) prepare(ctx context.Context) error {
	before, err := w.anonymous()
	if err != nil {
		return err
	}
	if err := w.watching.prepare(ctx); err != nil {
		return err
	}
	began := time.Now()
	for n := range w.spec.Reconnects {
		w.say(fmt.Sprintf("connecting again, %d of %d", n+1, w.spec.Reconnects))
		if err := w.closeStreams(); err != nil {
			return err
		}
		if err := w.disconnect(); err != nil {
			return err
		}
		if _, err := w.stand(ctx); err != nil {
			return err
		}
	}
	if w.spec.Reconnects > 0 {
		w.setup["reconnected/s"] = float64(w.spec.Watchers*w.spec.Reconnects) / time.Since(began).Seconds()
		if err := w.tellAnonymous("anon-B/watcher-reconnected", before); err != nil {
			return err
		}
	}
	if w.spec.Settle == 0 {
		return nil
	}
	w.say("waiting for servers to settle")
	wait(ctx, w.spec.Settle)
	return w.tellAnonymous("anon-B/watcher-settled", before)
}

// tellAnonymous notes the servers' memory for each watcher, beyond what they had before there was one; not where it is not known.
func (w *watchConns) tellAnonymous(figure string, before int64) error {
	after, err := w.anonymous()
	if err == nil && after > 0 {
		w.setup[figure] = float64(after-before) / float64(w.spec.Watchers)
	}
	return err
}

func (w *watchConns) disconnect() error {
	conns := w.conns
	w.conns = nil
	return closeAll(conns)
}

func (w *watchConns) close() error {
	return errors.Join(w.watching.close(), w.disconnect())
}
