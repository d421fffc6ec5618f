// Command bench measures stores that speak etcd v3, side by side. `bench help` says how.
//
// It owns flags, progress, output and exit codes; package bench owns what is measured and how.
package main
