package metaclient

import (
	"context"
	"math/rand/v2"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// Caller calls other nodes, as peerrpc.Mesh does. cb is called once, perhaps before CallFunc
// returns, at the latest soon after ctx ends.
type Caller interface {
	CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error))
}

// Oracle is the revision oracle where a replica of the meta group is in this process.
type Oracle interface {
	// ServeLeased answers a question to the oracle, if this replica can do so at
	// once: it leads by a valid lease, in an epoch that is not below the given one. Otherwise it reports false
	// and has done nothing. lend: this node goes by the settings of the answer. It does not block.
	ServeLeased(epoch uint64, ask shard.Ask, lend bool) (shard.Now, bool)
}

// Config configures a Client. New copies it and fills in defaults.
type Config struct {
	Self  shard.NodeID
	Calls Caller
	// Local is this node's own replica of the meta group: while that leads, the oracle is asked without a
	// message. nil: there is none.
	Local Oracle
	// Meta places the meta group's replicas, as this node was started with: newer places come
	// with the range map.
	Meta shard.Descriptor
	// Nodes are others that may know where the group is: they are asked in turn with its replicas while nobody is known to lead. nil: there are
	// none. It must not block.
	Nodes func() []shard.NodeID
	// Members is told of the members in every newer view, in order. It must not block, nor call the client. nil: nobody
	// is.
	Members func(version uint64, members []shard.Member)
	// FollowSettings keeps the settings of the cluster at hand, and borrows them for the node Self. Only a process that its nodes trust may.
	FollowSettings bool
	// Untold: no member calls this process, so that it hears of newer settings by its own questions alone, and by Follow, and judges by a loan whatever
	// they are.
	Untold bool
	// SettingsChanged is told of settings once they are those by which this node goes, and before that is confirmed to anybody: when it returns
	// nothing may begin under older ones. One call at a time, in order. It must not block, nor call the client. nil: nobody is.
	SettingsChanged func(*placement.Settings)
	// Steady is a clock that goes on while the machine sleeps: loans are counted on it. Default Now.
	Steady func() time.Time
	// Formats is the newest version of the formats that this build speaks. Default clusterversion.Newest.
	Formats clusterversion.Version
	// ElectionTimeout bounds one attempt of a call that should be answered at once. Default 1 s.
	ElectionTimeout time.Duration
	// Patience bounds a call with its retries. Default 5 s and two election timeouts.
	Patience time.Duration
	// OraclePatience bounds a question to the oracle with its retries. Default Patience.
	OraclePatience time.Duration
	// CallsMax bounds the oracle calls in flight. RequestsMax bounds the requests in flight for another
	// call to begin: under load those that come wait for a call to return, and share the next one.
	// Defaults 3 and 8.
	CallsMax, RequestsMax int
	// Now and After are the clock: After calls fn once, later, unless stop is called first.
	// Defaults time.Now and time.AfterFunc.
	Now   func() time.Time
	After func(d time.Duration, fn func()) (stop func())
	// Rand draws from [0,1) to spread retries. Default rand.Float64.
	Rand func() float64
}

const (
	// The pause before the next replica is asked grows between these, with jitter.
	retryPauseMin = 5 * time.Millisecond
	retryPauseMax = 250 * time.Millisecond
	// hopsMax is how many hints are followed without a pause.
	hopsMax = 3
	// queueMax bounds the oracle requests that wait for a call, the keep-alives, and who waits for a view.
	queueMax = 1 << 16
	// allocateMax bounds what one oracle call allocates.
	allocateMax = 1 << 20
)

func (c *Config) setDefaults() {
	if c.ElectionTimeout <= 0 {
		c.ElectionTimeout = time.Second
	}
	if c.Patience <= 0 {
		c.Patience = 5*time.Second + 2*c.ElectionTimeout
	}
	if c.OraclePatience <= 0 {
		c.OraclePatience = c.Patience
	}
	if c.CallsMax <= 0 {
		c.CallsMax = 3
	}
	if c.RequestsMax <= 0 {
		c.RequestsMax = 8
	}
	if c.Formats == 0 {
		c.Formats = clusterversion.Newest
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Steady == nil {
		c.Steady = c.Now
	}
	if c.After == nil {
		c.After = func(d time.Duration, fn func()) func() {
			t := time.AfterFunc(d, fn)
			return func() { t.Stop() }
		}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
}
