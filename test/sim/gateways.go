package sim

import (
	"fmt"
	"slices"

	"pontoon/shard"
)

// firstGateway is the id of the first gateway.
const firstGateway = shard.NodeID(1001)

// beginGateways starts two processes that hold nothing, of which the second has its feeds from the first, in some runs. They serve clients and watchers like any node, and are
// hurt like one.
func (w *world) beginGateways() error {
	if w.roll(0.4) {
		return nil
	}
	for i := range 2 {
		n := newNode(w, firstGateway+shard.NodeID(i))
		n.no, n.front, n.mirrors, n.forgets = 50+i, true, w.roll(0.8), w.roll(0.5)
		if n.mirrors && w.roll(0.5) {
			n.auto = w.pick(300, 1000, 10_000)
		}
		if i > 0 {
			n.above = w.gateways[i-1]
		}
		w.gateways = append(w.gateways, n)
		w.net.add(n.id)
		if err := n.boot(); err != nil {
			return err
		}
	}
	return nil
}

// processes are the nodes and the gateways.
func (w *world) processes() []*node {
	return slices.Concat(w.nodes, w.gateways)
}

// judgeMirrors counts what mirrors have done, and fails where a comparison has found a difference.
func (l *life) judgeMirrors() {
	m := l.fans.mirrors
	if m == nil {
		return
	}
	st := m.end()
	l.n.w.post(fmt.Sprintf("mirrors of %d", l.n.id), 0, func() {
		w := l.n.w
		w.stats.Mirrored, w.stats.Audited, w.stats.Void = w.stats.Mirrored+int(st.HitsTotal), w.stats.Audited+int(st.AuditsTotal), w.stats.Void+int(st.VoidTotal)
		w.stats.Taken, w.stats.GivenUp = w.stats.Taken+int(st.AutoTakenTotal), w.stats.GivenUp+int(st.AutoDroppedTotal)
		if st.WrongTotal > 0 {
			w.failf("gateway %d: %d of %d comparisons of what it mirrors with replicas have found a difference", l.n.id, st.WrongTotal, st.AuditsTotal)
		}
	})
}
