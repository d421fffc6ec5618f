// Package config turns the command line, the environment and a configuration file into one
// checked Config for a node.
//
// It owns etcd's flag names and their fates: used, accepted with a warning because they have no
// meaning here, or refused because ignoring them would be unsafe. It opens no files but the
// configuration file, starts nothing and logs nothing: what an operator should know is handed
// out as Notices, since the logger itself is configured by these flags.
//
// The arguments go through package flag because etcd's do: -name and --name are the same, and what is said of a wrong
// one is word for word what scripts know. A parser of the usual kind with two dashes has neither. The rest is made by hand:
// of a flag that is given twice only the last counts, a flag wins over its variable, and a file replaces both.
//
// Invariant: a Config that Parse returns has passed Validate and is never changed afterwards.
package config
