package compactor

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"pontoon/shard"
)

// Env is what a compactor needs of its node. Every field is set.
type Env struct {
	// Current is the newest revision that is known. It may block up to the end of its context.
	Current func(ctx context.Context) int64
	// Leads: it is this node that compacts. It must not block.
	Leads func() bool
	// Compact forgets the history below rev. It may block up to the end of its context.
	Compact func(ctx context.Context, rev int64) error
	Logger  *slog.Logger
}

// Run compacts by a plan until ctx ends.
func Run(ctx context.Context, p Plan, env Env) {
	if p.Off() {
		return
	}
	c := &compactor{schedule: newSchedule(p, time.Now()), env: env}
	tick := time.NewTimer(c.schedule.pause())
	defer tick.Stop()
	for {
		c.schedule.sample(env.Current(ctx))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if env.Leads() {
			c.look(ctx)
		}
		tick.Reset(c.schedule.pause())
	}
}

type compactor struct {
	schedule schedule
	env      Env
}

// look compacts if that is due. A compaction that fails is due again at the next look; one that somebody else has made is made.
func (c *compactor) look(ctx context.Context) {
	s, log := c.schedule, c.env.Logger
	rev, is := s.due(time.Now(), c.env.Current(ctx))
	if !is {
		return
	}
	log.LogAttrs(ctx, slog.LevelInfo, "starting auto "+s.name()+" compaction", slog.Int64("revision", rev), s.kept())
	began := time.Now()
	err := c.env.Compact(ctx, rev)
	var already *shard.CompactedError
	if err != nil && !errors.As(err, &already) {
		log.LogAttrs(ctx, slog.LevelWarn, "failed auto "+s.name()+" compaction", slog.Int64("revision", rev), s.kept(),
			slog.Duration("retry-interval", s.pause()), slog.Any("error", err))
		return
	}
	s.done(time.Now(), rev)
	log.LogAttrs(ctx, slog.LevelInfo, "completed auto "+s.name()+" compaction", slog.Int64("revision", rev), s.kept(),
		slog.Duration("took", time.Since(began)))
}
