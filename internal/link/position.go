package link

// Counts are how often feeds have begun, and were lost, at a Sink, and the bytes of the items that have come.
type Counts struct{ Whole, Gap, Lost, Bytes uint64 }

// Counts returns what has happened since it was called last.
func (k *Sink) Counts() Counts {
	c := k.counts
	k.counts = Counts{}
	return c
}

// Position is how far the feeds of a Sink have come.
type Position struct {
	Attached int   // feeds that flow
	Narrow   int   // of these, that do not bring every key
	Closed   int64 // by all of them
}

// Position looks at all feeds.
func (k *Sink) Position() (p Position) {
	for _, f := range k.feeds {
		if f.number == 0 {
			continue
		}
		if f.cover != nil {
			p.Narrow++
		}
		if p.Attached++; p.Attached == 1 || f.closed < p.Closed {
			p.Closed = f.closed
		}
	}
	return p
}
