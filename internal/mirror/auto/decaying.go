package auto

import (
	"math"
	"time"
)

// decaying is a sum of which a part is forgotten all the time: of what comes evenly it is as much as comes in the span of time that it is asked for.
type decaying struct {
	value float64
	when  time.Time
}

// at is the sum at a time.
func (d *decaying) at(span time.Duration, now time.Time) float64 {
	if d.value == 0 {
		return 0
	}
	passed := max(0, now.Sub(d.when))
	return d.value * math.Exp(-float64(passed)/float64(span))
}

func (d *decaying) add(n float64, span time.Duration, now time.Time) {
	d.value = d.at(span, now) + n
	d.when = now
}
