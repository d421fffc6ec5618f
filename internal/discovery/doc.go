// Package discovery finds the members of a new cluster where no flag names them: in the SRV records of a domain (Records), or with the help of
// another cluster, in which they register (Join). It speaks etcd's protocols, so that nodes find one another by whatever has been set up for etcd.
//
// It returns what --initial-cluster would have said. It knows nothing of data: whoever has some does not ask. Every wait ends with its context.
package discovery
