package meta

// oracleTicks is how many ticks make one look at the oracle's load.
const oracleTicks = 10

// Tick looks after what time brings: expiry, retries, the oracle's step, the snapshot file. The
// driver calls it, unless Config.TickInterval is negative.
func (m *Meta) Tick() {
	now := m.cfg.Now()
	m.mu.Lock()
	m.mu.ticks++
	if m.mu.ownTerm != 0 && m.mu.ticks%oracleTicks == 0 {
		m.mu.oracle.Tick()
	}
	m.progress()
	expire := false
	if m.mu.begun {
		m.retryEnds(now)
		if !m.mu.compact.due.After(now) {
			m.compactionLogged()
		}
		next, ok := m.mu.lessor.Next()
		expire = ok && !next.After(now) && !m.mu.ends.asking
		m.mu.ends.asking = m.mu.ends.asking || expire
	}
	full := m.mu.sinceSnap.entries >= m.cfg.SnapshotEntries || m.mu.sinceSnap.bytes >= m.cfg.SnapshotBytes
	m.unlock()
	if expire {
		m.expire()
	}
	if full {
		if err := m.writeSnapshot(); err != nil {
			m.cfg.Logger.Error("the snapshot file was not replaced", "error", err)
		}
	}
}
