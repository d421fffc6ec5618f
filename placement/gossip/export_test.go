package gossip

// SetLoad tells the others this node's load.
func (g *Gossip) SetLoad(l Load) {
	g.mu.Lock()
	g.mu.seq++
	mine := loadOf{node: g.cfg.Node, boot: g.cfg.Boot, seq: g.mu.seq, load: l}
	news := g.mu.view.merge(state{loads: []loadOf{mine}})
	g.mu.Unlock()
	g.broadcast(news)
}
