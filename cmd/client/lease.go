package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/exitcode"
)

func (a *app) leaseCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "lease <subcommand>", Short: "Leases: keys that go when nobody keeps them alive"}
	cmd.AddCommand(a.leaseGrant(), a.leaseRevoke(), a.leaseTimeToLive(), a.leaseKeepAlive(), a.leaseList())
	return cmd
}

// leaseID is the id of the only argument.
func leaseID(args []string, usage string) (clientv3.LeaseID, error) {
	if len(args) != 1 {
		return 0, badArgs("%s", usage)
	}
	id, err := strconv.ParseInt(args[0], 16, 64)
	if err != nil {
		return 0, badArgs("bad lease ID arg (%w), expecting ID in Hex", err)
	}
	return clientv3.LeaseID(id), nil
}

func (a *app) leaseGrant() *cobra.Command {
	return &cobra.Command{
		Use:   "grant <ttl>",
		Short: "Creates a lease of so many seconds",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("lease grant command needs TTL argument")
			}
			ttl, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return badArgs("bad TTL (%w)", err)
			}
			return a.with(func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.Grant(ctx, ttl)
				if err != nil {
					return fmt.Errorf("failed to grant lease (%w)", err)
				}
				return a.print.leases.grant(resp)
			})
		},
	}
}

func (a *app) leaseRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke <leaseID>",
		Short: "Ends a lease and deletes its keys",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := leaseID(args, "lease revoke command needs 1 argument")
			if err != nil {
				return err
			}
			return a.with(func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.Revoke(ctx, id)
				if err != nil {
					return fmt.Errorf("failed to revoke lease (%w)", err)
				}
				return a.print.leases.revoke(id, resp)
			})
		},
	}
}

func (a *app) leaseTimeToLive() *cobra.Command {
	var keys bool
	cmd := &cobra.Command{
		Use:   "timetolive <leaseID> [options]",
		Short: "Tells what is left of a lease",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := leaseID(args, "lease timetolive command needs lease ID as argument")
			if err != nil {
				return err
			}
			var opts []clientv3.LeaseOption
			if keys {
				opts = append(opts, clientv3.WithAttachedKeys())
			}
			return a.with(func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.TimeToLive(ctx, id, opts...)
				if err != nil {
					return exitcode.With(exitBadConnection, err)
				}
				return a.print.leases.timeToLive(resp, keys)
			})
		},
	}
	cmd.Flags().BoolVar(&keys, "keys", false, "also name the keys that go with it")
	return cmd
}

func (a *app) leaseKeepAlive() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "keep-alive [options] <leaseID>",
		Short: "Renews a lease until interrupted",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := leaseID(args, "lease keep-alive command needs lease ID as argument")
			if err != nil {
				return err
			}
			return a.with(func(c *clientv3.Client) error {
				if once {
					resp, err := c.KeepAliveOnce(cmd.Context(), id)
					if err != nil {
						return exitcode.With(exitBadConnection, err)
					}
					return a.print.leases.keepAlive(resp)
				}
				return a.keepAlive(cmd, c, id)
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "renew once")
	return cmd
}

func (a *app) keepAlive(cmd *cobra.Command, c *clientv3.Client, id clientv3.LeaseID) error {
	ch, err := c.KeepAlive(cmd.Context(), id)
	if err != nil {
		return exitcode.With(exitBadConnection, err)
	}
	for resp := range ch {
		if err := a.print.leases.keepAlive(resp); err != nil {
			return err
		}
	}
	if a.flags.output == outputSimple {
		fmt.Fprintf(a.out, "lease %016x expired or revoked.\n", int64(id))
	}
	return nil
}

func (a *app) leaseList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists all leases",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.Leases(ctx)
				if err != nil {
					return exitcode.With(exitBadConnection, err)
				}
				return a.print.leases.list(resp)
			})
		},
	}
}
