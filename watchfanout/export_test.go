package watchfanout

// runOne runs the next task on the caller; pools without workers are driven by it.
func (p *pool) runOne() bool {
	p.mu.Lock()
	task := p.popLocked()
	p.mu.Unlock()
	if task == nil {
		return false
	}
	task()
	return true
}
