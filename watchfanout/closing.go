package watchfanout

// closing is about lanes that must be closed at some revision for somebody to go on. It asks Config.Closer
// for the highest, once in a round, and again at every tick as long as one waits.
type closing struct {
	cfg     *Config
	in      *inbox
	waiting map[*lane]struct{} // lanes that require something
	highest int64              // what one of them has required since the last tick
	asked   int64              // what the closer was asked for since then
	ticking bool               // a msgTick is on its way
}

func (c *closing) init(cfg *Config, in *inbox) {
	c.cfg, c.in = cfg, in
	c.waiting = make(map[*lane]struct{})
}

// require notes that the lane must be closed at rev.
func (c *closing) require(l *lane, rev int64) {
	if rev > l.m.released && rev > l.required {
		l.required = rev
		c.highest = max(c.highest, rev)
		c.waiting[l] = struct{}{}
	}
}

// released ends what a lane required if that has been released.
func (c *closing) released(l *lane) {
	if l.required > 0 && l.required <= l.m.released {
		c.forget(l)
	}
}

// forget ends what a lane required.
func (c *closing) forget(l *lane) {
	l.required = 0
	delete(c.waiting, l)
}

// onTick lets the round ask again for what is still not closed.
func (c *closing) onTick() {
	c.ticking, c.highest, c.asked = false, 0, 0
	for l := range c.waiting {
		c.highest = max(c.highest, l.required)
	}
}

// ask tells the closer what is required. Ticks go on as long as a lane waits, or tick says that somebody
// else waits for one.
func (c *closing) ask(tick bool) {
	if len(c.waiting) == 0 && !tick {
		return
	}
	if c.highest > c.asked {
		c.asked = c.highest
		c.cfg.Closer.AskClose(c.highest)
	}
	if !c.ticking {
		c.ticking = true
		c.cfg.AfterFunc(c.cfg.RetryDelay, func() { c.in.post(message{kind: msgTick}) })
	}
}
