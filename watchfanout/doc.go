// Package watchfanout delivers committed changes to watchers: one hub per node, one
// upstream feed per range, any number of watchers.
//
// It owns the merging of feeds into one revision order, the positions and queues of
// watchers, and the way back from history for those that fell behind. It does not know
// how changes are stored or how they travel: whoever builds the hub calls Publish for
// each range and implements History and Closer.
//
// What the feeder promises: items of one range arrive in order, an item holds whole
// revisions, ascending, and once an item says Closed = c, everything of that range at or
// below c has been published in it or before it. Where that chain is broken (a snapshot was
// installed, a remote feed was attached anew), the next item has Gap set. Each change of a range's generation begins
// with an item of its own. If the range was cut, the last item before it has a Border, and the child's feed begins behind
// that; if it was merged with another, it has Gap; if neither, the keys are the same.
//
// A feed need not bring every key of its range: its items then say which (FeedItem.Cover), and Config.Widen hears where somebody watches others. A watch is live only where
// the feeds of its ranges bring its whole span, and above the revision from which on they do (coverage.go).
//
// What a watcher gets, as invariants:
//
//  1. Events in revision order over all its spans, all events of a revision in one batch,
//     none missing, none twice. An event is handed out once every range of the watcher is
//     closed at or above its revision.
//  2. A batch without events names a revision at or below which everything was handed out, and none
//     below that of an event or a marker that the stream has delivered, to whichever watcher.
//  3. A watcher that starts below a compaction acknowledged before it was asked for gets no
//     event and is told so: the hub asks whoever decides, for neither feed nor history need know.
//  4. A watcher that is slow costs only itself: its queue is bounded, and beyond the bound
//     it is taken out of the live path and reads history from its own position. Where all queues
//     together hold too much, those that have waited for longest are given up: a position is what
//     is left of their watchers.
//
// The map that a hub goes by is Config.Map's, but for ranges whose feeds have told more, or are still to tell of what has
// become of them (view.go). At a border every lane of the range is cut in place (lanecut.go): what is live stays live, and
// no history is read. Where a feed cannot tell, because of a gap or a generation that nobody has heard of, the watches
// over the range change lanes at their own positions, and read what lies between.
//
// Inside, a hub has a table of feeds and runs a few dispatchers. Each dispatcher owns its streams,
// watchers and lanes alone and hears from the rest only through its inbox. A lane is the set of ranges
// that some watchers have in common, with one merger. A dispatcher's parts are types of their own: the
// roster of watches, the table of lanes and ports, catching up, progress, closing, the readers to wake.
// Each feed has a ring of what it has brought lately, from which watches that come back read in place of history. A ring begins anew where its feed does, so
// that it knows its holes.
//
// The merger, the ring, the span index, the filter and the position rules are pure: no goroutine, no clock, no lock.
//
// Locks are taken in the order Hub.mapMu, feedTable.mu, feed.mu, ringTable.mu, a pool's or
// current.mu, a stream's, inbox.mu.
package watchfanout
