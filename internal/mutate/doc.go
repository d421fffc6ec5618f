// Package mutate takes rules out of the protocol, one at a time, so that the checks can show that
// they notice. It does so only in builds with the tag "mutate"; in all others On is false for the
// compiler already, and nothing of it is left.
package mutate
