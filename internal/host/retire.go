package host

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"pontoon/internal/meta"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// handoversAtOnce is how many ranges are handed over at a time.
const handoversAtOnce = 50

// Retire hands the lead of every group to another node, so that clients notice nothing of a stop: the meta group's
// first, whose oracle notes its exact value, then those of the ranges, each once it has drained. No revision is left
// out and no request is in doubt. A member that was removed first gives its replicas away. Feeds that others have
// from here are had elsewhere before. It takes Config.ShutdownTimeout at most, and does
// not wait for groups that nobody else can lead.
func (h *Host) Retire(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.ShutdownTimeout)
	defer cancel()
	leave, cancel := context.WithTimeout(ctx, h.cfg.ShutdownTimeout*3/4) // the rest is for leads
	h.newDeparture().stay(leave)
	cancel()
	h.feeds.outlets.Leave()
	h.raft.Leave()
	h.handOverAll(ctx, (*meta.Meta).Retire)
	h.feeds.outlets.AwaitLeft(ctx)
	bye, cancel := context.WithTimeout(ctx, h.cfg.Election)
	defer cancel()
	h.net.mesh.Farewell(bye)
}

// transferLeaders hands the lead of every group to another node and goes on: a failpoint.
func (h *Host) transferLeaders() error {
	ctx, cancel := context.WithTimeout(context.Background(), h.cfg.Election)
	defer cancel()
	h.handOverAll(ctx, (*meta.Meta).HandOver)
	return ctx.Err()
}

// handOverAll hands over the meta group's lead, by handMeta, and then those of the ranges.
func (h *Host) handOverAll(ctx context.Context, handMeta func(*meta.Meta, context.Context) error) {
	if m := h.meta.get(); m != nil {
		if err := h.handOverMeta(ctx, m, handMeta); err != nil {
			h.log.Warn("the meta group's lead was not handed over", "error", err)
		}
	}
	began := time.Now()
	moved, left := h.ranges.handOverAll(ctx, h.cfg.Election)
	if moved+left > 0 {
		h.log.Info("handed over the lead of ranges", "ranges", moved, "kept", left, "took", time.Since(began))
	}
}

// handOverMeta leaves time for the ranges.
func (h *Host) handOverMeta(ctx context.Context, m *meta.Meta, handMeta func(*meta.Meta, context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Election)
	defer cancel()
	return handMeta(m, ctx)
}

// handOverAll hands over every range that is led here, also those that this node comes to lead only now: it may have stood for election
// before. An election that goes on is waited for as long as elections take. It returns for how many that was done, and how many are left.
func (rs *ranges) handOverAll(ctx context.Context, election time.Duration) (moved, left int) {
	kept := map[shard.RangeID]bool{}
	for until := time.Now().Add(election); ; pause(ctx, handoverLook) {
		led, rising := rs.led(kept)
		for i, err := range rs.handOverEach(ctx, led) {
			if err == nil {
				moved++
				continue
			}
			kept[led[i].ID()] = true
			rs.log.Debug("a range's lead was not handed over", "range", led[i].ID().String(), "error", err)
		}
		if ctx.Err() != nil || len(led) == 0 && (!rising || time.Now().After(until)) {
			return moved, len(kept)
		}
	}
}

// handoverLook is the pause between two looks for ranges that are led here.
const handoverLook = 5 * time.Millisecond

// led returns the replicas that lead, but for those that were kept, and whether there are ranges, which others could lead, of which it is
// open yet who leads them, or which this node leads and does not serve yet.
func (rs *ranges) led(kept map[shard.RangeID]bool) (led []*replica.Replica, rising bool) {
	rs.each(func(rep *replica.Replica) {
		id := rep.ID()
		if _, leads := rep.Leading(); leads {
			if !kept[id] {
				led = append(led, rep)
			}
			return
		}
		st, ok := rs.host.Status(id)
		rising = rising || ok && (st.IsLeader || st.Leader == 0) && rs.host.HasHeir(id)
	})
	return led, rising
}

// handOverEach hands over several at a time, and returns what came of each.
func (rs *ranges) handOverEach(ctx context.Context, led []*replica.Replica) []error {
	errs := make([]error, len(led))
	var g errgroup.Group
	g.SetLimit(handoversAtOnce)
	for i, rep := range led {
		g.Go(func() error {
			errs[i] = rs.handOver(ctx, rep)
			return nil
		})
	}
	_ = g.Wait()
	return errs
}

// handOver hands a range over. It tries again while somebody else could lead it and ctx goes on.
func (rs *ranges) handOver(ctx context.Context, rep *replica.Replica) error {
	for {
		if !rs.host.HasHeir(rep.ID()) {
			return shard.ErrUnavailable
		}
		outcome := make(chan error, 1)
		rep.HandOver(ctx, func(_ time.Duration, err error) { outcome <- err })
		err := rs.awaitOutcome(ctx, rep.ID(), outcome)
		var elsewhere *shard.NotLeaderError
		switch {
		case err == nil, errors.As(err, &elsewhere):
			return nil
		case ctx.Err() != nil || errors.Is(err, shard.ErrUnavailable):
			return err
		}
		pause(ctx, handoverPause)
	}
}

// awaitOutcome waits for the end of a transfer, as long as somebody else could lead the range: a drain may wait for an
// oracle that has gone with all others.
func (rs *ranges) awaitOutcome(ctx context.Context, id shard.RangeID, outcome <-chan error) error {
	look := time.NewTicker(handoverPause)
	defer look.Stop()
	for {
		select {
		case err := <-outcome:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			if !rs.host.HasHeir(id) {
				return shard.ErrUnavailable
			}
		}
	}
}

// handoverPause is the pause before a range that was not handed over is tried again. What has waited is served
// meanwhile.
const handoverPause = 100 * time.Millisecond
