// Package sim runs a whole cluster in one process under a virtual clock: the real hosts, stores,
// replicas, meta group, routers and watch hubs, over a network and on disks that are simulated,
// with clients that record what they ask and what they are told. Meanwhile alarms are raised and cleared, authentication is turned on and off, and users
// get rights and lose them; in three of ten worlds the oracle asks a quorum for each answer, and clocks jump. In six of ten there are two gateways, the second behind the first, which
// serve clients and watchers like any node, may answer lists from memory, and are hurt like a node.
//
// One goroutine, the loop of a world, owns everything that is random: it takes one event after
// another from a queue ordered by virtual time, and after each waits until the goroutines that it
// woke have come to rest (testing/synctest). What they ask for meanwhile is put into an inbox,
// sorted, and becomes events in turn; so one seed decides everything, and a failure is replayed by
// the command that it prints. That holds where there are no gateways. With gateways about one seed of 800 steps in six has two or three outcomes, all of them
// ones that may be: what a mirror's own goroutines do in an instant in which the loop does something, too, is not ordered by it. Replay such a seed several times.
//
// What is checked while it runs: one leader per term, applied never above committed, replicas
// with the same hash at the same index, feeds in order, revisions in real-time order. What is
// checked at the end: the history, replayed in revision order against a naive model of etcd, which
// settles what was ambiguous; every read against the state at its revision; every watcher against
// the history; that the cluster serves again, and that no key has outlived its lease. Of settings: nothing that makes the store larger was allocated
// between the acknowledgement of an alarm and the request to clear it; no write, no read and no event of a watch used a right that was gone; and nobody was refused who
// had the right all the time; all processes that go by settings of a version go by the same. Where nothing fails revisions are dense, whoever is refused.
package sim
