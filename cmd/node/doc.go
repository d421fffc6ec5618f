// Command node runs one node of a Pontoon cluster. It takes the place of the etcd binary: the
// same flags, variables, log lines, signals and exit codes.
//
// It owns the process: listeners, the data directory's lock, logging, signals. Everything else is
// internal/server's. Exit code 0 after a clean stop, 1 when the node cannot run, 2 when the
// command line cannot be read.
package main
