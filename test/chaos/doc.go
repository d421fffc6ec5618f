// Command chaos hurts a cluster of real processes while clients use it, and judges afterwards what
// they were told.
//
//	chaos -fault kill,partition -duration 5m -nodes 3
//
// The clients, what they do and the judges are those of package history; the processes run on
// loopback or, for faults of networks and disks, on hosts of package lab. In each round one fault
// is injected, held and healed. While a majority is up, every range must take writes; the time until
// it does is measured after the injection and after the healing. A node that ends without being
// made to is an error. In the end all judges must be content, HashKV must be equal on all members,
// and no key of a lease may be left.
//
// With -secure all ports speak TLS with certificates of both sides, and authentication is on: a user's right comes and goes all the while, and the
// history is held against the times in which it was gone, and in which the alarm NOSPACE was raised.
//
// The exit code is 1 when anything is wrong; the history and the nodes' logs are kept then. It is 2
// when a fault that was asked for is not possible here.
package main
