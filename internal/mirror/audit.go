package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"pontoon/internal/mirror/runs"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// errWrong is a mirror that does not hold what its range holds: a bug.
var errWrong = errors.New("it does not hold what its range holds")

// auditor compares mirrors with replicas.
type auditor struct {
	pages
	*table
	audits, wrong atomic.Int64
}

// run compares again and again until ctx ends.
func (a *auditor) run(ctx context.Context) {
	tick := time.NewTicker(a.table.cfg.AuditEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = a.audit(ctx) // it is logged and counted
		}
	}
}

// audit compares every part.
func (a *auditor) audit(ctx context.Context) (compared int, err error) {
	for _, o := range a.toAudit() {
		same, failed := a.compare(ctx, &o)
		if failed != nil { // it has moved, or was compacted: the next time, then
			a.table.cfg.Logger.Debug("a mirror could not be compared with its range", "range", o.id.String(), "span", o.span.String(), "error", failed)
			continue
		}
		a.audits.Add(1)
		compared++
		if same {
			continue
		}
		a.wrong.Add(1)
		err = errors.Join(err, fmt.Errorf("%v of %v at revision %d: %w", o.span, o.id, o.at, errWrong))
		a.table.cfg.Logger.Error("a mirror does not hold what its range holds, which is a bug; it is built anew",
			"range", o.id.String(), "span", o.span.String(), "revision", o.at)
		a.distrust(o.p)
	}
	return compared, err
}

// audited is a part as it was when it was looked at.
type audited struct {
	p    *part
	id   shard.RangeID
	span shard.Span
	at   int64
	view runs.View
}

// compare compares a part, page by page.
func (a *auditor) compare(ctx context.Context, o *audited) (same bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, buildMax)
	defer cancel()
	same = true
	left := o.span
	err = a.readPages(ctx, o.id, o.span, o.at, func(resp *pb.ReadResponse) error {
		span := left
		if len(resp.Resume) > 0 {
			span.End, left.Start = resp.Resume, resp.Resume
		}
		pieces, n, _ := o.view.Read(runs.Query{Span: span})
		same = same && n == resp.EncodedKeys && bytes.Equal(bytes.Join(pieces, nil), resp.Encoded)
		return nil
	})
	return same, err
}

// distrust gives a part up that was found to be wrong.
func (a *auditor) distrust(p *part) {
	a.mu.Lock()
	defer a.unlock()
	if p.state != nil {
		a.voidLocked(p, errWrong)
		a.kick()
	}
}
