// Package headers holds the header revision of every kind of call to what etcd's linearizability model
// demands. Run makes calls of all kinds at once through every member and follows the whole history by a
// watch. Then it judges each answer:
//
//   - A call that wrote has the revision of its own change: at its header's revision the history has its
//     effects, all of them and nothing else.
//   - A call that read has a header at which the replayed history holds exactly what it was shown.
//   - Every other call has a point in the order between its call and its return: its header is not below
//     what had been acknowledged before it, nor at or above what was begun after it. What a member
//     answers from its own memory may be as old as that member.
//   - A lease is used at revisions above its grant's header alone.
//
// Where nobody else writes, every header is determined, and Run demands it.
//
// The package knows clientv3 and nothing of Pontoon: genuine etcd must pass.
package headers
