package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pontoon/test/e2e/harness"
)

// defragmentLimit bounds the defragmentation of a node, whose files are small here.
const defragmentLimit = 30 * time.Second

// defragment has the files of all nodes written anew, and half of the time kills some of them meanwhile.
func defragment(ctx context.Context, o *ordeal) (*injury, error) {
	done := make(chan error, len(o.c.Nodes))
	for _, n := range o.c.Nodes {
		go func() { done <- o.defragmentNode(ctx, n) }()
	}
	ended := func() error {
		var errs []error
		for range o.c.Nodes {
			errs = append(errs, <-done)
		}
		return errors.Join(errs...)
	}
	if o.rng.IntN(2) == 0 {
		return &injury{text: "all files are written anew", healthy: o.c.Nodes, heal: func(context.Context) error { return ended() }}, nil
	}
	pause(ctx, time.Duration(o.rng.IntN(200))*time.Millisecond)
	in, err := kill(ctx, o)
	if err != nil {
		return nil, errors.Join(err, ended())
	}
	in.text = "all files are written anew, " + in.text
	return in, nil // of the defragmentations nobody waits for that of a node that is gone
}

func (o *ordeal) defragmentNode(ctx context.Context, n *harness.Node) error {
	ctx, cancel := context.WithTimeout(ctx, defragmentLimit)
	defer cancel()
	cl, err := o.connect(n)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	if _, err := cl.Defragment(ctx, n.ClientURL); err != nil {
		return fmt.Errorf("defragmentation of %s: %w", n.Name, err)
	}
	return nil
}
