package harness

import (
	"runtime"
	"sync"
)

// starter runs functions one after the other on a thread that stays until the program ends. The kernel ends a child with
// the thread that has started it (childAttr), and Go ends a thread with the goroutine that is locked to it, as those of a lab are:
// that may be one from which somebody has started a server before.
var starter = sync.OnceValue(func() chan<- func() {
	run := make(chan func())
	go func() {
		runtime.LockOSThread()
		for fn := range run {
			fn()
		}
	}()
	return run
})

// here starts a process on this machine.
func here(start func() error) (err error) {
	done := make(chan struct{})
	starter() <- func() {
		defer close(done)
		err = start()
	}
	<-done
	return err
}
