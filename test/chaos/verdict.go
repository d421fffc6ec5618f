package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/history"
)

// verdict ends the load and lets every judge speak.
func (o *ordeal) verdict(ctx context.Context) error {
	sctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if o.hunt != nil { // before the watches of everything end: what comes behind them cannot be judged
		o.hunt.finish()
	}
	if err := o.load.Stop(sctx); err != nil {
		o.found("%v", err)
	}
	o.changesOver(ctx)
	if o.tier != nil {
		o.tier.judge(ctx, &o.findings)
	}
	h := o.rec.History()
	file := filepath.Join(o.dir, "history.jsonl")
	if err := h.Save(file); err != nil {
		return err
	}
	began := time.Now()
	r := history.Check(h, history.Options{AnyExpiry: slices.Contains(names(o.faults), "clock"), PartsExpiry: !o.multi})
	o.say("judged in %.1f s: %d answers (%d writes), %d refused, %d unknown of which %d happened, %d leases ended, %d revisions, %d gaps, %d watches, %d events",
		time.Since(began).Seconds(), r.Ops, r.Writes, r.Refused, r.Unknown, r.Happened, r.Expired, r.Revisions, r.Gaps, r.Watches, r.Events)
	if err := r.Err(); err != nil {
		o.found("%v", err)
	}
	began = time.Now()
	lin := history.Linearizable(h, history.Limits{PerKey: 2 * time.Second, Total: 30 * time.Second})
	o.say("porcupine in %.1f s: %d keys, %d steps, %d keys without an order, %d undecided",
		time.Since(began).Seconds(), lin.Keys, lin.Ops, len(lin.Illegal), len(lin.Undecided))
	if len(lin.Illegal) > 0 {
		o.found("porcupine finds no order for %q", lin.Illegal)
	}
	if o.hunt != nil {
		o.hunt.judge(h, &o.findings)
	}
	if err := o.equalHashes(ctx); err != nil {
		o.found("%v", err)
	}
	if o.backups != nil {
		o.backups.finish(ctx, o.lastWrite(), &o.findings)
	}
	if err := o.leasesGone(ctx); err != nil {
		o.found("%v", err)
	}
	o.logs()
	o.figures()
	if len(o.wrong) > 0 {
		return fmt.Errorf("%d things are wrong:\n%s", len(o.wrong), strings.Join(o.wrong, "\n"))
	}
	return nil
}

// eventually repeats a check for some time. If it fails in the end, the error is the last that says more than that the time was over.
func eventually(ctx context.Context, d time.Duration, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return cmp.Or(last, err)
		}
		last = err
		pause(ctx, 200*time.Millisecond)
	}
}

// lastWrite is the highest revision that was acknowledged.
func (o *ordeal) lastWrite() (last int64) {
	for _, op := range o.rec.History().Ops {
		if op.Fate == history.OK && op.Cmd.Kind == history.Put && op.Result != nil {
			last = max(last, op.Result.Rev)
		}
	}
	return last
}

// equalHashes demands the same HashKV of all members at one revision.
func (o *ordeal) equalHashes(ctx context.Context) error {
	cl, err := o.connect(o.c.Nodes...)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	return eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		resp, err := cl.Get(ctx, "a")
		if err != nil {
			return fmt.Errorf("a revision for HashKV: %w", err)
		}
		var hashes []uint32
		for _, n := range o.c.Nodes {
			h, err := cl.HashKV(ctx, n.ClientURL, resp.Header.Revision)
			if err != nil {
				return fmt.Errorf("HashKV of %s: %w", n.Name, err)
			}
			hashes = append(hashes, h.Hash)
		}
		if len(slices.Compact(slices.Clone(hashes))) != 1 {
			return fmt.Errorf("HashKV at revision %d: %x", resp.Header.Revision, hashes)
		}
		return nil
	})
}

// leasesGone demands that every lease has ended, with its keys: nobody renews them any more.
func (o *ordeal) leasesGone(ctx context.Context) error {
	cl, err := o.connect(o.c.Nodes...)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	return eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		leases, err := cl.Leases(ctx)
		if err != nil {
			return fmt.Errorf("the list of leases: %w", err)
		}
		resp, err := cl.Get(ctx, "\x00", clientv3.WithFromKey())
		if err != nil {
			return fmt.Errorf("the last read: %w", err)
		}
		var errs []error
		for _, kv := range resp.Kvs {
			if kv.Lease != 0 {
				errs = append(errs, fmt.Errorf("%s still has lease %x", kv.Key, kv.Lease))
			}
		}
		if len(leases.Leases) > 0 {
			errs = append(errs, fmt.Errorf("%d leases do not end, such as %x", len(leases.Leases), leases.Leases[0].ID))
		}
		return errors.Join(errs...)
	})
}

// logs looks for what no fault excuses.
func (o *ordeal) logs() {
	for _, n := range o.all() {
		for _, mark := range []string{"panic: ", "WARNING: DATA RACE", "fatal error: ", "found data inconsistency with peers"} {
			log := n.Log()
			if i := strings.Index(log, mark); i >= 0 {
				o.found("the log of %s: %s", n.Name, log[i:min(len(log), i+1500)])
			}
		}
	}
}

// figures prints what was done, and how long recovery took.
func (o *ordeal) figures() {
	fmt.Printf("\n%-10s %8s %28s %28s\n", "fault", "injected", "all ranges under it (s)", "all ranges after it (s)")
	for _, f := range o.faults {
		if st := o.stats[f.name]; st != nil {
			fmt.Printf("%-10s %8d %28s %28s\n", f.name, st.injected, spread(st.under), spread(st.healed))
		}
	}
	fmt.Println()
}

func spread(ds []time.Duration) string {
	if len(ds) == 0 {
		return "-"
	}
	slices.Sort(ds)
	return fmt.Sprintf("median %.2f, worst %.2f", ds[len(ds)/2].Seconds(), ds[len(ds)-1].Seconds())
}
