// Package link is how the feeds of many ranges travel from one process, which has them, to another: the rules of the two ends,
// without the wire between them.
//
// It owns what one end says and how the other understands it. A Source is the end that has feeds: a queue, bounded in bytes,
// from which frames are cut. A Sink is the end that wants them: it makes items of frames, and says which feeds it wants. A Head is
// how far a feed has come, so that who begins to listen hears that without anybody else noticing. Rank says who is to be asked
// for a range.
//
// It does not know who holds a range, nor how frames get to the other side: a driver at each end does, and the
// simulation of whole clusters is a third one. No clock, no lock, no goroutine.
//
// What holds on a link:
//
//  1. All that comes of a feed names its attachment, by a number that rises on the link. An attachment ends where its
//     range changes generation, where the feed lost something, where it is subscribed to again, and with the link; what
//     names another one than the feed's last is void.
//  2. A feed's items keep their order, and what is closed is told behind every event at or below it. There is no second way.
//  3. A source waits for nobody. Where more waits than fits, it drops what waits of those feeds that hold most, says so,
//     closes nothing of theirs, and attaches them again, with a gap, when there is room.
//  4. Feeds take turns: one of which much waits does not hold up the others.
//  5. Who listens to a range's feed listens to that of a child which is cut off it, from its first item: the child's is attached
//     behind the border.
//  6. A feed brings every key of its range, or those of the spans that its subscription has named, to which all that is closed speaks alike. Its
//     attachments name the subscription that they answer, and its items say which keys come.
//  7. A source says something every Interval. A link on which three have passed in silence is dead.
package link
