package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	errParse = errors.New("parse error")
	errRange = errors.New("value out of range")
)

// etcd's gates, with whether they are on by default.
var featureGates = map[string]bool{
	"AllAlpha": false, "AllBeta": false, "CompactHashCheck": false, "FastLeaseKeepAlive": true,
	"InitialCorruptCheck": false, "LeaseCheckpoint": false, "LeaseCheckpointPersist": false,
	"PriorityRequest": false, "SetMemberLocalAddr": false, "StopGRPCServiceOnDefrag": false,
	"TxnModeWriteWithSharedBuffer": true,
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func setFeatureGates(c *Config, v string) error {
	idle, set := "", map[string]bool{}
	for _, pair := range strings.Split(v, ",") {
		if pair == "" {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok {
			return fmt.Errorf("missing bool value for %s", name)
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
		if _, known := featureGates[name]; !known {
			return fmt.Errorf("unrecognized feature gate: %s", name)
		}
		if gates[name] == nil && name != allAlpha {
			idle = v
		}
		set[name] = on
	}
	for name, field := range gates {
		on, told := set[name]
		if !told {
			on = set[allAlpha] // they are all of etcd's alpha
		}
		*field(c) = on
	}
	if idle != "" {
		c.warn("the flag is accepted for etcd's sake, and not all gates have an effect here", "flag", "--feature-gates", "value", idle)
	}
	return nil
}

const allAlpha = "AllAlpha"

// gates are those that do something here.
var gates = map[string]func(c *Config) *bool{
	"CompactHashCheck":    func(c *Config) *bool { return &c.CompactHashCheck },
	"InitialCorruptCheck": func(c *Config) *bool { return &c.InitialCorruptCheck },
}

func setCompactHashCheck(c *Config, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		return err
	}
	if d <= 0 {
		return &rejectedError{fmt.Errorf("--compact-hash-check-time must be >0 (set to %v)", d)}
	}
	c.CompactHashCheckTime = d
	return nil
}

func setLogger(_ *Config, v string) error {
	if v != "zap" {
		return &rejectedError{fmt.Errorf("unknown logger option %q", v)}
	}
	return nil
}

// setSplitKeys reads keys that may hold any byte: Go's escapes stand for what cannot be typed.
func setSplitKeys(c *Config, v string) error {
	var keys [][]byte
	for _, part := range strings.Split(v, ",") {
		if part == "" {
			continue
		}
		key := part
		if !strings.HasPrefix(part, `"`) && strings.Contains(part, `\`) {
			part = `"` + strings.ReplaceAll(part, `"`, `\"`) + `"`
		}
		if strings.HasPrefix(part, `"`) {
			var err error
			if key, err = strconv.Unquote(part); err != nil {
				return fmt.Errorf("split key %s: %w", part, err)
			}
		}
		if key == "" {
			return errors.New("a split key must not be empty")
		}
		keys = append(keys, []byte(key))
	}
	slices.SortFunc(keys, bytes.Compare)
	for i := 1; i < len(keys); i++ {
		if bytes.Equal(keys[i-1], keys[i]) {
			return fmt.Errorf("split key %q is given twice", keys[i])
		}
	}
	c.InitialSplitKeys = keys
	return nil
}

func setRanges(c *Config, v string) error {
	n, err := strconv.ParseUint(v, 0, 31)
	if err != nil || n < 1 || n > rangesMax {
		return fmt.Errorf("must be between 1 and %d", rangesMax)
	}
	c.InitialRanges = int(n)
	return nil
}

func setReplication(c *Config, v string) error {
	n, err := strconv.ParseUint(v, 0, 31)
	if err != nil || n%2 == 0 || n > 7 {
		return errors.New("must be 1, 3, 5 or 7")
	}
	c.ReplicationFactor = int(n)
	return nil
}

func setCacheSize(c *Config, v string) error {
	n, err := parseBytes(v)
	c.CacheBytes = n
	return err
}

func setRingSize(c *Config, v string) error {
	n, err := parseBytes(v)
	c.RingBytes = n
	return err
}

func setDeliveryMemory(c *Config, v string) (err error) {
	c.DeliveryMemory, err = parseMemory(v)
	if m := c.DeliveryMemory; err == nil && m.Percent == 0 && m.Bytes < DeliveryMemoryMin {
		err = fmt.Errorf("%q is too little: what waits has 16MiB at least", v)
	}
	return err
}

// parseMemory takes bytes, or a share.
func parseMemory(v string) (Memory, error) {
	if share, ok := strings.CutSuffix(v, "%"); ok {
		n, err := strconv.ParseUint(share, 10, 8)
		if err != nil || n < 1 || n > 100 {
			return Memory{}, fmt.Errorf("%q is no share between 1%% and 100%%", v)
		}
		return Memory{Percent: int(n)}, nil
	}
	n, err := parseBytes(v)
	return Memory{Bytes: n}, err
}

// DeliveryMemoryMin is what may wait for watchers at least.
const DeliveryMemoryMin = 16 << 20

// Memory is so many bytes, or, where Percent is not 0, a share of what the process may use.
type Memory struct {
	Bytes   int64
	Percent int
}

// Of is how much that is where the process may use so much; 0: nobody knows, and it is without.
func (m Memory) Of(limit, without int64) int64 {
	switch {
	case m.Percent == 0:
		return m.Bytes
	case limit == 0:
		return without
	default:
		return max(limit/100*int64(m.Percent), DeliveryMemoryMin)
	}
}

func setSnapshotRate(c *Config, v string) error {
	n, err := parseBytes(v)
	if err == nil && (n < snapshotRateMin || n > snapshotRateMax) {
		err = fmt.Errorf("%q is not between 1MiB and 1024GiB a second", v)
	}
	c.SnapshotRate = n
	return err
}

func setRequestsMax(c *Config, v string) error {
	n, err := strconv.ParseUint(v, 0, 31)
	if err != nil || n < 1 {
		return errors.New("must be 1 or more")
	}
	c.RequestsMax = uint(n)
	return nil
}

func setRequestsMaxBytes(c *Config, v string) error {
	n, err := parseBytes(v)
	if err == nil && n < requestsBytesMin {
		err = fmt.Errorf("%q is too little: requests have 1MiB at least", v)
	}
	c.RequestsMaxBytes = n
	return err
}

func setListsMaxBytes(c *Config, v string) error {
	n, err := parseBytes(v)
	if err == nil && n < listsBytesMin {
		err = fmt.Errorf("%q is too little: lists have 16MiB at least", v)
	}
	c.ListsMaxBytes = n
	return err
}

// listsBytesMin is what lists may take at least.
const listsBytesMin = 16 << 20

// requestsBytesMin is what requests may take at least.
const requestsBytesMin = 1 << 20

// Bounds of the rate: with less a snapshot would count as one that has stalled.
const (
	snapshotRateMin = 1 << 20
	snapshotRateMax = 1 << 40
)

func setRangeMaxBytes(c *Config, v string) error {
	n, err := parseBytes(v)
	if err == nil && n < rangeBytesMin {
		err = fmt.Errorf("%q is too little: a range has 1MiB at least", v)
	}
	c.RangeMaxBytes = n
	return err
}

// parseBytes reads "1048576" or "1MiB".
func parseBytes(v string) (int64, error) {
	num, shift := v, 0
	for unit, s := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if strings.HasSuffix(v, unit) {
			num, shift = strings.TrimSuffix(v, unit), s
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is not a size: bytes, or a number with KiB, MiB or GiB", v)
	}
	return n << shift, nil
}
