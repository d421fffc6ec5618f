package auto

// The bounds.
const (
	RangesMax = rangesMax
	TakenMax  = takenMax
)

// Remembered is how many ranges lists are counted of.
func (c *Choice) Remembered() int { return len(c.ranges) }
