package main

import (
	"fmt"
	"time"
)

// findings is what a run says, and what it finds wrong.
type findings struct {
	began time.Time
	wrong []string
}

// found notes something that is wrong.
func (f *findings) found(format string, args ...any) {
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
	f.say("WRONG: "+format, args...)
}

func (f *findings) say(format string, args ...any) {
	fmt.Printf("%7.1f s  %s\n", time.Since(f.began).Seconds(), fmt.Sprintf(format, args...))
}
