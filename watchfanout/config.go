package watchfanout

import (
	"errors"
	"log/slog"
	"runtime"
	"time"
)

const (
	dispatchersMax = 4
	// readTimeout bounds one step of reading history, and one call of Config.Current.
	readTimeout = 10 * time.Second
)

// Validate reports what is missing.
func (c *Config) Validate() error {
	switch {
	case c.History == nil:
		return errors.New("watchfanout: Config.History is required")
	case c.Closer == nil:
		return errors.New("watchfanout: Config.Closer is required")
	case c.Current == nil:
		return errors.New("watchfanout: Config.Current is required")
	case c.Map == nil:
		return errors.New("watchfanout: Config.Map is required")
	default:
		return nil
	}
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.AfterFunc == nil {
		c.AfterFunc = func(d time.Duration, f func()) { time.AfterFunc(d, f) }
	}
	if c.RetryDelay <= 0 {
		c.RetryDelay = 100 * time.Millisecond
	}
	if c.RingAge <= 0 {
		c.RingAge = 5 * time.Minute
	}
	setDefault(&c.Dispatchers, min(runtime.GOMAXPROCS(0), dispatchersMax))
	setDefault(&c.Readers, 4)
	setDefault(&c.ReadBytes, 1<<20)
	setDefault(&c.WatchersMax, 1_000_000)
	setDefault(&c.DeliveryBytes, 256<<20)
	setDefault(&c.InboxEvents, 1<<16)
	setDefault(&c.InboxBytes, 64<<20)
	setDefault(&c.PendingEvents, 1<<16)
	setDefault(&c.PendingBytes, 64<<20)
	setDefault(&c.RecentEvents, 4096)
	setDefault(&c.RecentBytes, 1<<20)
	return c
}

func (o StreamOptions) withDefaults() StreamOptions {
	setDefault(&o.WatcherEvents, 1024)
	setDefault(&o.WatcherBytes, 1<<20)
	setDefault(&o.StreamEvents, 16384)
	setDefault(&o.StreamBytes, 16<<20)
	return o
}

// streamShare is the part of Config.DeliveryBytes of which one stream takes no more, unless a watcher may alone.
const streamShare = 8

// within keeps a stream whose watches come back together, and read as much as it has room for, from filling what is there for all.
func (o StreamOptions) within(deliveryBytes int) StreamOptions {
	o.StreamBytes = min(o.StreamBytes, max(o.WatcherBytes, deliveryBytes/streamShare))
	return o
}

func setDefault(v *int, to int) {
	if *v <= 0 {
		*v = to
	}
}
