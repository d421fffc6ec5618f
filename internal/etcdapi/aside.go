package etcdapi

import (
	"fmt"
	"runtime/debug"
)

// aside calls f on a goroutine of its own and waits for it. A stack that has grown hardly ever shrinks again: what goes deep, and is done once, is called aside
// by the goroutines that wait for as long as a client keeps a stream open. A panic comes to the caller, with where it arose.
func aside(f func()) {
	done := make(chan any)
	go func() {
		var failed any
		defer func() {
			if p := recover(); p != nil {
				failed = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			done <- failed
		}()
		f()
	}()
	if failed := <-done; failed != nil {
		panic(failed)
	}
}
