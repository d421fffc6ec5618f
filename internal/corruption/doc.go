// Package corruption compares what the replicas of a range hold, and says which of them differ.
//
// It owns: when that is done, what the answers mean (judge, which is pure), and what follows. Who is outvoted is told
// to throw its state away and to get the others'; where nobody has a majority an alarm is raised, since nobody knows who
// is right.
//
// It does not own: how a replica is asked, how a state is thrown away, and the alarm.
//
// Invariants: nobody is convicted but by a majority of the range's voters that agree, all of them hashed at one revision and one
// compaction. One range is compared at a time.
package corruption
