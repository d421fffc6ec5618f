package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Values of Config.AutoCompactionMode.
const (
	// CompactPeriodic keeps the history of a while.
	CompactPeriodic = "periodic"
	// CompactRevisions keeps a number of revisions.
	CompactRevisions = "revision"
)

// compactionPeriodMin bounds how short the history may be that is kept: revisions are sampled ten times as often.
const compactionPeriodMin = 10 * time.Millisecond

func setCompactionMode(c *Config, v string) error {
	switch v {
	case CompactPeriodic, CompactRevisions:
		c.AutoCompactionMode = v
		return nil
	case "":
		return &rejectedError{errors.New("undefined auto-compaction-mode")}
	}
	return &rejectedError{fmt.Errorf("unknown auto-compaction-mode %q", v)}
}

// resolveCompaction reads the retention as its mode means it, by etcd's rules: a bare number is hours, or revisions; else it is a
// duration, of which the other mode takes the nanoseconds.
func (c *Config) resolveCompaction() error {
	text := c.AutoCompactionRetention
	n, err := strconv.ParseInt(text, 10, 64)
	bare := err == nil && n >= 0
	if !bare {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("error parsing CompactionRetention: %w", err)
		}
		n = int64(d)
	}
	switch {
	case n < 0:
		return fmt.Errorf("--auto-compaction-retention must be >=0 (set to %s)", text)
	case c.AutoCompactionMode == CompactRevisions:
		c.CompactKeep = n
		return nil
	case bare && n > math.MaxInt64/int64(time.Hour):
		return fmt.Errorf("--auto-compaction-retention must be less than 292 years (set to %s hours)", text)
	case bare:
		n *= int64(time.Hour)
	}
	if c.CompactPeriod = time.Duration(n); n != 0 && c.CompactPeriod < compactionPeriodMin {
		return fmt.Errorf("--auto-compaction-retention must be 0 or at least %v (set to %s)", compactionPeriodMin, text)
	}
	return nil
}
