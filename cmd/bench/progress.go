package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"pontoon/bench"
)

// progress shows what a run does: one line that changes on a terminal, lines that stay elsewhere.
type progress struct {
	out      io.Writer
	terminal bool

	mu   sync.Mutex
	last time.Duration // of the point that was shown last, where lines stay
	open bool          // a changing line is on the screen
}

// pointsEvery is how often a point is shown where lines stay.
const pointsEvery = 5 * time.Second

func newProgress(out io.Writer, terminal bool) *progress {
	return &progress{out: out, terminal: terminal}
}

func (p *progress) show(m bench.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := fmt.Sprintf("%s #%d", m.Target, m.Pair+1)
	if m.Phase != "" {
		p.last = 0
		p.line(who + ": " + m.Phase)
		return
	}
	at := time.Duration(m.Point.Second * float64(time.Second))
	if !p.terminal && at-p.last < pointsEvery-pointsEvery/10 {
		return
	}
	p.last = at
	text := fmt.Sprintf("%s: %3.0f s", who, m.Point.Second)
	if m.Of > 0 {
		text += fmt.Sprintf(" of %.0f", m.Of.Seconds())
	}
	text += fmt.Sprintf("  %8.0f ops/s  p50 %s  p99 %s", m.Point.Rate, micros(m.Point.P50), micros(m.Point.P99))
	if m.Point.Failed > 0 {
		text += fmt.Sprintf("  FAILED: %d", m.Point.Failed)
	}
	p.line(text)
}

func (p *progress) line(text string) {
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		p.open = true
		return
	}
	fmt.Fprintln(p.out, text)
}

// end leaves a terminal with an empty line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.open = false
	}
}
