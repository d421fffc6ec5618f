// Package fifo is a queue in a slice: what is taken leaves room that is used again.
package fifo
