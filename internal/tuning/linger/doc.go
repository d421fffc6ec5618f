// Package linger lets writes wait for company where processors are short.
//
// A log entry costs a node and its peers as much as several of the requests in it: raft's steps, messages,
// a place in a synced write, the wakes between them. While processors are idle nobody misses that time, and
// a request is best sent on at once. Once goroutines wait for a processor, a request that waits for others
// to share its entry is answered sooner, as everybody's work becomes less; brokers call that wait a linger.
// Here its length follows the share of time in which the machine's processors are busy,
// as long as runnable goroutines wait for one and no limit holds the process, up to the time that an entry
// takes anyhow (docs/decisions/0021).
package linger
