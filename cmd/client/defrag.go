package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/datadir"
	"pontoon/mvcc"
	"pontoon/shard"
)

func (a *app) defragCommand() *cobra.Command {
	var cluster bool
	var dir string
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Gives the free space in the files of nodes back to their disks",
		Long: `Writes the files of all ranges of a node anew, without the space that compaction has freed. Nodes serve meanwhile, and each takes as long as it
takes to write what it holds; one that is left goes on.

With --data-dir it is done to the files of a node that does not run.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir != "" {
				return a.defragFiles(cmd.Context(), dir)
			}
			return a.with(func(c *clientv3.Client) error {
				endpoints, err := a.endpoints(cmd.Context(), c, cluster)
				if err != nil {
					return err
				}
				var failed error
				for _, ep := range endpoints {
					began := time.Now()
					if err := a.defragNode(cmd.Context(), ep); err != nil {
						fmt.Fprintf(a.err, "Failed to defragment %s (%v)\n", ep, err)
						failed = err
						continue
					}
					fmt.Fprintf(a.out, "Finished defragmenting %s in %v\n", ep, time.Since(began).Round(time.Millisecond))
				}
				return failed
			})
		},
	}
	cmd.Flags().BoolVar(&cluster, "cluster", false, "all members' client addresses instead of --endpoints")
	cmd.Flags().StringVar(&dir, "data-dir", "", "the data directory of a node that does not run")
	return cmd
}

// defragNode waits as long as it takes: what the node has begun it ends anyway.
func (a *app) defragNode(ctx context.Context, endpoint string) error {
	c, err := a.newConn([]string{endpoint})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the answer counts, not the parting
	_, err = c.Defragment(ctx, endpoint)
	return err
}

// defragBudget is how many records are copied between two looks at whether somebody has given up.
const defragBudget = 10_000

// defragFiles does the files of a node that does not run.
func (a *app) defragFiles(ctx context.Context, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, datadir.Ranges, "r*", "mvcc.db"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return badArgs("%s has no files of ranges: it is not the data directory of a node, or of one that holds nothing", dir)
	}
	var failed error
	for _, path := range files {
		before, after, err := defragFile(ctx, path)
		if err != nil {
			failed = errors.Join(failed, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		fmt.Fprintf(a.out, "Finished defragmenting %s: %d bytes, %d before\n", path, after, before)
	}
	return failed
}

func defragFile(ctx context.Context, path string) (before, after int64, err error) {
	id, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "r"), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	old, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	st, err := mvcc.Open(mvcc.Options{Path: path, RangeID: shard.RangeID(id)})
	if err != nil {
		return 0, 0, err
	}
	d, err := st.Maintenance().Defragment()
	for more := err == nil; more; {
		if more, err = d.Step(defragBudget); err == nil {
			err = ctx.Err()
		}
		more = more && err == nil
	}
	if err = errors.Join(err, st.Close()); err != nil {
		return 0, 0, err
	}
	now, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	return old.Size(), now.Size(), nil
}
