package mirror

import (
	"context"
	"errors"
	"time"

	"pontoon/internal/mirror/runs"
	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// basePageBytes is the size of the pages of which a part is read.
	basePageBytes = 1 << 20
	// buildMax bounds the time of a build, pageMax that of a page.
	buildMax = 5 * time.Minute
	pageMax  = 10 * time.Second
	// askAgain is the pause before it is asked again that a range be closed: a question may be lost.
	askAgain = 100 * time.Millisecond
	// settled is how many events are applied under the lock at most, when a part becomes whole.
	settled = 64
)

func (b *build) fail(err error) {
	b.err = err
	patience.Wake(b.wake)
}

// builder builds parts.
type builder struct {
	pages
	*table
}

// bring builds a part, and has it built again later where that fails.
func (s *builder) bring(ctx context.Context, p *part) {
	ctx, cancel := context.WithTimeout(ctx, buildMax)
	defer cancel()
	err := s.make(ctx, p)
	s.mu.Lock()
	id, span, size, full := p.id, p.span, p.size, s.mu.full
	s.mu.building--
	if err != nil {
		p.build = nil
		if errors.Is(err, errTooLarge) {
			p.pause, s.mu.full = pauseMax, s.mu.full || !p.auto
		}
		s.laterLocked(p)
	}
	s.mu.Unlock()
	if p.auto {
		s.failed(id, size, err)
	}
	s.kick()
	switch {
	case err == nil:
		s.table.cfg.Logger.Info("a mirror stands", "range", id.String(), "span", span.String(), "bytes", size)
	case errors.Is(err, errTooLarge) && !full && !p.auto:
		s.table.cfg.Logger.Warn("not everything that is to be mirrored has room", "range", id.String(), "span", span.String(), "bytes", s.table.cfg.SizeMax)
	default:
		s.table.cfg.Logger.Debug("a mirror could not be built", "range", id.String(), "span", span.String(), "error", err)
	}
}

// failed tells what became of a part that is mirrored by itself.
func (s *builder) failed(id shard.RangeID, size int, err error) {
	switch {
	case err == nil, errors.Is(err, errUnwanted), errors.Is(err, context.Canceled):
	case errors.Is(err, errTooLarge):
		s.chooser.tooLarge(id, size)
	default:
		s.chooser.voided(id)
	}
}

// make builds a part: of what a replica has at a revision from which on the feed lacks nothing, and of what that has told since.
func (s *builder) make(ctx context.Context, p *part) error {
	for {
		turn, err := s.closeWhole(ctx, p)
		if err != nil {
			return err
		}
		s.mu.Lock()
		id, span, base := p.id, p.span, p.build.closed
		s.mu.Unlock()
		state, err := s.readBase(ctx, p, id, span, base)
		if err != nil {
			return err
		}
		again, err := s.finish(p, state, turn)
		if err != nil || !again {
			return err
		}
	}
}

// closeWhole returns when the part's range is closed at a revision from which on its feed lacks nothing: at one that is current when it is listened to
// already, and has not begun anew since. turn is the feed's beginning of which that holds.
func (s *builder) closeWhole(ctx context.Context, p *part) (turn int, err error) {
	for {
		s.mu.Lock()
		turn, err = p.build.turn, p.build.err
		s.mu.Unlock()
		if err != nil {
			return 0, err
		}
		now, err := s.table.cfg.Current(ctx)
		if err != nil {
			return 0, err
		}
		if mutate.On(mutate.MirrorBase) {
			now.Revision = 1
		}
		again, err := s.awaitClosed(ctx, p, turn, now.Revision)
		if err != nil || !again {
			return turn, err
		}
	}
}

// awaitClosed waits until the part's feed says that rev is closed. again: it has begun anew.
func (s *builder) awaitClosed(ctx context.Context, p *part, turn int, rev int64) (again bool, err error) {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for ask := true; ; {
		s.mu.Lock()
		b, id := p.build, p.id
		closed, now, err := b.closed, b.turn, b.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return false, err
		case now != turn:
			return true, nil
		case closed >= rev:
			return false, nil
		}
		if ask {
			s.table.cfg.AskClose(rev, []shard.RangeID{id})
		}
		ask = false
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-b.wake:
			select { // of both, neither is heard by chance
			case <-tick.C:
				ask = true
			default:
			}
		case <-tick.C:
			ask = true
		}
	}
}

// readBase reads what a range has of a span at a revision that is closed.
func (s *builder) readBase(ctx context.Context, p *part, id shard.RangeID, span shard.Span, rev int64) (*runs.State, error) {
	var b runs.Builder
	err := s.readPages(ctx, id, span, rev, func(resp *pb.ReadResponse) error {
		if err := b.Add(resp.Encoded); err != nil {
			return err
		}
		return s.grew(p, b.Size())
	})
	if err != nil {
		return nil, err
	}
	return b.State(rev), nil
}

// grew notes how large a part is that is being built, and reports whether that is too large. What is mirrored by itself does not count for what is named: it
// gives way within a second.
func (s *builder) grew(p *part, size int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.size = size
	all, most := s.mu.parts.all, s.table.cfg.SizeMax
	if p.auto {
		all, most = s.mu.parts.byID[p.id], p.room
	}
	sum := 0
	for _, o := range all {
		if o.auto == p.auto {
			sum += o.bytes()
		}
	}
	if sum > most {
		return errTooLarge
	}
	return p.build.err
}

// follow applies what a state does not hold yet.
func follow(state *runs.State, events []*shard.Event) error {
	base := state.Floor()
	for _, ev := range events {
		if ev.Rev() <= base {
			continue
		}
		if err := state.Apply(ev); err != nil {
			return err
		}
	}
	return nil
}
