package unit

import "testing"

func TestOf(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "µs", "0 µs"},
		{7, "µs", "7 µs"},
		{999, "µs", "999 µs"},
		{999.7, "µs", "1 ms"},
		{12345, "µs", "12.3 ms"},
		{2.5, "s", "2.5 s"},
		{0.0042, "s", "4.2 ms"},
		{83.64, "µs/op", "83.6 µs/op"},
		{1023, "B", "0.999 KiB"},
		{662, "B/op", "662 B/op"},
		{137 << 20, "B", "137 MiB"},
		{1500000, "/s", "1.5M/s"},
		{14186, "/s", "14.2k/s"},
		{999.9, "", "1k"},
		{1.25, "×", "1.25 ×"},
		{0.00001, "", "1e-05"},
		{10, "", "10"},
	} {
		if got := Of(c.v, c.unit); got != c.want {
			t.Errorf("%v in %q: %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestSplit(t *testing.T) {
	for figure, want := range map[string][2]string{
		"ops/s":            {"ops", "/s"},
		"p50-µs":           {"p50", "µs"},
		"server-cpu-µs/op": {"server-cpu", "µs/op"},
		"disk-B/op":        {"disk", "B/op"},
		"peak-rss-B":       {"peak-rss", "B"},
		"conflicts":        {"conflicts", ""},
		"most-nodes":       {"most-nodes", ""},
		"B/s":              {"B/s", "B/s"},
		"events/cpu-s":     {"events", "/cpu-s"},
		"restart-s":        {"restart", "s"},
	} {
		if what, unit := Split(figure); what != want[0] || unit != want[1] {
			t.Errorf("%s: %q, %q", figure, what, unit)
		}
	}
}
