//go:build !linux

package tuning

import "time"

// Batch does nothing: this system has no such class.
func Batch() error { return nil }

// Relax does nothing: this system has no such setting.
func Relax(time.Duration) error { return nil }
