package processors

import (
	"bytes"
	"strconv"

	"pontoon/internal/tuning/cgroup"
)

// limit is how many processors' time a group may use; 0: as much as there is.
func limit(g cgroup.Group) float64 {
	var quota, period []byte
	if g.V2 { // both in one file, "max" for no quota
		if fields := bytes.Fields(g.File("cpu.max")); len(fields) == 2 {
			quota, period = fields[0], fields[1]
		}
	} else { // -1 for none
		quota, period = g.File("cpu.cfs_quota_us"), g.File("cpu.cfs_period_us")
	}
	q, okQuota := number(quota)
	p, okPeriod := number(period)
	if !okQuota || !okPeriod {
		return 0
	}
	return float64(q) / float64(p)
}

// number is a count of microseconds above 0.
func number(data []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n, err == nil && n > 0
}
