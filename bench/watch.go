package bench

import (
	"errors"
	"fmt"
)

var (
	optWatchers = Option{
		Name: "watchers", Usage: "how many watchers there are",
		Field: func(s *Spec) any { return &s.Watchers }, In: always(func(s Spec) int { return s.Watchers }),
	}
	optStreams = Option{
		Name: "streams", Usage: "streams that the watchers share, on the connections in turn",
		Field: func(s *Spec) any { return &s.Streams }, In: always(func(s Spec) int { return s.Streams }),
	}
)

// watchersMax bounds what a client can hold.
const watchersMax = 10_000_000

const watchLong = `
An operation ends when the last of its watchers has delivered the put, so latency is from the put to its last
delivery; the time to its acknowledgement is told beside it. Watchers are spread over --streams raw gRPC
streams on --conns connections, because clientv3's own watcher would cost the client more than the servers.
Every watcher is held to what was acknowledged: every event once, in order, with its value, and nothing else.`

func watchFanoutWorkload() Definition {
	defaults := common("watch-fanout", func(s *Spec) {
		s.Prefix, s.ValueSize, s.KeySpace, s.Operations = "watched/", 256, 100, 1000
		s.Watchers, s.Streams = 100, 10
	})
	return Definition{
		Name:     "watch-fanout",
		Short:    "Puts that many watchers of one prefix deliver",
		Long:     "All watchers watch the prefix of all keys; every operation puts one of them." + watchLong,
		Options:  []Option{optWatchers, optStreams, optKeySize, optValueSize, optKeySpace, optGateways},
		Defaults: defaults,
		Brief: brief(defaults,
			func(s *Spec) { s.Clients, s.Conns, s.KeySpace, s.Prefix = 4, 2, 100, "watched/" },
			func(s *Spec) { s.Clients, s.Conns, s.KeySpace, s.ValueSize, s.Watchers = 2, 2, 100, 10<<10, 50 }),
		Standard: standard(defaults,
			func(s *Spec) { s.Clients, s.Conns, s.KeySpace, s.Watchers, s.Streams = 4, 4, 100, 1000, 40 },
			func(s *Spec) {
				s.Clients, s.Conns, s.KeySpace, s.Watchers, s.Streams, s.ValueSize = 4, 4, 100, 1000, 40, 10<<10
			}),
		check:    checkWatch,
		gateways: plainGateways,
		open:     func(e *env) workload { return newFanout(e) },
	}
}

func checkWatch(s Spec) error {
	switch {
	case s.Watchers < 1 || s.Watchers > watchersMax:
		return fmt.Errorf("--watchers must be between 1 and %d", watchersMax)
	case s.Streams < 1 || s.Streams > s.Watchers:
		return errors.New("--streams must be between 1 and --watchers")
	case s.Prefix == "":
		return errors.New("--prefix must not be empty: it is what is watched")
	}
	return checkGateways(s)
}

func newFanout(e *env) *watching {
	return newWatching(e, watchShape{
		perPut: e.spec.Watchers, groups: 1,
		span:  func(int) (string, string) { return e.spec.Prefix, prefixEnd(e.spec.Prefix) },
		group: func(int) int { return 0 },
		of:    func(int) int { return 0 },
	})
}

func watchManyWorkload() Definition {
	defaults := common("watch-many", func(s *Spec) {
		s.Prefix, s.ValueSize, s.Clients = "watched/", 256, 16
		s.Watchers, s.Streams = 10_000, 100
	})
	return Definition{
		Name:  "watch-many",
		Short: "Watchers of as many prefixes",
		Long: `Sets up --watchers watchers, each of a prefix of its own, and tells how fast that went and what anonymous
memory of the servers each of them took; then every operation puts a key of one of the prefixes, at random.` + watchLong,
		Options:  []Option{optWatchers, optStreams, optKeySize, optValueSize, optGateways},
		Defaults: defaults,
		Brief:    brief(defaults, func(s *Spec) { s.Watchers, s.Streams, s.KeySpace = 2000, 20, 1 }),
		gateways: plainGateways,
		Standard: standard(defaults, func(s *Spec) { s.Conns, s.Watchers, s.KeySpace = 16, 100_000, 1 }),
		check: func(s Spec) error {
			if len(fmt.Sprint(s.Watchers-1)) > s.KeySize {
				return fmt.Errorf("--key-size is too small for %d prefixes", s.Watchers)
			}
			return checkWatch(s)
		},
		splits: func(s Spec, n int) []string {
			s.KeySpace = s.Watchers
			return keysOf(s).splits(n)
		},
		open: func(e *env) workload { return newMany(e) },
	}
}

// newMany has a key for every watcher; no key is the beginning of another.
func newMany(e *env) *watching {
	e.spec.KeySpace = e.spec.Watchers
	var w *watching
	w = newWatching(e, watchShape{
		perPut: 1, groups: e.spec.Watchers,
		span: func(i int) (string, string) {
			prefix := w.ledger.keys.at(i)
			return prefix, prefixEnd(prefix)
		},
		group: func(key int) int { return key },
		of:    func(watcher int) int { return watcher },
	})
	return w
}
