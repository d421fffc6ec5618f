package unit

import (
	"fmt"
	"math"
	"strings"
)

// Micros writes microseconds as a time.
func Micros(us float64) string {
	switch abs := math.Abs(us); {
	case abs < 999.5:
		return Digits(us) + " µs"
	case abs < 999.5e3:
		return Digits(us/1e3) + " ms"
	default:
		return Digits(us/1e6) + " s"
	}
}

// Bytes writes a number of bytes.
func Bytes(v float64) string {
	return scaled(v, 1024, []string{" B", " KiB", " MiB", " GiB", " TiB"})
}

// Count writes a number of things.
func Count(v float64) string {
	return scaled(v, 1000, []string{"", "k", "M", "G"})
}

func scaled(v, step float64, units []string) string {
	i := 0
	for ; math.Abs(v) >= 999.5 && i < len(units)-1; i++ {
		v /= step
	}
	return Digits(v) + units[i]
}

// Digits writes a number with three digits that mean something.
func Digits(v float64) string {
	if abs := math.Abs(v); abs >= 99.95 || v == 0 {
		return fmt.Sprintf("%.0f", v)
	}
	s := fmt.Sprintf("%.3g", v)
	if strings.Contains(s, "e") {
		return s
	}
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// Of writes a value of a unit.
func Of(v float64, unit string) string {
	base, per, found := strings.Cut(unit, "/")
	if found {
		per = "/" + per
	}
	switch base {
	case "µs":
		return Micros(v) + per
	case "s":
		if v == 0 {
			return "0 s" + per
		}
		return Micros(v*1e6) + per
	case "B":
		return Bytes(v) + per
	case "×":
		return Digits(v) + " ×"
	}
	return Count(v) + per
}

// Split takes a figure's name apart: what it is, and its unit.
func Split(figure string) (what, unit string) {
	head, per, found := strings.Cut(figure, "/")
	if found {
		per = "/" + per
	}
	if known(head) { // "B/s"
		return figure, figure
	}
	if at := strings.LastIndex(head, "-"); at >= 0 && known(head[at+1:]) {
		return head[:at], head[at+1:] + per
	}
	return head, per
}

func known(unit string) bool { return unit == "µs" || unit == "s" || unit == "B" }
