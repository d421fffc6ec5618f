// Package fifo has queues in slices: what is taken leaves room that is used again.
package fifo
