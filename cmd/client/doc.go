// Command client is the command line client of a cluster. What etcdctl has under the same name
// takes the same arguments and flags and prints the same; ranges shows what etcd does not have.
//
// It owns: arguments, flags, environment and output. It does not know how keys are routed: the
// commands on keys use shard/router/etcdshim, which sends them to the leaders where the cluster
// offers that, and the others an ordinary connection to the endpoints.
package main
