package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/exitcode"
)

// deleteWarning is how long del waits before it deletes a span whose end was given.
const deleteWarning = 2 * time.Second

// spanFlags choose more than one key.
type spanFlags struct{ prefix, fromKey bool }

func (f *spanFlags) bind(fs *pflag.FlagSet, verb string) {
	fs.BoolVar(&f.prefix, "prefix", false, verb+" the keys that begin with the given one")
	fs.BoolVar(&f.fromKey, "from-key", false, verb+" the keys from the given one on, in byte order")
}

// span returns the first key and what chooses the rest, from <key> [range_end].
func (f *spanFlags) span(args []string) (string, []clientv3.OpOption, error) {
	key := args[0]
	if f.prefix && f.fromKey {
		return "", nil, badArgs("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	}
	if len(args) > 1 {
		if f.prefix || f.fromKey {
			return "", nil, badArgs("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")
		}
		return key, []clientv3.OpOption{clientv3.WithRange(args[1])}, nil
	}
	all := f.fromKey || (f.prefix && key == "")
	if all && key == "" {
		key = "\x00"
	}
	switch {
	case all:
		return key, []clientv3.OpOption{clientv3.WithFromKey()}, nil
	case f.prefix:
		return key, []clientv3.OpOption{clientv3.WithPrefix()}, nil
	}
	return key, nil, nil
}

// getFlags are the flags of get.
type getFlags struct {
	spanFlags
	consistency, order, target                       string
	limit, rev                                       int64
	keysOnly, countOnly, valueOnly, stream           bool
	minCreateRev, maxCreateRev, minModRev, maxModRev int64
}

func (f *getFlags) bind(fs *pflag.FlagSet) {
	f.spanFlags.bind(fs, "get")
	fs.StringVar(&f.consistency, "consistency", "l", "linearizable (l) or serializable (s)")
	fs.StringVar(&f.order, "order", "", "order of results: ASCEND or DESCEND")
	fs.StringVar(&f.target, "sort-by", "", "what to sort by: CREATE, KEY, MODIFY, VALUE or VERSION")
	fs.Int64Var(&f.limit, "limit", 0, "how many results at most; 0: all")
	fs.Int64Var(&f.rev, "rev", 0, "read as of this revision")
	fs.BoolVar(&f.keysOnly, "keys-only", false, "leave the values out")
	fs.BoolVar(&f.countOnly, "count-only", false, "only count")
	fs.BoolVar(&f.valueOnly, "print-value-only", false, "print values only (simple output)")
	fs.BoolVar(&f.stream, "stream", false, "take the answer in chunks")
	fs.Int64Var(&f.minCreateRev, "min-create-rev", 0, "lowest create revision")
	fs.Int64Var(&f.maxCreateRev, "max-create-rev", 0, "highest create revision")
	fs.Int64Var(&f.minModRev, "min-mod-rev", 0, "lowest modification revision")
	fs.Int64Var(&f.maxModRev, "max-mod-rev", 0, "highest modification revision")
}

var (
	sortOrders = map[string]clientv3.SortOrder{
		"": clientv3.SortNone, "ASCEND": clientv3.SortAscend, "DESCEND": clientv3.SortDescend,
	}
	sortTargets = map[string]clientv3.SortTarget{
		"": clientv3.SortByKey, "KEY": clientv3.SortByKey, "CREATE": clientv3.SortByCreateRevision,
		"MODIFY": clientv3.SortByModRevision, "VALUE": clientv3.SortByValue, "VERSION": clientv3.SortByVersion,
	}
)

// op turns arguments and flags into a request.
func (f *getFlags) op(args []string) (string, []clientv3.OpOption, error) {
	if len(args) < 1 || len(args) > 2 {
		return "", nil, badArgs("get command needs one argument as key and an optional argument as range_end")
	}
	key, opts, err := f.span(args)
	if err != nil {
		return "", nil, err
	}
	if f.keysOnly && f.countOnly {
		return "", nil, badArgs("`--keys-only` and `--count-only` cannot be set at the same time, choose one")
	}
	order, ok := sortOrders[strings.ToUpper(f.order)]
	if !ok {
		return "", nil, exitcode.With(exitBadFeature, fmt.Errorf("bad sort order %v", f.order))
	}
	target, ok := sortTargets[strings.ToUpper(f.target)]
	if !ok {
		return "", nil, exitcode.With(exitBadFeature, fmt.Errorf("bad sort target %v", f.target))
	}
	opts = append(opts, clientv3.WithLimit(f.limit), clientv3.WithSort(target, order))
	switch f.consistency {
	case "l":
	case "s":
		opts = append(opts, clientv3.WithSerializable())
	default:
		return "", nil, exitcode.With(exitBadFeature, fmt.Errorf("unknown consistency flag %q", f.consistency))
	}
	if f.rev > 0 {
		opts = append(opts, clientv3.WithRev(f.rev))
	}
	if f.keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if f.countOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	revs, err := f.revisionBounds()
	return key, append(opts, revs...), err
}

func (f *getFlags) revisionBounds() ([]clientv3.OpOption, error) {
	if f.maxCreateRev > 0 && f.minCreateRev > f.maxCreateRev {
		return nil, exitcode.With(exitBadFeature, fmt.Errorf("min-create-rev(=%v) > max-create-rev(=%v)", f.minCreateRev, f.maxCreateRev))
	}
	if f.maxModRev > 0 && f.minModRev > f.maxModRev {
		return nil, exitcode.With(exitBadFeature, fmt.Errorf("min-mod-rev(=%v) > max-mod-rev(=%v)", f.minModRev, f.maxModRev))
	}
	var opts []clientv3.OpOption
	for _, b := range []struct {
		rev  int64
		with func(int64) clientv3.OpOption
	}{
		{f.minCreateRev, clientv3.WithMinCreateRev}, {f.maxCreateRev, clientv3.WithMaxCreateRev},
		{f.minModRev, clientv3.WithMinModRev}, {f.maxModRev, clientv3.WithMaxModRev},
	} {
		if b.rev > 0 {
			opts = append(opts, b.with(b.rev))
		}
	}
	return opts, nil
}

func (a *app) getCommand() *cobra.Command {
	var f getFlags
	cmd := &cobra.Command{
		Use:   "get [options] <key> [range_end]",
		Short: "Gets a key or a range of keys",
		RunE: func(cmd *cobra.Command, args []string) error {
			key, opts, err := f.op(args)
			if err != nil {
				return err
			}
			if f.countOnly && a.flags.output == outputSimple {
				return badArgs("--count-only is only for `--write-out=fields`, json and table")
			}
			if f.valueOnly && a.flags.output != outputSimple {
				return badArgs("print-value-only is only for `--write-out=simple`")
			}
			return a.withKV(cmd.Context(), func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := get(ctx, c, key, f.stream, opts)
				if err != nil {
					return err
				}
				return a.print.keys.get(resp, f.valueOnly)
			})
		},
	}
	f.bind(cmd.Flags())
	complete := func(flag string, values ...string) {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveDefault))
	}
	complete("consistency", "l", "s")
	complete("order", "ASCEND", "DESCEND")
	complete("sort-by", "CREATE", "KEY", "MODIFY", "VALUE", "VERSION")
	return cmd
}

func get(ctx context.Context, c *clientv3.Client, key string, stream bool, opts []clientv3.OpOption) (*clientv3.GetResponse, error) {
	if !stream {
		return c.Get(ctx, key, opts...)
	}
	chunks, err := c.GetStream(ctx, key, opts...)
	if err != nil {
		return nil, err
	}
	return clientv3.GetStreamToGetResponse(chunks)
}

// putFlags are the flags of put.
type putFlags struct {
	lease                            string
	prevKV, ignoreValue, ignoreLease bool
}

func (f *putFlags) bind(fs *pflag.FlagSet) {
	fs.StringVar(&f.lease, "lease", "0", "id (hexadecimal) of the lease that the key goes with")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "print what was there before")
	fs.BoolVar(&f.ignoreValue, "ignore-value", false, "keep the value")
	fs.BoolVar(&f.ignoreLease, "ignore-lease", false, "keep the lease")
}

// op turns arguments and flags into a request; a value that is not among the arguments is
// read from in.
func (f *putFlags) op(args []string, in io.Reader) (key, value string, opts []clientv3.OpOption, err error) {
	fail := func(err error) (string, string, []clientv3.OpOption, error) { return "", "", nil, err }
	needs := badArgs("put command needs 1 argument and input from stdin or 2 arguments")
	if len(args) < 1 || len(args) > 2 {
		return fail(needs)
	}
	if f.ignoreValue && len(args) > 1 {
		return fail(badArgs("put command needs only 1 argument when 'ignore-value' is set"))
	}
	switch {
	case f.ignoreValue:
		opts = append(opts, clientv3.WithIgnoreValue())
	case len(args) == 2:
		value = args[1]
	default:
		b, err := io.ReadAll(in)
		if err != nil || len(b) == 0 {
			return fail(needs)
		}
		value = string(b)
	}
	id, err := strconv.ParseInt(f.lease, 16, 64)
	if err != nil {
		return fail(badArgs("bad lease ID (%w), expecting ID in Hex", err))
	}
	if id != 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(id)))
	}
	if f.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if f.ignoreLease {
		opts = append(opts, clientv3.WithIgnoreLease())
	}
	return args[0], value, opts, nil
}

func (a *app) putCommand() *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put [options] <key> <value> (<value> can also be given from stdin)",
		Short: "Puts a key",
		Long: `Puts a key.

A value that begins with '-' would be taken for a flag; put '--' before it:

  client put <key> -- <value>

Without a value, and without --ignore-value, the value is read from standard input.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, value, opts, err := f.op(args, a.in)
			if err != nil {
				return err
			}
			return a.withKV(cmd.Context(), func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.Put(ctx, key, value, opts...)
				if err != nil {
					return err
				}
				return a.print.keys.put(resp)
			})
		},
	}
	f.bind(cmd.Flags())
	return cmd
}

// delFlags are the flags of del.
type delFlags struct {
	spanFlags
	prevKV, sure bool
}

func (f *delFlags) bind(fs *pflag.FlagSet) {
	f.spanFlags.bind(fs, "delete")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "print what was deleted")
	fs.BoolVar(&f.sure, "range", false, "delete [key, range_end) without a pause for second thoughts")
}

func (f *delFlags) op(args []string) (string, []clientv3.OpOption, error) {
	if len(args) < 1 || len(args) > 2 {
		return "", nil, badArgs("del command needs one argument as key and an optional argument as range_end")
	}
	key, opts, err := f.span(args)
	if err != nil {
		return "", nil, err
	}
	if f.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	return key, opts, nil
}

func (a *app) delCommand() *cobra.Command {
	var f delFlags
	cmd := &cobra.Command{
		Use:   "del [options] <key> [range_end]",
		Short: "Deletes a key or a range of keys [key, range_end)",
		RunE: func(cmd *cobra.Command, args []string) error {
			key, opts, err := f.op(args)
			if err != nil {
				return err
			}
			if len(args) == 2 && !f.sure {
				fmt.Fprintf(a.err, "Warning: Keys between %q and %q will be deleted. Interrupt within 2 seconds to keep them. `--range` spares the pause.\n", args[0], args[1])
				if err := a.pause(cmd.Context(), deleteWarning); err != nil {
					return err
				}
			}
			return a.withKV(cmd.Context(), func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.Delete(ctx, key, opts...)
				if err != nil {
					return err
				}
				return a.print.keys.del(resp)
			})
		},
	}
	f.bind(cmd.Flags())
	return cmd
}

func (a *app) compactCommand() *cobra.Command {
	var physical bool
	cmd := &cobra.Command{
		Use:     "compact [options] <revision>",
		Aliases: []string{"compaction"},
		Short:   "Forgets the history below a revision",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("compaction command needs 1 argument")
			}
			rev, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return err
			}
			var opts []clientv3.CompactOption
			if physical {
				opts = append(opts, clientv3.WithCompactPhysical())
			}
			return a.withKV(cmd.Context(), func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.Compact(ctx, rev, opts...)
				if err != nil {
					return err
				}
				return a.print.keys.compact(rev, resp)
			})
		},
	}
	cmd.Flags().BoolVar(&physical, "physical", false, "wait until the data is gone")
	return cmd
}
