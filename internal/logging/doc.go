// Package logging writes structured log lines in the form that etcd's users parse: one JSON
// object a line with level, ts, caller and msg first, or the console form with the same parts.
//
// It owns the format and the outputs. It decides nothing about what is logged, and sets no
// global: the caller hands the *slog.Logger on.
package logging
