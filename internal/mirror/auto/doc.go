// Package auto decides which ranges are mirrored by themselves: those of which more is listed than a mirror of them costs.
//
// A Choice counts the bytes that lists take of each range, over about the last minute. A range that is listed more than twice its size a minute is taken, as
// long as there is room for it, and kept until it is listed less than half its size: between the two it stays what it is, so that none comes and goes. How
// large a range is nobody knows before it has been read; so one that is taken may have as many bytes as would pay, and no more, and is given up where it has
// more. Where there is no room, what is listed most for its size goes first, and takes the place of others only where it is listed more than twice as much as
// they are together. What was given up is not tried again for a while, which grows while that goes on.
//
// It owns: which ranges, how many bytes each may have, and when one is tried again. It does not own: mirrors, feeds, the range map, locks. It is pure: no
// goroutine or clock. Whoever has a Choice tells it of lists, of what became of mirrors and of new maps, and asks it to Decide about once a second.
package auto
