package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/exitcode"
)

// watchFlags are the flags of watch.
type watchFlags struct {
	rev                      int64
	prefix, prevKV, progress bool
}

func (f *watchFlags) bind(fs *pflag.FlagSet) {
	fs.Int64Var(&f.rev, "rev", 0, "begin at this revision; 0: from now on")
	fs.BoolVar(&f.prefix, "prefix", false, "watch the keys that begin with the given one")
	fs.BoolVar(&f.prevKV, "prev-kv", false, "print what was there before")
	fs.BoolVar(&f.progress, "progress-notify", false, "print a line now and then while nothing changes")
}

// watchJob is what to watch, and what to run for each event.
type watchJob struct {
	key  string
	opts []clientv3.OpOption
	exec []string
}

func (f *watchFlags) job(keys, command []string) (watchJob, error) {
	if len(keys) < 1 || len(keys) > 2 {
		return watchJob{}, badArgs("bad number of arguments")
	}
	j := watchJob{key: keys[0], exec: command, opts: []clientv3.OpOption{clientv3.WithRev(f.rev)}}
	if len(keys) == 2 {
		if f.prefix {
			return watchJob{}, badArgs("`range_end` and `--prefix` are mutually exclusive")
		}
		j.opts = append(j.opts, clientv3.WithRange(keys[1]))
	}
	if f.prefix {
		j.opts = append(j.opts, clientv3.WithPrefix())
	}
	if f.prevKV {
		j.opts = append(j.opts, clientv3.WithPrevKV())
	}
	if f.progress {
		j.opts = append(j.opts, clientv3.WithProgressNotify())
	}
	return j, nil
}

func (a *app) watchCommand() *cobra.Command {
	var f watchFlags
	var interactive bool
	cmd := &cobra.Command{
		Use:   "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
		Short: "Prints what changes, and runs a command for each change",
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := a.watchKeysFromEnv()
			if err != nil {
				return err
			}
			if interactive {
				return a.with(func(c *clientv3.Client) error { return a.watchInteractively(cmd.Context(), c, env) })
			}
			keys, command := args, []string(nil)
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				if keys, command = args[:n], args[n:]; len(command) == 0 {
					return badArgs("bad number of arguments (found separator --, but no commands)")
				}
			}
			if keys, err = watchKeys(env, keys); err != nil {
				return err
			}
			j, err := f.job(keys, command)
			if err != nil {
				return err
			}
			return a.with(func(c *clientv3.Client) error {
				if err := a.watch(cmd.Context(), c, j, &sync.Mutex{}); err != nil {
					return err
				}
				return exitcode.With(exitInterrupted, errors.New("watch is canceled by the server"))
			})
		},
	}
	f.bind(cmd.Flags())
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "read watch and progress commands from standard input")
	return cmd
}

// watchKeysFromEnv returns the key and the end that the environment names.
func (a *app) watchKeysFromEnv() ([]string, error) {
	for _, p := range envPrefixes {
		key, end := a.getenv(p+"WATCH_KEY"), a.getenv(p+"WATCH_RANGE_END")
		switch {
		case key == "" && end != "":
			return nil, badArgs("%sWATCH_KEY is empty but got %sWATCH_RANGE_END=%q", p, p, end)
		case end != "":
			return []string{key, end}, nil
		case key != "":
			return []string{key}, nil
		}
	}
	return nil, nil
}

func watchKeys(env, args []string) ([]string, error) {
	if len(env) > 0 && len(args) > 0 {
		return nil, badArgs("bad number of arguments (found conflicting environment key)")
	}
	if len(env) > 0 {
		return env, nil
	}
	return args, nil
}

// watch prints one watch until it ends. print lets several watches take turns.
func (a *app) watch(ctx context.Context, c *clientv3.Client, j watchJob, turn *sync.Mutex) error {
	for resp := range c.Watch(clientv3.WithRequireLeader(ctx), j.key, j.opts...) {
		if err := a.printWatch(&resp, turn); err != nil {
			return err
		}
		if len(j.exec) == 0 {
			continue
		}
		for _, ev := range resp.Events {
			if err := a.runFor(ctx, j.exec, resp.Header.GetRevision(), ev); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) printWatch(resp *clientv3.WatchResponse, turn *sync.Mutex) error {
	turn.Lock()
	defer turn.Unlock()
	if resp.Canceled {
		fmt.Fprintf(a.err, "watch was canceled (%v)\n", resp.Err())
	}
	if resp.IsProgressNotify() {
		fmt.Fprintf(a.out, "progress notify: %d\n", resp.Header.GetRevision())
	}
	return a.print.keys.watch(resp)
}

// runFor runs the command of a watch for one event, which it finds in its environment.
func (a *app) runFor(ctx context.Context, command []string, rev int64, ev *clientv3.Event) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(),
		fmt.Sprintf("ETCD_WATCH_REVISION=%d", rev),
		fmt.Sprintf("ETCD_WATCH_EVENT_TYPE=%q", ev.GetType()),
		fmt.Sprintf("ETCD_WATCH_KEY=%q", ev.GetKv().GetKey()),
		fmt.Sprintf("ETCD_WATCH_VALUE=%q", ev.GetKv().GetValue()),
	)
	cmd.Stdout, cmd.Stderr = a.out, a.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("command %q error (%w)", command, err)
	}
	return nil
}

// watchInteractively reads commands until the input ends, which is an error as in etcdctl. A
// line that cannot be understood is reported and left out.
func (a *app) watchInteractively(ctx context.Context, c *clientv3.Client, env []string) error {
	ctx, cancel := context.WithCancel(ctx)
	var turn sync.Mutex
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	in := bufio.NewReader(a.in)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return exitcode.With(exitInvalidInput, fmt.Errorf("error reading watch request line: %w", err))
		}
		line = strings.TrimSpace(line)
		words, err := splitWords(line)
		switch {
		case err == nil && len(words) == 1 && words[0] == "progress":
			if err := c.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
				return err
			}
		case err == nil && len(words) > 0 && words[0] == "watch":
			j, err := parseWatch(words[1:], env)
			if err != nil {
				fmt.Fprintf(a.err, "Invalid command %s (%v)\n", line, err)
				continue
			}
			running.Go(func() {
				if err := a.watch(ctx, c, j, &turn); err != nil {
					fmt.Fprintln(a.err, err)
				}
			})
		default:
			fmt.Fprintf(a.err, "Invalid command: %s (watch and progress supported)\n", line)
		}
	}
}

func parseWatch(words, env []string) (watchJob, error) {
	var f watchFlags
	fs := pflag.NewFlagSet("watch", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	f.bind(fs)
	var command []string
	if i := slices.Index(words, "--"); i >= 0 {
		words, command = words[:i], words[i+1:]
	}
	if err := fs.Parse(words); err != nil {
		return watchJob{}, err
	}
	keys, err := watchKeys(env, fs.Args())
	if err != nil {
		return watchJob{}, err
	}
	return f.job(keys, command)
}
