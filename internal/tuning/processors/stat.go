package processors

import (
	"bytes"
	"strconv"
)

// ticks is the time of all processors since the machine started, in hundredths of a second.
type ticks struct{ all, idle uint64 }

// parseTicks takes the first line of /proc/stat (proc_stat(5)): "cpu", then user, nice, system, idle, iowait, irq,
// softirq, steal and, counted in user and nice already, guest and guest_nice.
func parseTicks(stat []byte) (t ticks, err error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	for i, field := range bytes.Fields(line) {
		if i == 0 || i > 8 {
			continue
		}
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return ticks{}, err
		}
		t.all += n
		if i == 4 || i == 5 {
			t.idle += n
		}
	}
	return t, nil
}
