// Package config turns the command line, the environment and a configuration file into one
// checked Config for a node.
//
// It owns etcd's flag names and their fates: used, accepted with a warning because they have no
// meaning here, or refused because ignoring them would be unsafe. It opens no files but the
// configuration file, starts nothing and logs nothing: what an operator should know is handed
// out as Notices, since the logger itself is configured by these flags.
//
// Invariant: a Config that Parse returns has passed Validate and is never changed afterwards.
package config
