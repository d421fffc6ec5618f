package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Spec is everything that decides what a workload does. Which fields a workload looks at is in its
// Definition; the others keep their zero values.
type Spec struct {
	Workload string `json:"workload"`
	Seed     uint64 `json:"seed"`

	Clients    int           `json:"clients"`
	Conns      int           `json:"conns"`
	Rate       float64       `json:"rate,omitempty"` // 0: closed loop
	Duration   time.Duration `json:"duration_ns,omitempty"`
	WarmUp     time.Duration `json:"warm_up_ns,omitempty"`
	Operations int64         `json:"operations,omitempty"`
	Timeout    time.Duration `json:"timeout_ns,omitempty"`

	Prefix      string  `json:"prefix,omitempty"`
	KeySize     int     `json:"key_size,omitempty"`
	ValueSize   int     `json:"value_size,omitempty"`
	KeySpace    int     `json:"key_space,omitempty"`
	Sequential  bool    `json:"sequential,omitempty"`
	Consistency string  `json:"consistency,omitempty"`
	PerRange    int     `json:"keys_per_range,omitempty"`
	ReadShare   float64 `json:"read_share,omitempty"`
	Way         string  `json:"way,omitempty"`
	Page        int     `json:"page,omitempty"`
	Readers     int     `json:"readers,omitempty"`

	Watchers   int `json:"watchers,omitempty"`
	Streams    int `json:"streams,omitempty"`
	Blocks     int `json:"blocks,omitempty"`
	Reconnects int `json:"reconnects,omitempty"`

	Settle time.Duration `json:"settle_ns,omitempty"`

	PutRate     float64       `json:"put_rate,omitempty"`
	Calm        time.Duration `json:"calm_ns,omitempty"`
	DrainPeriod time.Duration `json:"drain_period_ns,omitempty"`

	Rounds   int  `json:"rounds,omitempty"`
	Gateways int  `json:"gateways,omitempty"`
	Mirrored bool `json:"mirrored,omitempty"`

	Users int `json:"users,omitempty"`

	Leases int           `json:"leases,omitempty"`
	TTL    time.Duration `json:"ttl_ns,omitempty"`

	SizeMiB int `json:"size_mib,omitempty"`
	Steps   int `json:"steps,omitempty"`
	Batch   int `json:"batch,omitempty"`

	K8sNodes    int           `json:"k8s_nodes,omitempty"`
	K8sNodesMax int           `json:"k8s_nodes_max,omitempty"`
	PodsPerNode int           `json:"pods_per_node,omitempty"`
	PodChurn    float64       `json:"pod_churn,omitempty"`
	Step        time.Duration `json:"step_ns,omitempty"`
	Limit       time.Duration `json:"limit_ns,omitempty"`
}

// Limits of a Spec: mistakes beyond them would fill memory or disk.
const (
	clientsMax   = 100_000
	connsMax     = 10_000
	keySizeMax   = 1024
	valueSizeMax = 1 << 20
	keySpaceMax  = 50_000_000
	valueSizeMin = 8 // a value begins with the number of the operation that wrote it
)

// Validate tells what is wrong with a spec.
func (s Spec) Validate() error {
	d, ok := Lookup(s.Workload)
	if !ok {
		return fmt.Errorf("there is no workload %q", s.Workload)
	}
	for _, c := range []struct {
		wrong bool
		what  string
	}{
		{s.Clients < 1 || s.Clients > clientsMax, fmt.Sprintf("--clients must be between 1 and %d", clientsMax)},
		{s.Conns < 1 || s.Conns > connsMax, fmt.Sprintf("--conns must be between 1 and %d", connsMax)},
		{s.Conns > s.Clients, "--conns must not exceed --clients: a connection without a client does nothing"},
		{s.Rate < 0, "--rate must not be negative"},
		{s.Duration < 0 || s.WarmUp < 0 || s.Timeout < 0, "times must not be negative"},
		{s.Operations < 0, "--total must not be negative"},
		{s.Duration == 0 && s.Operations == 0 && s.Rounds == 0, "one of --duration and --total must be given"},
		{s.KeySpace < 1 || s.KeySpace > keySpaceMax, fmt.Sprintf("--key-space-size must be between 1 and %d", keySpaceMax)},
		{s.KeySize < len(strconv.Itoa(s.KeySpace-1)) || s.KeySize > keySizeMax,
			fmt.Sprintf("--key-size must be between 1 and %d, and %d keys need %d", keySizeMax, s.KeySpace, len(strconv.Itoa(s.KeySpace-1)))},
		{s.ValueSize < valueSizeMin || s.ValueSize > valueSizeMax,
			fmt.Sprintf("--val-size must be between %d (a value names the operation that wrote it) and %d", valueSizeMin, valueSizeMax)},
	} {
		if c.wrong {
			return fmt.Errorf("%s", c.what)
		}
	}
	for _, o := range d.Options {
		if v, ok := o.Field(&s).(*string); ok && len(o.Values) > 0 && !slices.Contains(o.Values, *v) {
			return fmt.Errorf("--%s must be one of %v", o.Name, o.Values)
		}
	}
	if d.check == nil {
		return nil
	}
	return d.check(s)
}

// serializable tells whether reads may be stale.
func (s Spec) serializable() bool { return s.Consistency == Serializable }

// Name identifies what was measured, whatever it was measured on: results of equal names may be
// compared. It has the form of a benchmark's name in Go.
func (s Spec) Name() string {
	parts := []string{strings.ToUpper(s.Workload[:1]) + s.Workload[1:]}
	add := func(key string, v any) { parts = append(parts, fmt.Sprintf("%s=%v", key, v)) }
	add("clients", s.Clients)
	add("conns", s.Conns)
	if s.Rate > 0 {
		add("rate", s.Rate)
	}
	if d, ok := Lookup(s.Workload); ok {
		for _, o := range d.Options {
			if o.In == nil {
				continue
			}
			if v, set := o.In(s); set {
				add(o.Name, v)
			}
		}
	}
	return strings.Join(parts, "/")
}
