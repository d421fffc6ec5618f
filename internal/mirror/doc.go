// Package mirror answers lists from memory, exactly as the ranges would, and asks none of them.
//
// A Set mirrors spans. Of each range that has keys of one it keeps a part: the state of these keys (package runs), which the range's feed keeps up, and the
// revision up to which the feed says that nothing changes any more. A part is built of a read of a replica at a revision from which on the feed lacks
// nothing, and of what the feed has told since. A gap, a generation that cannot be followed, or a change out of order make a part void, and it is built anew.
//
// A linearizable list asks the oracle what is current, after it has come; waits until every part of its span is closed there; and reads all of them at one
// revision, the lowest that is closed. No leader has to prove anything for that: what is closed stays so.
//
// It owns: which parts there are, builds, waits, the choice of a revision, the comparison with replicas, and how lists join that have to go to the ranges
// all the same. It does not own: who may read what, feeds and how they travel, reads of ranges. Whoever makes a Set calls Publish with the items of the feeds
// that it subscribes to, per range from one goroutine at a time, and keeps what watchfanout asks of a feeder.
//
// One lock guards all parts. Under it nothing is read or asked for; a list takes views of the states there, and reads them behind it.
package mirror
