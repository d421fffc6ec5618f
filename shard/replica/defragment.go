package replica

import (
	"context"

	"pontoon/shard"
)

// Defragment writes the store's file anew without its free pages, while everything goes on: in steps with pauses between them, as a copy. It is
// mvcc.ErrGivenUp where something had to be written to the file meanwhile, and shard.ErrStopped where the replica is closed. It blocks until it is done or ctx ends.
func (x *maintenance) Defragment(ctx context.Context) error {
	r := x.r
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	ref, err := r.stores.acquire()
	if err != nil {
		return err
	}
	defer r.stores.release(ref)
	d, err := ref.Maintenance().Defragment()
	if err != nil {
		return err
	}
	defer r.cfg.Wake(r.cfg.Desc.ID, false) // what had to wait goes on
	defer d.GiveUp()
	var pace copyPace
	for {
		began := r.cfg.Now()
		more, err := d.Step(copyBudget)
		if err != nil || !more {
			return err
		}
		slept := r.cfg.Now()
		pause := pace.pause(slept.Sub(began), 1)
		if !r.sleep(ctx, pause) {
			return stoppedOr(r.ctx, ctx)
		}
		pace.woke(r.cfg.Now().Sub(slept) - pause)
	}
}

// stoppedOr is why a call has ended: the replica was closed, or its own context is over.
func stoppedOr(replica, call context.Context) error {
	if replica.Err() != nil {
		return shard.ErrStopped
	}
	return call.Err()
}
