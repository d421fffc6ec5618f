// Package history records what clients ask an etcd-compatible cluster and what they are told, and
// judges afterwards whether one etcd could have said all that.
//
// It owns three things. Clients: a Recorder takes every request with its answer and the times
// around it, a Load makes requests of all kinds, and a History goes to and comes from a file of
// JSON lines. An exact judge, Check: every effective write carries its revision, so the order is
// known; the judge replays it and holds every answer, every watch and real time against it, in
// time linear in the history. A second opinion, Linearizable: porcupine searches for an order of
// its own, key by key, without believing any revision's place.
//
// An outcome that the client does not know (a timeout, a connection lost) may have happened at any
// time after the call, or never. Values are unique, so what did happen names its author. Revisions
// may have gaps. What a judge cannot decide it reports as such; it never passes for fine.
//
// The package knows clientv3 and nothing of Pontoon: the same load against etcd itself must pass.
package history
