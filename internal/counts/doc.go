// Package counts remembers how many keys spans had at a revision.
//
// A client that lists page by page asks at one revision, each time how many keys there are from right behind
// the last one on. What a revision holds does not change, so nothing in here ever becomes wrong; it is for the
// caller to put in only what is final, and to refuse what has been compacted away.
package counts
