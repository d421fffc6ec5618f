// Behind stands in etcd's place, as the node does, with a gateway in front: it starts the binary node that lies beside it with the arguments that it was
// given, on a client port that nobody knows, and a gateway on the one that was asked for. So etcd's own tests speak to a gateway.
//
// What is logged is the gateway's; the node's goes to a file beside its data directory. A signal is passed on to the gateway first, and what ends
// by itself ends the other.
package main
