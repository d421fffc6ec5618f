package front

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/patience"
	"pontoon/shard"
)

const (
	// replaysLinger is how long it is waited for others whose sources have broken with the same link.
	replaysLinger = time.Millisecond
	// replaysAtOnce is how many feeds share a question to the oracle, and replayReads how many are read of at once.
	replaysAtOnce = 1024
	replayReads   = 8
	// replayBytes is about how much is read at once, and replayTry bounds one such read.
	replayBytes = 1 << 20
	replayTry   = time.Second
	// replayPause lies between two reads of which the first has brought nothing; it grows to replayPauseMax.
	replayPause    = 5 * time.Millisecond
	replayPauseMax = 100 * time.Millisecond
	// replayPatience is for how long a feed is held up. Then it begins anew, with a gap.
	replayPatience = 5 * time.Second
)

// replays lets feeds go on without a gap whose sources have broken, or which begin anew because the range's replica has come, has left or has got a snapshot: what passed meanwhile is read
// from history, once for all who listen here, before what the new source brings. Each is a move whose old source has gone, so that nothing else is done with the feed meanwhile.
type replays struct {
	m       *moves
	history *history
	wake    chan struct{}

	resumed, abandoned atomic.Uint64

	mu      sync.Mutex
	waiting []*moving // of which nothing has been asked yet; as many as feeds
}

func newReplays(m *moves) *replays {
	return &replays{m: m, history: &history{backend: m.f.backend}, wake: make(chan struct{}, 1)}
}

// begin takes the item with which a source begins a feed anew. false: it is to be published, for the feed cannot go on without a gap.
func (p *replays) begin(in *inlet, id shard.RangeID, item shard.FeedItem) bool {
	f := p.m.f
	f.mu.Lock()
	comes := f.comesFrom(in, id)
	f.mu.Unlock()
	if !comes {
		return false
	}
	mv := &moving{id: id, to: in, rule: f.heads.resume(id, item)}
	if mv.rule == nil || !p.m.enter(mv) {
		return false
	}
	mv.mu.Lock()
	defer mv.mu.Unlock()
	if p.m.turn(mv); mv.state == moveBoth {
		p.mu.Lock()
		p.waiting = append(p.waiting, mv)
		p.mu.Unlock()
		patience.Wake(p.wake)
	}
	return true
}

// settle forgets a feed that goes on, once its new source has come as far as the old one had. The caller holds mv.mu.
func (p *replays) settle(mv *moving) {
	if mv.from != nil || !mv.rule.Settled() {
		return
	}
	if !mv.rule.Failed() {
		p.resumed.Add(1)
	}
	p.m.leave(mv)
}

// check lets a feed begin anew, with a gap, that cannot go on without; item is the one that has come, which is not kept then. The caller holds mv.mu.
func (p *replays) check(mv *moving, item *shard.FeedItem) {
	if mv.from != nil || mv.state != moveBoth || !mv.rule.Failed() {
		return
	}
	if !item.Gap {
		p.abandon(mv)
		p.m.f.bring(mv.id, *item)
		return
	}
	mv.state = moveCancelled // the new source has lost something itself
	p.m.count(mv)
	p.m.leave(mv)
	if !p.begin(mv.to, mv.id, *item) {
		p.abandoned.Add(1)
		p.m.f.bring(mv.id, *item)
	}
}

// abandon lets a feed begin anew with a gap. The caller holds mv.mu, and has seen that it waits for history.
func (p *replays) abandon(mv *moving) {
	p.abandoned.Add(1)
	begin := mv.rule.Abandon()
	mv.state = moveSwitched
	p.m.count(mv)
	p.m.f.bring(mv.id, begin)
	p.m.leave(mv)
}

// run reads what is missing, until the feeds are closed.
func (p *replays) run() {
	ctx := p.m.f.ctx
	var reading sync.WaitGroup
	defer reading.Wait()
	room := make(chan struct{}, replayReads)
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		if patience.Pause(ctx, replaysLinger) != nil {
			return
		}
		for batch := p.take(); len(batch) > 0; batch = p.take() {
			if !p.ask(ctx, batch) {
				continue
			}
			for _, mv := range batch {
				select {
				case <-ctx.Done():
					return
				case room <- struct{}{}:
				}
				reading.Go(func() {
					p.read(ctx, mv)
					<-room
				})
			}
		}
	}
}

// take takes some of those that wait.
func (p *replays) take() []*moving {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.waiting), replaysAtOnce)
	batch := p.waiting[:n:n]
	if p.waiting = p.waiting[n:]; len(p.waiting) == 0 {
		p.waiting = nil
	}
	return batch
}

// ask finds out from where on the new sources lack nothing. false: it is not known, and the feeds begin anew.
func (p *replays) ask(ctx context.Context, batch []*moving) bool {
	ctx, cancel := context.WithTimeout(ctx, replayPatience)
	defer cancel()
	now, err := p.m.f.backend.Cluster.Current(ctx)
	for err != nil && patience.Pause(ctx, replayPauseMax) == nil { // who answers may have gone with the source
		now, err = p.m.f.backend.Cluster.Current(ctx)
	}
	ids := make([]shard.RangeID, 0, len(batch))
	for _, mv := range batch {
		mv.mu.Lock()
		switch {
		case mv.state != moveBoth:
		case err != nil:
			p.abandon(mv)
		default:
			mv.rule.Whole(now.Revision)
			if p.m.turn(mv); mv.state == moveBoth {
				ids = append(ids, mv.id)
			}
		}
		mv.mu.Unlock()
	}
	if len(ids) > 0 {
		p.m.f.backend.Closer.AskClose(now.Revision, ids)
	}
	return err == nil
}

// read publishes what is missing of a feed, and lets it go on, or begin anew.
func (p *replays) read(ctx context.Context, mv *moving) {
	ctx, cancel := context.WithTimeout(ctx, replayPatience)
	defer cancel()
	pause := replayPause
	for {
		more, brought := p.step(ctx, mv)
		if brought {
			pause = replayPause
		}
		if !more || !brought && patience.Pause(ctx, pause) != nil {
			break
		}
		pause = min(2*pause, replayPauseMax)
	}
	mv.mu.Lock()
	defer mv.mu.Unlock()
	if mv.state == moveBoth {
		p.abandon(mv)
	}
}

// keys reports whether the range still has the keys that it had.
func (p *replays) keys(mv *moving, d *shard.Descriptor) bool {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	same := mv.rule.Keys(d)
	if same {
		p.m.turn(mv)
	}
	return same && mv.state == moveBoth
}

// spans are those of a range of whose keys history is to be read.
func (mv *moving) spans(of shard.Span) []shard.Span {
	mv.mu.Lock()
	defer mv.mu.Unlock()
	if spans := mv.rule.Spans(of); len(spans) > 0 {
		return spans
	}
	return []shard.Span{shard.Point(of.Start)} // that something is closed counts nevertheless
}

// step is one read. more: something is missing that may be read.
func (p *replays) step(ctx context.Context, mv *moving) (more, brought bool) {
	mv.mu.Lock()
	state, generation := mv.state, mv.rule.Generation()
	from, to := mv.rule.Missing()
	mv.mu.Unlock()
	if state != moveBoth {
		return false, false
	}
	d, ok := p.m.f.backend.Cluster.Range(mv.id)
	if !ok || d.Generation != generation {
		p.m.f.backend.Cluster.Client.RefreshSoon()
		return true, false // this map is behind, or the new source is about to tell what has become of the range
	}
	if !p.keys(mv, &d) {
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, replayTry)
	defer cancel()
	evs, next, err := p.history.readAt(ctx, mv.to.node, mv.id, mv.spans(d.Span), from, to, replayBytes)
	var compacted *shard.CompactedError
	switch {
	case errors.As(err, &compacted):
		return false, false
	case err != nil || next <= from: // it is not closed there yet
		p.m.f.backend.Closer.AskClose(to, []shard.RangeID{mv.id})
		return true, false
	}
	mv.mu.Lock()
	defer mv.mu.Unlock()
	if mv.state != moveBoth {
		return false, false
	}
	item := mv.rule.Read(evs, next)
	p.m.f.bring(mv.id, item)
	mv.rule.Old(&item)
	p.m.turn(mv)
	return mv.state == moveBoth, true
}
