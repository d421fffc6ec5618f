package watchfanout

// load is what of a stream waits for its reader, all watches together. Its stream's lock guards it.
type load struct {
	events, bytes int
	told          int  // of bytes, to the stream's group
	shed          bool // what waited was given up, and the reader has not come since
}

// add says that so much more waits.
func (l *load) add(events, bytes int) {
	l.events += events
	l.bytes += bytes
}

// tell brings the stream's group up to date, and reports whether that holds too much.
func (l *load) tell(o *StreamOptions) (over bool) {
	over = o.Group.add(l.bytes - l.told)
	l.told = l.bytes
	return over
}

// full reports whether no more may be queued of a watch of which so much is.
func (l *load) full(o *StreamOptions, b *backlog) bool {
	return l.shed || int(b.queued) >= o.WatcherEvents || int(b.queuedBytes) >= o.WatcherBytes ||
		l.events >= o.StreamEvents || l.bytes >= o.StreamBytes
}

// low reports whether a watch that was out of room goes on: at half of the bounds.
func (l *load) low(o *StreamOptions, b *backlog) bool {
	return !l.shed && int(b.queued) <= o.WatcherEvents/2 && int(b.queuedBytes) <= o.WatcherBytes/2 &&
		l.events <= o.StreamEvents/2 && l.bytes <= o.StreamBytes/2
}
