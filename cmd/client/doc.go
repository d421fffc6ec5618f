// Command client is the command line client of a cluster. A command that etcdctl has under the same name
// takes the same arguments and flags and prints the same. The commands ranges and ops have no counterpart there.
//
// It owns: arguments, flags, environment and output. It does not know how keys are routed. Commands on keys
// use shard/router/etcdshim, which sends them to the leaders where the cluster offers that. The others use an
// ordinary connection to the endpoints.
package main
