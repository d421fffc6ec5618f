//go:build !linux

package cpusched

// Batch does nothing: this system has no such class.
func Batch() error { return nil }
